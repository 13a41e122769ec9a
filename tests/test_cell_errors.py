"""What cells of the catalogue say of sizes and settings that do not fit."""

import re
from typing import Any

import pytest
from cell_checks import cell_of

from noria.cells.catalogue import catalogue, class_of

#: Keys, settings of the cell, and a part of the message; sizes are 3 and 4 if none are given.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mgu", {"variant": 4}, "MGUCell: variant is 4; expected one of 0, 1, 2, 3."),
    ("leaky_rnn", {"rate": 0}, "LeakyRNNCell(rate=0): expected a number in (0, 1]."),
    ("scrn", {"alpha": 1}, "SCRNCell(alpha=1): expected a number in [0, 1)."),
    ("ligru", {"norm": "batch"}, "norm is 'batch'; expected one of 'none', 'layer'."),
    ("fast_grnn", {"w_rank": -1}, "(w_rank=-1): expected 0 or a rank of at least 1."),
    ("mut", {"variant": 0}, "MUTCell: variant is 0; expected one of 1, 2, 3."),
    ("mut", {"project": False}, "MUTCell(in_size=3, hidden_size=4, project=False): expected equal"),
    ("intersection_rnn", {"project": False}, "project=False): expected equal sizes, or project="),
    ("miru", {"variant": 3}, "MiRUCell: variant is 3; expected one of 1, 2."),
    ("lstm_variant", {"variant": "nothing"}, "LSTMVariantCell: variant is 'nothing'; expected"),
    ("res_lstm", {"project": False}, "project=False; expected in_size equal to hidden_size."),
    ("on_lstm", {"chunk_size": 3}, "expected hidden_size to be a multiple of chunk_size."),
    ("mass_conserving_lstm", {"mass_size": 4}, "expected in_size of at least mass_size."),
    ("ornn", {"reflections": 5}, "reflections is 5; expected at most hidden_size=4."),
    ("lipschitz_rnn", {"solver": "rk4"}, "solver is 'rk4'; expected one of 'euler', 'midpoint'."),
    ("esn", {"leak": 0}, "ESNCell(leak=0): expected a number above 0, at most 1."),
    ("ctrnn", {"form": "spike"}, "form is 'spike'; expected one of 'rate', 'current'."),
    ("ctrnn", {"unfolds": 0}, "CTRNNCell(unfolds=0): expected at least 1."),
    ("cfc", {"mode": "gate"}, "mode is 'gate'; expected one of 'default', 'no_gate', 'pure'."),
    ("qrnn", {"pooling": "i"}, "pooling is 'i'; expected one of 'f', 'fo', 'ifo'."),
    ("lmu", {"theta": 0}, "LMUCell(theta=0): expected a number of steps above 0."),
    ("parallel_lmu", {"theta": 0}, "ParallelLMUCell(theta=0): expected a number of steps above 0."),
    ("lif", {"threshold": 0}, "LIFCell(threshold=0): expected a number above 0."),
    ("lif", {"surrogate": "step"}, "LIFCell: surrogate is 'step'; expected one of "),
    ("lif", {"reset": "half"}, "reset is 'half'; expected one of 'subtract', 'zero', 'none'."),
    ("rleaky", {"recurrent": "no"}, "recurrent is 'no'; expected one of 'dense', 'diagonal'."),
    ("rsynaptic", {"recurrent": "no"}, "recurrent is 'no'; expected one of 'dense', 'diagonal'."),
    ("alpha", {"reset": "subtract"}, "reset is 'subtract'; expected one of 'zero', 'none'."),
    ("spiking_lstm", {"reset": "half"}, "reset is 'half'; expected one of 'none', 'subtract'"),
    ("adlif", {"scheme": "rk4"}, "scheme is 'rk4'; expected one of 'symplectic', 'euler'."),
    ("ltc", {"unfolds": 0}, "LTCCell(unfolds=0): expected at least 1."),
    ("s4d", {"kind": "legs"}, "S4DCell: kind is 'legs'; expected one of 'lin', 'inv', 'real'."),
    ("s4d", {"method": "euler"}, "S4DCell: method is 'euler'; expected one of 'zoh', 'bilinear'."),
    ("s5", {"method": "euler"}, "S5Cell: method is 'euler'; expected one of 'zoh', 'bilinear'."),
    ("linoss", {"scheme": "ex"}, "scheme is 'ex'; expected one of 'im', 'imex'."),
    ("rotrnn", {"state_size": 3}, "expected a state_size that 2 * heads divides."),
    ("hippo", {"measure": "lagt"}, "measure is 'lagt'; expected one of 'legs', 'legt'."),
    ("ema", {"form": "mean"}, "form is 'mean'; expected one of 'average', 'sum'."),
    ("bilinear_rnn", {"form": "full"}, "BilinearRNNCell: form is 'full'; expected one of 'dense'"),
    (
        "bilinear_rnn",
        {"form": "rotation", "hidden_size": 3},
        "BilinearRNNCell(hidden_size=3, form='rotation'): expected an even hidden_size.",
    ),
    ("gla", {"heads": 3}, "GLACell(hidden_size=4, heads=3): expected heads to divide hidden_size."),
    ("fast_weight", {"nu": 0}, "FastWeightCell(nu=0): expected at least 1."),
    ("retnet", {"key_size": 3}, "(key_size=3): expected an even size, or rotary=False."),
    ("hgrn2", {"lower_bound": 1}, "(lower_bound=1): expected a number from 0 to below 1."),
    ("mlstm", {"forget": "tanh"}, "forget is 'tanh'; expected one of 'sigmoid', 'exp'."),
    ("slstm", {"forget": "tanh"}, "forget is 'tanh'; expected one of 'sigmoid', 'exp'."),
    ("gru_d", {"in_shape": 4}, "in_size is 4; expected a multiple of 3: values, masks and time"),
    ("block_gru", {"blocks": 3}, "hidden_size is 4; expected a multiple of blocks."),
    ("ea_lstm", {"static_size": 3}, "static_size is 3; expected less than in_size: x is the dyn"),
    ("mogrifier_lstm", {"rank": -1}, "(rank=-1): expected 0 or a rank of at least 1."),
    ("stack_rnn", {"top_size": 9, "depth": 8}, "top_size is 9; expected at most depth=8."),
    ("mist", {"longest": 3, "delays": 4}, "expected at least 2 ** (delays - 1) = 8."),
    ("kru", {"factors": 3}, "hidden_size is 4; expected factor_size ** factors = 8."),
    ("nnrnn", {"hidden_size": 5}, "hidden_size is 5; expected an even number."),
    ("eunn", {"hidden_size": 2}, "hidden_size is 2; expected at least 3."),
    ("rkn", {"hidden_size": 5}, "hidden_size is 5; expected an even number: means of ob"),
    ("traj_gru", {"padding": "valid"}, "padding='valid'; expected in_shape=(rows, columns, "),
]

#: Cells whose messages are compared in `test_latent_cells`.
ELSEWHERE = {"attending_fast_weights", "mamba3", "event_ssm", "rssm", "srwm", "lapicque", "glif"}


@pytest.mark.parametrize(
    ("key", "settings", "message"), WRONG, ids=[f"{key}-{'-'.join(s)}" for key, s, _ in WRONG]
)
def test_a_setting_that_does_not_fit_is_named(key, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cell_of(class_of(catalogue()[key]), **settings)


def test_each_cell_with_a_check_of_its_own_is_here():
    checked = {k for k, e in catalogue().items() if "__check_init__" in vars(class_of(e))}
    assert checked - ELSEWHERE <= {key for key, _, _ in WRONG}
