"""Write frozen arrays of the catalogue's cells from libraries and from code of the authors.

    python scripts/make_cell_golden.py FOLDER            # all cases
    python scripts/make_cell_golden.py FOLDER of_keras   # those of some functions; others stay

writes ``tests/golden/cells.npz``; ``tests/test_cell_golden.py`` reads it and needs no library. The
stored file was made with torch 2.13.0, torchrecurrent 0.2.5, ncps 1.0.1, reservoirpy 0.4.2, sru
2.6.0, minGRU-pytorch 0.2.1, recurrentgemma 1.0.1, onnx 1.23.2, memax 0.1.1, braintrace 0.2.6 with
brainstate 0.5.4, torchdiffeq 0.2.5, xlstm 2.0.6, flash-linear-attention with fla-core 0.6.0,
transformers 5.24.0, keras 3.15.1 on torch, and, on TensorFlow 2.21.0, keras-lmu 0.9.0 with keras
3.15.1 and tensorflow-addons 0.23.0 with tf_keras 2.21.0. ``FOLDER`` has the repositories of
`COMMITS`, each at its commit.

Each case is one sequence without a batch. Its entry in the file is one record with the fields
``xs`` and, where a cell takes it, ``dt``; ``start.<state>``, ``ys`` and ``final.<state>``; and the
parameters by the names of Noria. A float of the input is a multiple of 1 / 64, so that it is the
same number in each dtype. The entry ``cases`` is JSON: the key of the cell, its settings, and the
library of each case. `DISAGREES` lists what these libraries and the catalogue compute differently.
"""

import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}

import numpy as np
import torch

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden" / "cells.npz"
IN, HIDDEN, TIME = 3, 4, 5

Arrays = dict[str, np.ndarray]
Draw = Callable[..., np.ndarray]

#: Repositories on GitHub, with the commits whose code is run.
COMMITS = {
    "tk-rusch/LEM": "833da6b338a12c976e45db9061d6bcdccbfa4a5c",
    "tk-rusch/coRNN": "afd81744d108a2d623761b635b4ba56770d9e05d",
    "yikangshen/Ordered-Neurons": "46d63cde024802eaf1eb7cc896431329014dd869",
    "ml-jku/mc-lstm": "8bbaece3ecb4187a76c6318d4c6e40c1dcc71303",
    "Lezcano/expRNN": "830ec836521d0c295436dcafc3f0b3deea36c83c",
    "erichson/LipschitzRNN": "df6552e89fb9aacd086a93dadca624d2ce62ace3",
    "minhtannguyen/MomentumRNN": "f185c5432a52533bb1625e2162ec044651e07d9a",
    "IDSIA/rtrl-elstm": "b56cade7dd04a0a69718fd53603994f51a5282d5",
    "salesforce/pytorch-qrnn": "1634991a8270060d48128a0af5ffd1f75db3ae08",
    "DurstewitzLab/dendPLRNN": "368ed0488bdc93464c242bb01f0be224e149e387",
    "thuml/predrnn-pytorch": "49d3b0f3a2757ad9c299716ec455a96868455d67",
    "vincent-leguen/PhyDNet": "23a992d771c9eb1d32f52b1873a3c5625f1a8413",
    "state-spaces/mamba": "e9594ce1c732d97440f0332fdc43170a2294dbfa",
    "open-lm-engine/accelerated-model-architectures": "384ed0a7bd82ced1f40609603dd541cac5416844",
}

#: Cell, library, what differs, and which of both follows which equation.
DISAGREES = [
    (
        "lem",
        "torchrecurrent 0.2.5",
        "y' is computed from z, not from z'.",
        "Noria: z_n is in y_n in arXiv 2110.04744 and in tk-rusch/LEM, which has a case.",
    ),
    (
        "nas",
        "torchrecurrent 0.2.5",
        "x4 and h4 are added, not multiplied.",
        "Noria: Google's NASCell in TensorFlow Addons multiplies them, and has a case.",
    ),
    (
        "scrn",
        "torchrecurrent 0.2.5",
        "The output tanh(U h' + V s') goes back into the hidden layer, not h'.",
        "Noria: arXiv 1412.7753 has R h. The case takes h' from the output.",
    ),
    (
        "sgu",
        "torchrecurrent 0.2.5",
        "The hard sigmoid has a slope of 1/6, as PyTorch's.",
        "Noria: it is 0.2 in Theano, Keras and Chainer of 2016. The cases pass such a gate.",
    ),
    (
        "fast_grnn",
        "torchrecurrent 0.2.5",
        "The gate is a tanh by default.",
        "Noria: arXiv 1901.02358 has a sigmoid. The case passes one.",
    ),
    (
        "res_lstm",
        "torchrecurrent 0.2.5",
        "The weights from the memory to the output gate are diagonal.",
        "Noria has the more general form. The case has a diagonal P_o.",
    ),
    (
        "recurrent_highway",
        "torchrecurrent 0.2.5",
        "Its file cannot be imported, and the package does not export the cell.",
        "The formula is the same. The cases supply what the file does not find.",
    ),
    (
        "min_lstm",
        "minGRU-pytorch 0.2.1",
        "A given state h counts as g(h), h + 0.5 for h >= 0, in a sequence; not in a single step.",
        "Noria: g is for candidates. The case starts from no state.",
    ),
    (
        "min_gru",
        "braintrace 0.2.6",
        "MiniGRU gives the state to its gate.",
        "Noria: arXiv 2410.01201 gives it the input alone. The case has zeros there.",
    ),
    (
        "min_lstm",
        "braintrace 0.2.6",
        "MiniLSTM gives the state to its gates, and does not scale them to the sum 1.",
        "Noria: arXiv 2410.01201 does neither. There is no case.",
    ),
    (
        "minimal_rnn",
        "braintrace 0.2.6",
        "The latent z is linear in the input by default.",
        "Both: arXiv 1711.06788 allows any function. The case passes a layer with tanh.",
    ),
    (
        "layer_norm_lstm",
        "tensorflow-addons 0.23.0",
        "The normalised memory goes to the next step.",
        "Noria: arXiv 1607.06450 normalises it for the output only. The case is one step.",
    ),
    (
        "lmu",
        "keras-lmu 0.9.0",
        "Three of the six connections are absent by default.",
        "Noria: the paper has all. The case turns them on.",
    ),
    (
        "sru",
        "sru 2.6.0",
        "The factor alpha is in the initial values of P, and not before P x.",
        "Both: a factor of P. The case with P has alpha = 1.",
    ),
    (
        "rg_lru",
        "recurrentgemma 1.0.1",
        "The first input of a sequence is not scaled by the square root.",
        "Noria: eq. 4 of arXiv 2402.19427. The case counts positions from 1.",
    ),
    (
        "lru",
        "memax 0.1.1",
        "D is diagonal, and the logarithm of gamma itself is trained.",
        "Both: D is a matrix in the equations of arXiv 2303.06349. The case converts them.",
    ),
    (
        "mlstm",
        "xlstm 2.0.6",
        "Gates are computed from q, k and v, and the denominator has 1e-6 in addition.",
        "Noria: eqs. 25 and 26 of arXiv 2405.04517. The case is the step behind the gates.",
    ),
    (
        "gla",
        "flash-linear-attention 0.6.0",
        "The query is divided by sqrt(key); so it is for most of its memories.",
        "Noria: arXiv 2312.06635 has no factor. The cases undo it.",
    ),
    (
        "deltaproduct",
        "flash-linear-attention 0.6.0",
        "The step sizes are not doubled by default.",
        "Noria: arXiv 2502.10297 has them from 0 to 2. The case passes such numbers.",
    ),
    (
        "plrnn",
        "DurstewitzLab/dendPLRNN",
        "The code of variational inference has a leaky ReLU of slope 0.18, also for dend_plrnn.",
        "Noria: arXiv 2207.02542 and the other code there have a ReLU. The cases set one.",
    ),
    (
        "mass_conserving_lstm",
        "ml-jku/mc-lstm",
        "The memory is divided by its sum, not by the sum of absolute values.",
        "Both: they are equal for masses that are not negative, as in the case.",
    ),
    (
        "momentum_lstm",
        "minhtannguyen/MomentumRNN",
        "A second bias is added to U h.",
        "Both: the bias is a column of W in arXiv 2006.06919. The case has zeros there.",
    ),
    (
        "qrnn",
        "salesforce/pytorch-qrnn",
        "The gate f is the share of the new value.",
        "Noria: eq. 3 of arXiv 1611.01576 has f for the old one. The case changes the signs of f.",
    ),
    (
        "exprnn",
        "Lezcano/expRNN",
        "Rows are multiplied, so that A is the transpose; also for scornn.",
        "Both: A is any skew-symmetric matrix. The cases change its sign.",
    ),
    (
        "conv_lstm",
        "keras 3.15.1",
        "There are no peepholes.",
        "Noria: arXiv 1506.04214 has them. The cases are without.",
    ),
    (
        "st_lstm",
        "thuml/predrnn-pytorch",
        "There are no biases, and 1 is added to the forget gates.",
        "Both: arXiv 2103.09504 has biases. The case has 1 in those of the forget gates, else 0.",
    ),
    (
        "phy_cell",
        "vincent-leguen/PhyDNet",
        "A group norm is between the filters and the coefficients.",
        "Noria: arXiv 2003.01460 has none. The case leaves it out.",
    ),
    (
        "mamba3",
        "state-spaces/mamba",
        "A is bounded, and comes from another function; the case is what follows A.",
        "Noria: a softplus, as in flash-linear-attention.",
    ),
    (
        "mesanet",
        "flash-linear-attention 0.6.0",
        "Its step overwrites q and beta in the conjugate gradient loop.",
        "Noria: arXiv 2506.05233. The case is the exact solution, which is there, too.",
    ),
]

MADE: dict[str, tuple[dict[str, Any], Arrays]] = {}
SOURCES = Path()


# --- One case -------------------------------------------------------------------------------------


def case(key: str, library: str, run: Callable[[Draw], Arrays], **settings: Any) -> None:
    """Run one case; its name is the key, the library, and the settings."""
    parts = [key, library.rpartition("/")[2], *map(str, settings.values())]
    name = "-".join(parts)
    rng = np.random.default_rng(list(name.encode()))

    def draw(*shape: int) -> np.ndarray:
        return rng.integers(-64, 65, shape) / 64

    found = {name: np.asarray(array) for name, array in run(draw).items()}
    found = {n: a if np.iscomplexobj(a) else a.astype(np.float64) for n, a in found.items()}
    version = COMMITS[library][:7] if "/" in library else importlib.metadata.version(library)
    about = {"key": key, "settings": settings, "library": f"{library} {version}"}
    MADE[name] = (about, found)


def parts(array: Any, count: int) -> list[np.ndarray]:
    """Equal parts along the first axis."""
    return np.split(np.asarray(array), count)


def put(target: torch.Tensor, value: Any) -> None:
    """Set a parameter."""
    with torch.no_grad():
        target.copy_(torch.as_tensor(np.asarray(value)).reshape(target.shape))


def batch(*arrays: np.ndarray) -> list[torch.Tensor]:
    """Tensors with a batch of one."""
    return [torch.as_tensor(a)[None] for a in arrays]


def starts(states: str, arrays: Any) -> Arrays:
    return {f"start.{name}": a for name, a in zip(states.split(), arrays, strict=True)}


def finals(states: str, arrays: Any) -> Arrays:
    rows = [np.asarray(a.detach() if hasattr(a, "detach") else a).squeeze() for a in arrays]
    return {f"final.{name}": a for name, a in zip(states.split(), rows, strict=True)}


def stepped(step: Callable[..., Any], states: str, xs: np.ndarray, start: list[Any]) -> Arrays:
    """``(y, state) = step(x, state)`` for each x of a sequence."""
    state, ys = batch(*start), []
    for x in xs:
        y, state = step(*batch(x), state)
        ys.append(np.asarray(y.detach()).squeeze())
    return {"xs": xs, "ys": np.stack(ys)} | starts(states, start) | finals(states, state)


def named(lists: dict[str, str], arrays: dict[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """Parameters by the names of Noria, and the arrays with zeros where Noria has none.

    A list names the parts of an array along its first axis; parts of the same name are added, and
    0 is a part of zeros.
    """
    found: Arrays = {}
    for theirs, names in lists.items():
        pieces = parts(arrays[theirs], len(names.split()))
        for index, ours in enumerate(names.split()):
            if ours == "0":
                pieces[index] = 0 * pieces[index]
            else:
                found[ours] = found.get(ours, 0) + pieces[index]
        arrays[theirs] = np.concatenate(pieces)
    return found, arrays


# --- torchrecurrent -------------------------------------------------------------------------------

#: Key, class and states; then the parts of each array, and settings. ``W_fn`` is W_f and W_n, and 0
#: a part of zeros. The arrays ``ih`` and ``hh`` are the weights of these names, ``bih`` and ``bhh``
#: the biases, and ``b`` is both biases.
TORCHRECURRENT = """
mgu MGUCell h; ih W_fn; hh U_fn; b b_fn
janet JANETCell h; ih W_fc; hh U_fc; b b_fc
fast_rnn FastRNNCell h; ih W; hh U; b b; alpha alpha; beta beta
fast_grnn FastGRNNCell h; ih W; hh U; b b_zn; zeta zeta; nu nu
indrnn IndRNNCell h; ih W; vector_u u; b b; activation=relu
indrnn IndRNNCell h; ih W; vector_u u; b b; activation=tanh
antisymmetric_rnn AntisymmetricRNNCell h; ih V; hh W; b b; epsilon=0.125; gamma=0.25
antisymmetric_rnn GatedAntisymmetricRNNCell h; ih V_z V; hh W; bih b_z b; bhh b; epsilon=0.125; \
    gamma=0.25; gated=true
trnn TRNNCell h; ih W V; bih 0 b
ugrnn UGRNNCell h; ih W_cg; hh U_cg; b b_cg
minimal_rnn MinimalRNNCell h; ih W; hh U; weight_mm V; bih b_z; bhh b_u
light_ru LightRUCell h; ih W_nf; hh U_f; bih b_0f; bhh b_f
sgrn SGRNCell h; ih W; hh U; bih 0; bhh b
ligru LiGRUCell h; ih W_zc; hh U_zc; b b_zc
ran RANCell h c; ih W_cif; hh U_if; b b_if
atr ATRCell h; ih W; hh U; b 0
cfn CFNCell h; ih V_te W; hh U_te; bih b_te0; bhh b_te
star STARCell h; ih W_zx; hh W_h; bih b_zk; bhh b_k
brc BRCell h; ih U_ac U; hh w_ac; bih b_ac0; bhh b_ac; bias=true
nbrc NBRCell h; ih U_ac U; hh W_ac; bih b_ac0; bhh b_ac; bias=true
mut MUT1Cell h; ih W_zrn; hh U_rn; bih b_zr0; bhh b_rn; variant=1
mut MUT2Cell h; ih W_zrn; hh U_zrn; b b_zrn; variant=2
mut MUT3Cell h; ih W_zrn; hh U_zrn; b b_zrn; variant=3
intersection_rnn IntersectionRNNCell h; ih W_mndg; hh U_mndg; b b_mndg; project=false
miru MiRU1Cell h; ih W_rn; hh U_rn; b b_rn; variant=1; update=0.25
miru MiRU2Cell h; ih W_n; hh U_n; b b_n; variant=2; update=0.25; reset=0.75
tgru TGRUCell h p; ih W_zfo; hh V_zfo; b b_zfo
tlstm TLSTMCell c x_before; ih W_zfo; hh V_zfo; b b_zfo
lstm_1997 OriginalLSTMCell h c; ih W_ico; hh U_ico; b b_ico; squash_input=tanh; squash_output=tanh
peephole_lstm PeepholeLSTMCell h c; ih W_ifco; hh U_ifco; weight_ph p_ifo; b b_ifco
wmc_lstm WMCLSTMCell h c; ih W_ifgo; hh U_ifgo; weight_mh V_ifo; b b_ifgo; bias_mh 0 0 0
multiplicative_lstm MultiplicativeLSTMCell h c; ih W_mifho; hh U_m; weight_mh U_ifho; bih b_0ifho; \
    bhh 0; bias_mh b_ifho
memory_controller_lstm MCLSTMCell v c; ih W_fiomn; hh U_fiomn; b b_fiomn
unicornn UnICORNNCell y z; ih V; hh w; weight_ch c; bih b; dt=0.25; alpha=1.5
cornn coRNNCell y z; ih V; hh W; weight_ch W_z; b b; bias_ch b; dt=0.25; gamma=1.5; epsilon=2.0
sgu SGUCell h; ih W_xz; hh W_g U_z; bih b_xz; bhh b_0z
sgu DSGUCell h; ih W_xz; hh W_g U_z; weight_ho W_o; bih b_xz; bhh b_0z; deep=true
"""

_ARRAYS = {
    "ih": ["weight_ih"],
    "hh": ["weight_hh"],
    "bih": ["bias_ih"],
    "bhh": ["bias_hh"],
    "b": ["bias_ih", "bias_hh"],
}
#: Settings that torchrecurrent has, by its names.
_ARGUMENTS = {"activation": "nonlinearity", "update": "update_coefficient"}
_ARGUMENTS |= {"reset": "reset_coefficient"}
_ARGUMENTS |= {name: name for name in ("epsilon", "gamma", "dt", "alpha")}


def names_of(word: str) -> list[str]:
    """``["W_f", "W_n"]`` for ``"W_fn"``."""
    name, _, letters = word.partition("_")
    return ["0" if l == "0" else f"{name}_{l}" for l in letters] if letters else [name]


def recurrent(line: str) -> None:
    """A case of a row of the table."""
    import torchrecurrent  # type: ignore[import-not-found]

    first, *rest = line.split(";")
    key, cls, *states = first.split()
    lists: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for part in rest:
        name, is_setting, value = part.strip().partition("=")
        if is_setting:
            settings[name] = value if value in ("tanh", "relu") else json.loads(value)
            continue
        name, *words = part.split()
        for theirs in _ARRAYS.get(name, [name]):
            lists[theirs] = " ".join(ours for word in words for ours in names_of(word))
    given = {_ARGUMENTS[n]: value for n, value in settings.items() if n in _ARGUMENTS}
    given |= {"nonlinearity": "sigmoid"} if key == "fast_grnn" else {}
    given |= {"gate_nonlinearity": HardSigmoid()} if key == "sgu" else {}
    size = HIDDEN if key == "intersection_rnn" else IN

    def run(draw: Draw) -> Arrays:
        cell = getattr(torchrecurrent, cls)(size, HIDDEN, dtype=torch.float64, **given)
        theirs = {name: p for name, p in cell.named_parameters() if name in lists}
        found, arrays = named(lists, {name: draw(*p.shape) for name, p in theirs.items()})
        for name, p in theirs.items():
            put(p, arrays[name])
        for name in set(found) & {"alpha", "beta", "zeta", "nu"}:
            found[name] = found[name].reshape(())
        start = [draw(size if name in ("p", "x_before") else HIDDEN) for name in states]
        several = len(start) > 1 or key == "janet"

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            after = cell(x, (state[0], state[-1]) if several else state[0])
            if cls in ("MCLSTMCell", "TLSTMCell"):
                return after
            if cls == "IntersectionRNNCell":
                return after[0], [after[1]]
            return (after[0], list(after)[: len(start)]) if several else (after, [after])

        return found | stepped(step, " ".join(states), draw(TIME, size), start)

    case(key, "torchrecurrent", run, **settings)


class HardSigmoid(torch.nn.Module):
    """The hard sigmoid of Theano."""

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return torch.clamp(0.2 * a + 0.5, 0, 1)


def corrected_of_torchrecurrent() -> None:
    """Cells that differ in one place, and are computed without the difference."""
    import torchrecurrent

    def reslstm(draw: Draw) -> Arrays:
        """The peephole of its output gate is diagonal, in the paper a matrix."""
        cell = torchrecurrent.ResLSTMCell(IN, HIDDEN, dtype=torch.float64)
        arrays = {name: draw(*p.shape) for name, p in cell.named_parameters()}
        lists = {
            "weight_ih": "W_i W_f W_c W_o",
            "weight_hh": "U_i U_f U_c U_o",
            "bias_ih": "b_i b_f b_c b_o",
            "bias_hh": "b_i b_f b_c b_o",
            "weight_ph": "p_i p_f P_o",
            "weight_proj": "W_p",
            "weight_res": "W_h",
        }
        found, arrays = named(lists, arrays)
        for name, p in cell.named_parameters():
            put(p, arrays[name])
        found["P_o"] = np.diag(found["P_o"])
        start = [draw(HIDDEN), draw(HIDDEN)]

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            after = cell(x, tuple(state))
            return after[0], after

        return found | stepped(step, "h c", draw(TIME, IN), start)

    case("res_lstm", "torchrecurrent", reslstm)

    def scrn(draw: Draw) -> Arrays:
        """With U = 1 and V = 0 the hidden layer is the artanh of the output."""
        cell = torchrecurrent.SCRNCell(IN, HIDDEN, dtype=torch.float64, alpha=0.75)
        found = {name: draw(HIDDEN, IN if name in "AB" else HIDDEN) for name in "BAPR"}
        zero = np.zeros((HIDDEN, HIDDEN))
        put(cell.weight_ih, np.concatenate([found["B"], found["A"]]))
        put(cell.weight_hh, np.concatenate([found["R"], np.eye(HIDDEN)]))
        put(cell.weight_ch, np.concatenate([found["P"], zero]))
        for bias in (cell.bias_ih, cell.bias_hh, cell.bias_ch):
            put(bias, np.zeros(2 * HIDDEN))

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            y, s = cell(x, tuple(state))
            h = torch.atanh(y)
            return torch.cat([h, s], -1), [h, s]

        return found | stepped(step, "h s", draw(TIME, IN), [draw(HIDDEN), draw(HIDDEN)])

    def highway(coupled: bool) -> Callable[[Draw], Arrays]:
        """The package has the file, but cannot import it: two functions are not there."""
        torchrecurrent.base.BaseRecurrentLayer = torch.nn.Module
        from torchrecurrent.cells import rhn_cell  # type: ignore[import-not-found]

        def run(draw: Draw) -> Arrays:
            rhn_cell.RHNCellUnit.init_weights = lambda self: None
            cell = rhn_cell.RHNCell(IN, HIDDEN, depth=3, couple_carry=coupled).double()
            letters = "HT" if coupled else "HTC"
            found = {f"W_{g}": draw(HIDDEN, IN) for g in "HTC"}
            found |= {f"R_{g}": draw(3, HIDDEN, HIDDEN) for g in "HTC"}
            found |= {f"b_{g}": draw(3, HIDDEN) for g in "HTC"}
            for layer, unit in enumerate(cell.units):
                rows = [found[f"R_{g}"][layer] for g in "HTC"]
                if layer == 0:
                    columns = [found[f"W_{g}"] for g in "HTC"]
                    rows = [np.concatenate(pair, 1) for pair in zip(columns, rows, strict=True)]
                put(unit.weight, np.concatenate(rows))
                put(unit.bias, np.concatenate([found[f"b_{g}"][layer] for g in "HTC"]))
            found = {name: a for name, a in found.items() if name[-1] in letters}

            def step(x: torch.Tensor, state: list[Any]) -> Any:
                s = cell(x, state[0])
                return s, [s]

            return found | stepped(step, "s", draw(TIME, IN), [draw(HIDDEN)])

        return run

    for coupled in (True, False):
        case("recurrent_highway", "torchrecurrent", highway(coupled), coupled=coupled)
    case("scrn", "torchrecurrent", scrn, alpha=0.75, context_size=HIDDEN)


# --- Other libraries ------------------------------------------------------------------------------


def all_of_torch() -> None:
    def irnn(draw: Draw) -> Arrays:
        layer = torch.nn.RNN(IN, HIDDEN, nonlinearity="relu", dtype=torch.float64)
        lists = {"weight_ih_l0": "W", "weight_hh_l0": "U", "bias_ih_l0": "b", "bias_hh_l0": "b"}
        return whole(layer, lists, "h", draw, [HIDDEN])

    def lstmp(draw: Draw) -> Arrays:
        layer = torch.nn.LSTM(IN, HIDDEN, proj_size=2, dtype=torch.float64)
        lists = {
            "weight_ih_l0": "W_i W_f W_c W_o",
            "weight_hh_l0": "U_i U_f U_c U_o",
            "weight_hr_l0": "W_r",
            "bias_ih_l0": "b_i b_f b_c b_o",
            "bias_hh_l0": "b_i b_f b_c b_o",
        }
        return whole(layer, lists, "r c", draw, [2, HIDDEN])

    def no_peepholes(draw: Draw) -> Arrays:
        layer = torch.nn.LSTM(IN, HIDDEN, dtype=torch.float64)
        lists = {
            "weight_ih_l0": "W_i W_f W_z W_o",
            "weight_hh_l0": "R_i R_f R_z R_o",
            "bias_ih_l0": "b_i b_f b_z b_o",
            "bias_hh_l0": "b_i b_f b_z b_o",
        }
        unused = np.zeros(3 * HIDDEN)
        found = whole(layer, lists, "y c", draw, [HIDDEN, HIDDEN])
        return found | {"start.g": unused, "final.g": unused}

    def whole(layer: Any, lists: Any, states: str, draw: Draw, sizes: list[int]) -> Arrays:
        arrays = {name: draw(*p.shape) for name, p in layer.named_parameters()}
        found, arrays = named(lists, arrays)
        for name, p in layer.named_parameters():
            put(p, arrays[name])
        xs, start = draw(TIME, IN), [draw(size) for size in sizes]
        given = batch(*start)
        ys, after = layer(torch.as_tensor(xs), tuple(given) if len(given) > 1 else given[0])
        after = after if len(given) > 1 else [after]
        found |= starts(states, start) | finals(states, after)
        return found | {"xs": xs, "ys": ys.detach()}

    case("irnn", "torch", irnn)
    case("lstmp", "torch", lstmp, projection_size=2, peepholes=False)
    case("lstm_variant", "torch", no_peepholes, variant="np")


def of_onnx() -> None:
    """The reference implementation of the operator LSTM, gates i, o, f, c."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    def run(recurrent: str, candidate: str, output: str) -> Callable[[Draw], Arrays]:
        def arrays(draw: Draw) -> Arrays:
            order = f"iof{candidate}"
            found: Arrays = {f"W_{g}": draw(HIDDEN, IN) for g in order}
            found |= {f"{recurrent}_{g}": draw(HIDDEN, HIDDEN) for g in order}
            found |= {f"p_{g}": draw(HIDDEN) for g in "iof"}
            found |= {f"b_{g}": draw(HIDDEN) for g in order}

            def stack(letter: str, gates: str) -> np.ndarray:
                return np.concatenate([found[f"{letter}_{g}"] for g in gates])[None]

            xs, h, c = draw(TIME, IN), draw(HIDDEN), draw(HIDDEN)
            names = ["x", "w", "r", "b", "", "h", "c", "p"]
            node = onnx.helper.make_node("LSTM", names, ["ys", "h1", "c1"], hidden_size=HIDDEN)
            values = [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None)
                for name in [*filter(None, names), "ys", "h1", "c1"]
            ]
            graph = onnx.helper.make_graph([node], "lstm", values[:7], values[7:])
            bias = np.concatenate([stack("b", order), np.zeros((1, 4 * HIDDEN))], 1)
            given = [
                xs[:, None],
                stack("W", order),
                stack(recurrent, order),
                bias,
                h[None, None],
                c[None, None],
                stack("p", "iof"),
            ]
            feed = dict(zip(filter(None, names), given, strict=True))
            model = onnx.helper.make_model(graph)
            ys, h1, c1 = ReferenceEvaluator(model).run(None, feed)
            states = f"{output} c"
            found |= starts(states, [h, c]) | finals(states, [h1, c1])
            if output == "y":
                found |= {"start.g": np.zeros(3 * HIDDEN), "final.g": np.zeros(3 * HIDDEN)}
            return found | {"xs": xs, "ys": ys[:, 0, 0]}

        return arrays

    case("peephole_lstm", "onnx", run("U", "c", "h"))
    case("lstm_variant", "onnx", run("R", "z", "y"))


def of_mingru() -> None:
    """All features have the size of the state, and there are no biases."""
    from minGRU_pytorch.minGRU import minGRU  # type: ignore[import-not-found]
    from minGRU_pytorch.minLSTM import minLSTM  # type: ignore[import-not-found]

    zero = np.zeros(HIDDEN)

    def gru(draw: Draw) -> Arrays:
        layer, xs = minGRU(HIDDEN).double(), draw(TIME, HIDDEN)
        found = {"W_n": draw(HIDDEN, HIDDEN), "W_z": draw(HIDDEN, HIDDEN)}
        put(layer.to_hidden_and_gate.weight, np.concatenate([*found.values()]))
        start = np.abs(draw(HIDDEN)) + 0.25
        ys, after = layer(*batch(xs), *batch(start[None]), return_next_prev_hidden=True)
        found |= {"b_n": zero, "b_z": zero, "xs": xs, "ys": ys[0].detach()}
        return found | starts("h", [start]) | finals("h", [after])

    def lstm(draw: Draw) -> Arrays:
        layer, xs = minLSTM(HIDDEN).double(), draw(TIME, HIDDEN)
        found = {name: draw(HIDDEN, HIDDEN) for name in ("W_n", "W_f", "W_i")}
        put(layer.to_hidden_and_f_i_gate.weight, np.concatenate([*found.values()]))
        ys, after = layer(*batch(xs), return_next_prev_hidden=True)
        found |= {"b_n": zero, "b_f": zero, "b_i": zero, "xs": xs, "ys": ys[0].detach()}
        return found | starts("h", [zero]) | finals("h", [after])

    case("min_gru", "minGRU-pytorch", gru, log_space=True)
    case("min_lstm", "minGRU-pytorch", lstm, log_space=True)


def of_ncps() -> None:
    from ncps.torch import CfCCell  # type: ignore[import-not-found]

    def run(mode: str) -> Callable[[Draw], Arrays]:
        def arrays(draw: Draw) -> Arrays:
            cell = CfCCell(IN, HIDDEN, mode=mode, backbone_units=5).double()
            found = {"W": draw(5, IN), "U": draw(5, HIDDEN), "b": draw(5)}
            put(cell.backbone[0].weight, np.concatenate([found["W"], found["U"]], 1))
            put(cell.backbone[0].bias, found["b"])
            heads = {"g": "ff1", "f": "ff2", "a": "time_a", "t": "time_b"}
            for letter, name in heads.items() if mode != "pure" else [("g", "ff1")]:
                found |= {f"W_{letter}": draw(HIDDEN, 5), f"b_{letter}": draw(HIDDEN)}
                put(getattr(cell, name).weight, found[f"W_{letter}"])
                put(getattr(cell, name).bias, found[f"b_{letter}"])
            if mode == "pure":
                found |= {"w": draw(HIDDEN), "A": draw(HIDDEN)}
                put(cell.w_tau, found["w"])
                put(cell.A, found["A"])
            times = iter(dt := np.abs(draw(TIME)) + 0.25)

            def step(x: torch.Tensor, state: list[Any]) -> Any:
                y, after = cell(x, state[0], float(next(times)))
                return y, [after]

            run = stepped(step, "h", draw(TIME, IN), [draw(HIDDEN)])
            return found | run | {"dt": dt}

        return arrays

    for mode in ("default", "no_gate", "pure"):
        case("cfc", "ncps", run(mode), mode=mode, units=5)


def of_reservoirpy() -> None:
    from reservoirpy.nodes import Reservoir  # type: ignore[import-not-found]

    def run(draw: Draw) -> Arrays:
        found = {"W": draw(HIDDEN, IN), "U": draw(HIDDEN, HIDDEN), "b": draw(HIDDEN)}
        xs, start = draw(TIME, IN), draw(HIDDEN)
        node = Reservoir(W=found["U"], Win=found["W"], bias=found["b"], lr=0.25)
        node.initialize(xs)
        node.state = {"out": start}
        ys = node.run(xs)
        found |= {"xs": xs, "ys": ys}
        return found | starts("h", [start]) | finals("h", [ys[-1]])

    case("leaky_rnn", "reservoirpy", run, rate=0.25)
    case("esn", "reservoirpy", run, radius=1.0, leak=0.25)


def of_sru() -> None:
    from sru import SRUCell  # type: ignore[import-not-found]

    def run(size: int, peephole: bool) -> Callable[[Draw], Arrays]:
        def arrays(draw: Draw) -> Arrays:
            cell = SRUCell(size, HIDDEN, v1=not peephole).double()
            names = ["W", "W_f", "W_r", *(["P"] if size != HIDDEN else [])]
            found = {name: draw(HIDDEN, size) for name in names}
            put(cell.weight, np.stack([found[name].T for name in names], -1))
            found |= {"b_f": draw(HIDDEN), "b_r": draw(HIDDEN)}
            put(cell.bias, np.concatenate([found["b_f"], found["b_r"]]))
            if peephole:
                found |= {"v_f": draw(HIDDEN), "v_r": draw(HIDDEN)}
                put(cell.weight_c, np.concatenate([found["v_f"], found["v_r"]]))
            cell.scale_x.fill_(1.5)
            xs, start = draw(TIME, size), draw(HIDDEN)
            with torch.enable_grad():  # else float32
                ys, after = cell(torch.as_tensor(xs)[:, None], *batch(start))
            found |= {"xs": xs, "ys": ys[:, 0].detach()}
            return found | starts("c", [start]) | finals("c", [after])

        return arrays

    # The library scales x, but no projection of it.
    case("sru", "sru", run(IN, True), alpha=1.0)
    case("sru", "sru", run(HIDDEN, True), alpha=1.5)
    case("sru", "sru", run(HIDDEN, False), alpha=1.5, peephole=False)


def of_recurrentgemma() -> None:
    """The state is added up in float32."""
    from recurrentgemma.torch.layers import RGLRU  # type: ignore[import-not-found]

    def run(draw: Draw) -> Arrays:
        layer = RGLRU(HIDDEN, 2, dtype=torch.float64)
        found: Arrays = {}
        for letter, gate in (("a", layer.a_gate), ("x", layer.input_gate)):
            found |= {f"W_{letter}": draw(2, 2, 2), f"b_{letter}": draw(HIDDEN)}
            put(gate.w, found[f"W_{letter}"].transpose(0, 2, 1))
            put(gate.b, found[f"b_{letter}"])
        found["Lambda"] = draw(HIDDEN)
        put(layer.a_param, -found["Lambda"])
        xs, start = draw(TIME, HIDDEN), draw(HIDDEN)
        positions = torch.arange(1, TIME + 1)[None]
        ys, after = layer(*batch(xs), positions, *[h.float() for h in batch(start)])
        found |= {"xs": xs, "ys": ys[0].detach()}
        return found | starts("h", [start]) | finals("h", [after])

    case("rg_lru", "recurrentgemma", run, heads=2)


def of_keras_lmu() -> None:
    import keras
    import tensorflow as tf  # type: ignore[import-untyped]
    from keras_lmu import LMUCell  # type: ignore[import-not-found]

    def run(draw: Draw) -> Arrays:
        hidden = keras.layers.SimpleRNNCell(HIDDEN, use_bias=False, dtype="float64")
        connections = ("hidden_to_memory", "memory_to_memory", "input_to_hidden")
        cell = LMUCell(1, 6, 4.0, hidden, dtype="float64", **dict.fromkeys(connections, True))
        cell.build((1, IN))
        found = {"e_x": draw(IN), "e_h": draw(HIDDEN), "e_m": draw(6)}
        found |= {"W_m": draw(HIDDEN, 6), "W_x": draw(HIDDEN, IN), "W_h": draw(HIDDEN, HIDDEN)}
        cell.kernel.assign(np.concatenate([found["e_x"], found["e_h"]])[:, None])
        cell.recurrent_kernel.assign(found["e_m"][:, None])
        hidden.kernel.assign(np.concatenate([found["W_m"], found["W_x"]], 1).T)
        hidden.recurrent_kernel.assign(found["W_h"].T)
        xs, start, ys = draw(TIME, IN), [draw(HIDDEN), draw(6)], []
        state = [tf.constant(start[1][None]), tf.constant(start[0][None])]
        for x in xs:
            y, state = cell(tf.constant(x[None]), state)
            ys.append(np.asarray(y)[0])
        found |= {"xs": xs, "ys": np.stack(ys)}
        return found | starts("h m", start) | finals("h m", [state[1], state[0]])

    case("lmu", "keras-lmu", run, order=6, theta=4.0)


def of_tensorflow_addons() -> None:
    import tensorflow as tf
    import tf_keras.src.engine  # type: ignore[import-not-found]

    sys.modules["keras.src.engine"] = tf_keras.src.engine  # it expects Keras 2 there
    import tensorflow_addons as tfa  # type: ignore[import-not-found]

    tf.keras.backend.set_floatx("float64")

    def steps(cell: Any, xs: np.ndarray, state: list[np.ndarray]) -> tuple[np.ndarray, Any]:
        """States in the order of the library."""
        now, ys = [tf.constant(s[None]) for s in state], []
        for x in xs:
            y, now = cell(tf.constant(x[None]), now)
            now = now if isinstance(now, list) else [now]
            ys.append(np.asarray(y)[0])
        return np.stack(ys), now

    def nas(draw: Draw) -> Arrays:
        cell = tfa.rnn.NASCell(HIDDEN, use_bias=True)
        cell.build(tf.TensorShape([1, IN]))
        found = {"W": draw(8 * HIDDEN, IN), "U": draw(8 * HIDDEN, HIDDEN), "b": draw(8 * HIDDEN)}
        cell.kernel.assign(found["W"].T)
        cell.recurrent_kernel.assign(found["U"].T)
        cell.bias.assign(found["b"])
        xs, h, c = draw(TIME, IN), draw(HIDDEN), draw(HIDDEN)
        ys, (c1, h1) = steps(cell, xs, [c, h])
        found |= {"xs": xs, "ys": ys}
        return found | starts("h c", [h, c]) | finals("h c", [h1, c1])

    def peephole(draw: Draw) -> Arrays:
        cell = tfa.rnn.PeepholeLSTMCell(HIDDEN)
        cell.build(tf.TensorShape([1, IN]))
        found = {f"W_{g}": draw(HIDDEN, IN) for g in "ifco"}
        found |= {f"U_{g}": draw(HIDDEN, HIDDEN) for g in "ifco"}
        found |= {f"b_{g}": draw(HIDDEN) for g in "ifco"}
        cell.kernel.assign(np.concatenate([found[f"W_{g}"] for g in "ifco"]).T)
        cell.recurrent_kernel.assign(np.concatenate([found[f"U_{g}"] for g in "ifco"]).T)
        cell.bias.assign(np.concatenate([found[f"b_{g}"] for g in "ifco"]))
        for g, name in (("i", "input"), ("f", "forget"), ("o", "output")):
            found[f"p_{g}"] = draw(HIDDEN)
            getattr(cell, f"{name}_gate_peephole_weights").assign(found[f"p_{g}"])
        xs, h, c = draw(TIME, IN), draw(HIDDEN), draw(HIDDEN)
        ys, (h1, c1) = steps(cell, xs, [h, c])
        found |= {"xs": xs, "ys": ys}
        return found | starts("h c", [h, c]) | finals("h c", [h1, c1])

    def layer_norm(draw: Draw) -> Arrays:
        """One step, after which the library has the normalised memory."""
        cell = tfa.rnn.LayerNormLSTMCell(HIDDEN, norm_epsilon=0.125)
        cell.build(tf.TensorShape([1, IN]))
        found = {"W": draw(4 * HIDDEN, IN), "U": draw(4 * HIDDEN, HIDDEN), "b": draw(4 * HIDDEN)}
        for letter, norm in zip(
            "xhc", (cell.kernel_norm, cell.recurrent_norm, cell.state_norm), strict=True
        ):
            size = HIDDEN if letter == "c" else 4 * HIDDEN
            found |= {f"alpha_{letter}": draw(size), f"beta_{letter}": draw(size)}
            norm.gamma.assign(found[f"alpha_{letter}"])
            norm.beta.assign(found[f"beta_{letter}"])
        order = [1, 0, 3, 2]  # i, f, g, o in the library, f, i, o, g in Noria

        def theirs(a: np.ndarray) -> np.ndarray:
            return np.concatenate([parts(a, 4)[n] for n in order])

        cell.kernel.assign(theirs(found["W"]).T)
        cell.recurrent_kernel.assign(theirs(found["U"]).T)
        cell.bias.assign(theirs(found["b"]))
        for letter, norm in (("x", cell.kernel_norm), ("h", cell.recurrent_norm)):
            norm.gamma.assign(theirs(found[f"alpha_{letter}"]))
            norm.beta.assign(theirs(found[f"beta_{letter}"]))
        xs, h, c = draw(1, IN), draw(HIDDEN), draw(HIDDEN)
        ys, (h1, _) = steps(cell, xs, [h, c])
        found |= {"xs": xs, "ys": ys}
        return found | starts("h c", [h, c]) | finals("h", [h1])

    def esn(draw: Draw) -> Arrays:
        cell = tfa.rnn.ESNCell(HIDDEN, leaky=0.25)
        cell.build(tf.TensorShape([1, IN]))
        found = {"W": draw(HIDDEN, IN), "U": draw(HIDDEN, HIDDEN), "b": draw(HIDDEN)}
        cell.kernel.assign(found["W"].T)
        cell.recurrent_kernel.assign(found["U"].T)
        cell.bias.assign(found["b"])
        xs, h = draw(TIME, IN), draw(HIDDEN)
        ys, (h1,) = steps(cell, xs, [h])
        found |= {"xs": xs, "ys": ys}
        return found | starts("h", [h]) | finals("h", [h1])

    case("nas", "tensorflow-addons", nas, bias=True)
    case("peephole_lstm", "tensorflow-addons", peephole)
    case("layer_norm_lstm", "tensorflow-addons", layer_norm, epsilon=0.125)
    case("esn", "tensorflow-addons", esn, radius=1.0, leak=0.25)


def of_memax_and_braintrace() -> None:
    import brainstate  # type: ignore[import-not-found]
    import braintrace  # type: ignore[import-not-found]
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from memax.equinox.set_actions import mgu as memax_mgu  # type: ignore[import-not-found]

    jax.config.update("jax_enable_x64", True)
    brainstate.environ.set(precision=64)

    def memax(draw: Draw) -> Arrays:
        cell = memax_mgu.MGUSetAction(HIDDEN, key=jax.random.key(0))
        found = {n: draw(HIDDEN, HIDDEN) for n in ("U_n", "U_f", "W_n", "W_f")}
        found |= {"b_n": draw(HIDDEN), "b_f": draw(HIDDEN)}
        cell = eqx.tree_at(
            lambda c: (
                c.U_h.weight,
                c.U_f.weight,
                c.W_h.weight,
                c.W_f.weight,
                c.W_h.bias,
                c.W_f.bias,
            ),
            cell,
            tuple(map(jnp.asarray, found.values())),
        )
        xs, start, ys = draw(TIME, HIDDEN), draw(HIDDEN), []
        h = jnp.asarray(start)
        for x in xs:
            h = cell(h, jnp.asarray(x))
            ys.append(np.asarray(h))
        found |= {"xs": xs, "ys": np.stack(ys)}
        return found | starts("h", [start]) | finals("h", [h])

    case("mgu", "memax", memax)

    def lru(draw: Draw) -> Arrays:
        """It multiplies in complex64, has a vector D, and trains the logarithm of gamma."""
        from memax.equinox.semigroups.lru import LRU  # type: ignore[import-not-found]

        layer = LRU(HIDDEN, HIDDEN, jax.random.key(0))
        found = {"nu_log": draw(HIDDEN), "theta_log": draw(HIDDEN), "gamma_log": draw(HIDDEN)}
        found |= {f"B_{part}": draw(HIDDEN, HIDDEN) for part in ("re", "im")}
        found |= {f"C_{part}": draw(HIDDEN, HIDDEN) for part in ("re", "im")}
        found["D"] = draw(HIDDEN)
        values = {name: jnp.asarray(a) for name, a in found.items()}
        shift = 0.5 * np.log(-np.expm1(-2 * np.exp(found["nu_log"])))
        values["gamma_log"] = values["gamma_log"] + shift
        for name, value in values.items():
            layer = eqx.tree_at(operator.attrgetter(name), layer, value)
        xs, start = draw(TIME, HIDDEN), draw(HIDDEN) + 1j * draw(HIDDEN)
        ys, h = [], (jnp.ones(HIDDEN, complex), jnp.asarray(start))
        for x in xs:
            given = (jnp.asarray(x), jnp.asarray(False))
            h = layer.algebra.algebra(h, layer.forward_map(given)[0])
            ys.append(np.asarray(layer.backward_map((h, given[1]), given)))
        found["D"] = np.diag(found["D"])
        found |= {"xs": xs, "ys": np.stack(ys)}
        return found | starts("h", [start]) | finals("h", [h[1]])

    case("lru", "memax", lru, state_size=HIDDEN)

    def trace(
        cls: str, states: str, layers: dict[str, str], extra: dict[str, str], **arguments: Any
    ) -> Callable[[Draw], Arrays]:
        """A layer has the letters of its matrices of x and h, and of its bias; 0 is zero."""

        def run(draw: Draw) -> Arrays:
            cell = getattr(braintrace.nn, cls)(IN, HIDDEN, **arguments)
            cell.init_state()
            found: Arrays = {}
            for layer, names in layers.items():
                *matrices, bias = names.split()
                linear = getattr(cell, layer)
                linear = getattr(linear, "linear", linear)
                size = linear.weight.value["weight"].shape[0]
                sizes = [size] if len(matrices) == 1 else [size - HIDDEN, HIDDEN]
                drawn = [draw(HIDDEN, n) * (m != "0") for n, m in zip(sizes, matrices, strict=True)]
                found |= {m: a for m, a in zip(matrices, drawn, strict=True) if m != "0"}
                value = {"weight": jnp.asarray(np.concatenate(drawn, 1).T)}
                if "bias" in linear.weight.value:
                    b = draw(HIDDEN) * (bias != "0")
                    value["bias"] = jnp.asarray(b)
                    found |= {bias: b} if bias != "0" else {}
                linear.weight.value = value
            for attribute, name in extra.items():
                found[name] = draw(HIDDEN)
                getattr(cell, attribute).value = jnp.asarray(found[name])
            xs, start, ys = draw(TIME, IN), [draw(HIDDEN) for _ in states.split()], []
            for name, array in zip(states.split(), start, strict=True):
                getattr(cell, name).value = jnp.asarray(array)
            for x in xs:
                ys.append(np.asarray(cell.update(jnp.asarray(x))))
            after = [getattr(cell, name).value for name in states.split()]
            found |= {"xs": xs, "ys": np.stack(ys)}
            return found | starts(states, start) | finals(states, after)

        return run

    case("mgu", "braintrace", trace("MGUCell", "h", {"Wf": "W_f U_f b_f", "Wh": "W_n U_n b_n"}, {}))
    layers = {"Wf": "V_t U_t b_t", "Wi": "V_e U_e b_e", "Wh": "W 0"}
    case("cfn", "braintrace", trace("CFNCell", "h", layers, {}, activation="tanh"))

    class Latent:
        """A layer with tanh."""

        def __init__(self) -> None:
            self.linear = braintrace.nn.Linear(IN, HIDDEN)

        def __call__(self, x: Any) -> Any:
            return jnp.tanh(self.linear(x))

    layers = {"phi": "W b_z", "W_u": "V U b_u"}
    case("minimal_rnn", "braintrace", trace("MinimalRNNCell", "h", layers, {}, phi=Latent()))
    layers = {"W_x": "W_n b_n", "W_z": "W_z 0 b_z"}
    case("min_gru", "braintrace", trace("MiniGRU", "h", layers, {}))

    def ur(draw: Draw) -> Arrays:
        layers = {f"W{g}": f"W_{g} U_{g} 0" for g in "ufro"}
        found = trace("URLSTMCell", "h c", layers, {"bias": "b_f"})(draw)
        return found | {"b_u": np.zeros(HIDDEN), "b_o": np.zeros(HIDDEN)}

    case("ur_lstm", "braintrace", ur)


# --- Matrices as memories -------------------------------------------------------------------------


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def softplus(a: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(a))


def silu(a: np.ndarray) -> np.ndarray:
    return a * sigmoid(a)


def unit(a: np.ndarray) -> np.ndarray:
    """Rows of the norm 1, as in flash-linear-attention."""
    return a / np.sqrt((a * a).sum(-1, keepdims=True) + 1e-6)


def of_xlstm() -> None:
    from xlstm.blocks.mlstm.backends import (  # type: ignore[import-not-found]
        recurrent_step_stabilized_simple,
    )
    from xlstm.blocks.slstm.src.vanilla import (  # type: ignore[import-not-found]
        slstm_forward,
        slstm_pointwise_function_registry,
    )

    def mlstm(draw: Draw) -> Arrays:
        """The step of the memory; projections are computed here, and the output gate is 1."""
        found = {f"W_{g}": draw(HIDDEN, IN) for g in "qkv"}
        found |= {f"b_{g}": draw(HIDDEN) for g in "qkv"}
        found |= {f"W_{g}": draw(2, IN) for g in "if"} | {f"b_{g}": draw(2) for g in "if"}
        xs, n, m = draw(TIME, IN), np.abs(draw(2, 2)) + 1, draw(2)
        start = [draw(2, 2, 2), n, m]
        state = tuple(
            torch.as_tensor(a.reshape(shape))
            for a, shape in zip(start, [(1, 2, 2, 2), (1, 2, 2, 1), (1, 2, 1, 1)], strict=True)
        )
        ys = []
        for x in xs:
            q, k, v, i, f = (
                torch.as_tensor(found[f"W_{g}"] @ x + found[f"b_{g}"]).reshape(1, 2, 1, -1)
                for g in "qkvif"
            )
            y, state = recurrent_step_stabilized_simple(*state, q, k, v, i, f, eps=0.0)
            ys.append(np.asarray(y).reshape(-1))
        found |= {"W_o": np.zeros((HIDDEN, IN)), "b_o": np.full(HIDDEN, 64.0)}
        found |= {"xs": xs, "ys": np.stack(ys)}
        return found | starts("C n m", start) | finals("C n m", state)

    def slstm(draw: Draw) -> Arrays:
        """A row of ``R`` of the library has the gates i, f, z, o of a head."""
        found = {f"W_{g}": draw(HIDDEN, IN) for g in "ifzo"}
        found |= {f"R_{g}": draw(2, 2, 2) for g in "ifzo"}
        found |= {f"b_{g}": draw(HIDDEN) for g in "ifzo"}
        xs = draw(TIME, IN)
        start = [draw(HIDDEN), draw(HIDDEN), np.abs(draw(HIDDEN)) + 1, draw(HIDDEN)]
        given = xs @ np.concatenate([found[f"W_{g}"] for g in "ifzo"]).T
        after, _, _ = slstm_forward(
            torch.as_tensor(given)[:, None],
            torch.as_tensor(np.stack(start))[:, None],
            torch.as_tensor(np.concatenate([found[f"R_{g}"] for g in "ifzo"], 1)),
            torch.as_tensor(np.concatenate([found[f"b_{g}"] for g in "ifzo"])),
            slstm_pointwise_function_registry["slstm"],
        )
        found["b_f"] = found["b_f"].reshape(2, 2)
        found |= {"xs": xs, "ys": after[0, 1:, 0]}
        return found | starts("h c n m", start) | finals("h c n m", after[:, -1])

    case("mlstm", "xlstm", mlstm, heads=2, key_size=2)
    case("slstm", "xlstm", slstm, heads=2)


def plain(name: str) -> Any:
    """A file with plain functions of flash-linear-attention, whose package needs Triton."""
    (folder,) = importlib.util.find_spec("fla").submodule_search_locations  # type: ignore
    spec = importlib.util.spec_from_file_location("plain", f"{folder}/ops/{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def memory(
    key: str,
    sizes: dict[str, tuple[int, ...]],
    inputs: Callable[[Arrays, np.ndarray], dict[str, np.ndarray]],
    function: Callable[..., Any],
    from_zero: bool = False,
    **settings: Any,
) -> None:
    """A recurrence of flash-linear-attention, for inputs (time, heads, ...) that are made here.

    ``function`` gets the start and the inputs; it gives the outputs and the final memory.
    """
    heads = {"heads": 2, "key_size": 3}
    shapes = {"W_q": (6, IN), "W_k": (6, IN), "W_v": (HIDDEN, IN)} | sizes

    def run(draw: Draw) -> Arrays:
        found = {name: draw(*shape) for name, shape in shapes.items() if 0 not in shape}
        xs, start = draw(TIME, IN), draw(2, 3, 2) * (not from_zero)
        made = {name: torch.as_tensor(a)[None] for name, a in inputs(found, xs).items()}
        ys, after = function(torch.as_tensor(start)[None], **made)
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)} | starts("S", [start])
        return found | ({} if after is None else finals("S", [after]))

    case(key, "flash-linear-attention", run, **heads, **settings)


def split(a: np.ndarray, heads: int = 2) -> np.ndarray:
    """Rows by heads."""
    return a.reshape(len(a), heads, -1)


def qkv(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
    return {g: split(xs @ found[f"W_{g}"].T) for g in "qkv"}


def delta(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
    """What delta rules get."""
    made = qkv(found, xs)
    made |= {g: unit(silu(made[g])) for g in "qk"}
    return made | {"beta": sigmoid(xs @ found["W_beta"].T)}


def selective(a: np.ndarray, found: Arrays) -> np.ndarray:
    """The logarithm of a decay."""
    return -np.exp(found["A_log"]) * softplus(a)


def of_flash_linear_attention() -> None:
    """It computes in float32."""
    gla = plain("gla/naive").naive_recurrent_gla
    simple = plain("simple_gla/naive").naive_recurrent_simple_gla
    retention = plain("retention/naive").naive_retention
    rule = plain("delta_rule/naive").delta_rule_recurrence
    gated = plain("gated_delta_rule/naive").naive_recurrent_gated_delta_rule
    kda = plain("kda/naive").naive_recurrent_kda
    product = plain("gated_delta_product/naive").naive_recurrent_gated_delta_product
    root = 3**0.5

    def gla_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        a = xs @ found["W_down"].T @ found["W_up"].T + found["b_a"]
        return qkv(found, xs) | {"gk": split(np.log(sigmoid(a)) / 4)}

    sizes: dict[str, tuple[int, ...]] = {"W_down": (2, IN), "W_up": (6, 2), "b_a": (6,)}
    memory(
        "gla",
        sizes,
        gla_inputs,
        lambda S, q, k, v, gk: gla(q * root, k, v, gk, S, True),
        rank=2,
        tau=4.0,
    )

    def hgrn2_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        f = split(0.25 + 0.75 * sigmoid(xs @ found["W_f"].T))
        q, v = split(silu(xs @ found["W_q"].T)), split(xs @ found["W_v"].T)
        return {"q": q, "k": 1 - f, "v": v, "gk": np.log(f)}

    memory(
        "hgrn2",
        {"W_k": (0,), "W_f": (6, IN)},
        hgrn2_inputs,
        lambda S, q, k, v, gk: gla(q * root, k, v, gk, S, True),
        lower_bound=0.25,
    )

    def simple_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        return qkv(found, xs) | {"g": np.log(sigmoid(xs @ found["W_a"].T + found["b_a"])) / 4}

    memory(
        "simple_gla",
        {"W_a": (2, IN), "b_a": (2,)},
        simple_inputs,
        lambda S, q, k, v, g: simple(q, k, v, g, 1.0, S),
        tau=4.0,
    )
    memory(
        "retnet",
        {},
        qkv,
        lambda S, q, k, v: (
            retention(*(a.transpose(1, 2) for a in (q, k, v))).transpose(1, 2),
            None,
        ),
        from_zero=True,
        rotary=False,
    )
    memory(
        "deltanet",
        {"W_beta": (2, IN)},
        delta,
        lambda S, q, k, v, beta: delta_net(rule, root, S, q, k, v, beta),
    )
    decay: dict[str, tuple[int, ...]] = {"W_alpha": (2, IN), "b_alpha": (2,), "A_log": (2,)}
    decay |= {"W_beta": (2, IN)}

    def gated_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        made = delta(found, xs)
        g = selective(xs @ found["W_alpha"].T + found["b_alpha"], found)
        return made | {"v": silu(made["v"]), "g": g}

    memory(
        "gated_deltanet",
        decay,
        gated_inputs,
        lambda S, q, k, v, beta, g: gated(q, k, v, beta, g, 1.0, S, True),
    )

    def kda_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        made = delta(found, xs)
        a = split(xs @ found["W_down"].T @ found["W_up"].T + found["b_alpha"])
        g = -np.exp(found["A_log"])[:, None] * softplus(a)
        return made | {"v": silu(made["v"]), "g": g}

    memory(
        "kda",
        {"W_down": (2, IN), "W_up": (6, 2), "b_alpha": (6,), "A_log": (2,), "W_beta": (2, IN)},
        kda_inputs,
        lambda S, q, k, v, beta, g: kda(q, k, v, g, beta, 1.0, S, True),
        rank=2,
    )

    def product_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        def writes(name: str) -> np.ndarray:
            return (xs @ found[name].T).reshape(2 * TIME, 2, -1)

        made = {"q": unit(silu(split(xs @ found["W_q"].T)))}
        made |= {"k": unit(silu(writes("W_k"))), "v": silu(writes("W_v"))}
        made |= {"beta": 2 * sigmoid(writes("W_beta"))[..., 0]}
        return made | {"g": selective(xs @ found["W_alpha"].T + found["b_alpha"], found)}

    memory(
        "deltaproduct",
        decay | {"W_k": (12, IN), "W_v": (2 * HIDDEN, IN), "W_beta": (4, IN)},
        product_inputs,
        lambda S, q, k, v, beta, g: product(
            q,
            k,
            v,
            g,
            beta,
            1.0,
            initial_state=S.float(),
            output_final_state=True,
            num_householder=2,
        ),
        householders=2,
        gated=True,
    )

    def linear(draw: Draw) -> Arrays:
        """The memory and the sum of the keys start from zeros."""
        function = plain("linear_attn/naive").naive_recurrent_linear_attn
        found = {"W_q": draw(6, IN), "W_k": draw(6, IN), "W_v": draw(HIDDEN, IN)}
        xs, made = draw(TIME, IN), {}
        for g, a in qkv(found, xs).items():
            a = a if g == "v" else np.where(a > 0, a + 1, np.exp(np.minimum(a, 0)))
            made[g] = torch.as_tensor(a)[None]
        ys, (S, z) = function(**made, normalize=True, output_final_state=True)
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)}
        return (
            found | starts("S z", [np.zeros((2, 3, 2)), np.zeros((2, 3))]) | finals("S z", [S, z])
        )

    case("linear_attention", "flash-linear-attention", linear, heads=2, key_size=3)

    def rwkv6(draw: Draw) -> Arrays:
        function = plain("rwkv6/recurrent_naive").naive_recurrent_rwkv6
        found = {"W_q": draw(6, IN), "W_k": draw(6, IN), "W_v": draw(HIDDEN, IN)}
        found |= {"mu": draw(IN), "lam": draw(4, IN), "A": draw(4, 2, IN), "B": draw(4, IN, 2)}
        found |= {"lam_d": draw(6), "A_d": draw(2, IN), "B_d": draw(6, 2), "u": draw(2, 3)}
        xs, S, x_before = draw(TIME, IN), draw(2, 3, 2), draw(IN)
        change = np.concatenate([x_before[None], xs[:-1]]) - xs
        m = xs + change * found["mu"]
        mixed = [
            xs + change * (lam + np.tanh(m @ A.T) @ B.T)
            for lam, A, B in zip(found["lam"], found["A"], found["B"], strict=True)
        ]
        made = {g: split(x @ found[f"W_{g}"].T) for g, x in zip("qkv", mixed, strict=False)}
        w = -np.exp(found["lam_d"] + np.tanh(mixed[3] @ found["A_d"].T) @ found["B_d"].T)
        made["w"] = split(w)
        given = {g: torch.as_tensor(a)[None].transpose(1, 2) for g, a in made.items()}
        start, u = torch.as_tensor(S)[None], torch.as_tensor(found["u"])
        ys, after = function(**given, u=u, scale=1.0, initial_state=start, output_final_state=True)
        found |= {"xs": xs, "ys": np.asarray(ys.transpose(1, 2)).reshape(TIME, HIDDEN)}
        found |= starts("S x_before", [S, x_before]) | finals("S x_before", [after, xs[-1]])
        return found

    about = {"heads": 2, "key_size": 3, "rank": 2, "decay_rank": 2}
    case("rwkv6", "flash-linear-attention", rwkv6, **about)


def delta_net(rule: Any, root: float, S: Any, q: Any, k: Any, v: Any, beta: Any) -> Any:
    """Its axes are heads, then time."""
    given = [a.transpose(1, 2) for a in (q * root, k, v, beta)]
    ys, after = rule(*given, S)
    return ys.transpose(1, 2), after


def of_transformers() -> None:
    """Keys are rounded to float32."""
    from transformers.models.rwkv.modeling_rwkv import (  # type: ignore[import-not-found]
        rwkv_linear_attention_cpu,
    )

    def rwkv4(draw: Draw) -> Arrays:
        found = {f"mu_{g}": draw(IN) for g in "rkv"} | {f"W_{g}": draw(HIDDEN, IN) for g in "rkv"}
        found |= {"w": draw(HIDDEN), "u": draw(HIDDEN)}
        xs = draw(TIME, IN)
        start = [draw(HIDDEN), np.abs(draw(HIDDEN)) + 1, draw(HIDDEN), draw(IN)]
        before = np.concatenate([start[3][None], xs[:-1]])
        r, k, v = (
            (found[f"mu_{g}"] * xs + (1 - found[f"mu_{g}"]) * before) @ found[f"W_{g}"].T
            for g in "rkv"
        )
        w, u = torch.as_tensor(found["w"]), torch.as_tensor(found["u"])
        ys, after = rwkv_linear_attention_cpu(w, u, *batch(k, v), state=batch(*start[:3]))
        found |= {"xs": xs, "ys": sigmoid(r) * np.asarray(ys[0])}
        names = "a b p x_before"
        return found | starts(names, start) | finals(names, [*after, xs[-1]])

    case("rwkv4", "transformers", rwkv4)


# --- Code of the authors --------------------------------------------------------------------------


def from_source(repository: str, folder: str, module: str, *absent: str) -> Any:
    """A module of a repository; ``absent`` modules, which the code here does not use, are empty."""
    path = SOURCES / repository.rpartition("/")[2] / folder
    before = set(sys.modules)
    for name in absent:
        empty = types.ModuleType(name)
        empty.__getattr__ = lambda name: None  # type: ignore[method-assign]
        sys.modules[name] = empty
    sys.path.insert(0, str(path))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(path))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if name in absent or str(path) in origin:
                del sys.modules[name]


def all_of_authors() -> None:
    def lem(draw: Draw) -> Arrays:
        module = from_source("tk-rusch/LEM", "src/adding", "network")
        cell = module.LEMCell(IN, HIDDEN, 0.75).double()
        found, arrays = named(
            {
                "inp2hid.weight": "V_2 V_1 V_y V_z",
                "inp2hid.bias": "b_2 b_1 b_y b_z",
                "hid2hid.weight": "W_2 W_1 W_z",
                "hid2hid.bias": "b_2 b_1 b_z",
                "transform_z.weight": "W_y",
                "transform_z.bias": "b_y",
            },
            {name: draw(*p.shape) for name, p in cell.named_parameters()},
        )
        for name, p in cell.named_parameters():
            put(p, arrays[name])

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            after = cell(x, *state)
            return after[0], after

        return found | stepped(step, "y z", draw(TIME, IN), [draw(HIDDEN), draw(HIDDEN)])

    def cornn(draw: Draw) -> Arrays:
        module = from_source("tk-rusch/coRNN", "adding", "model")
        cell = module.coRNNCell(IN, HIDDEN, 0.25, 1.5, 2.0).double()
        found = {"V": draw(HIDDEN, IN), "W_z": draw(HIDDEN, HIDDEN), "W": draw(HIDDEN, HIDDEN)}
        put(cell.i2h.weight, np.concatenate([*found.values()], 1))
        found["b"] = draw(HIDDEN)
        put(cell.i2h.bias, found["b"])

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            after = cell(x, *state)
            return after[0], after

        return found | stepped(step, "y z", draw(TIME, IN), [draw(HIDDEN), draw(HIDDEN)])

    def on_lstm(draw: Draw) -> Arrays:
        module = from_source("yikangshen/Ordered-Neurons", "", "ON_LSTM")
        cell = module.ONLSTMCell(IN, HIDDEN, 2).double().eval()
        order = {"I": 2, "F": 2, "o": HIDDEN, "c": HIDDEN, "i": HIDDEN, "f": HIDDEN}
        found = {f"W_{g}": draw(n, IN) for g, n in order.items()}
        found |= {f"U_{g}": draw(n, HIDDEN) for g, n in order.items()}
        found |= {f"b_{g}": draw(n) for g, n in order.items()}
        put(cell.ih[0].weight, np.concatenate([found[f"W_{g}"] for g in order]))
        put(cell.hh.weight, np.concatenate([found[f"U_{g}"] for g in order]))
        put(cell.ih[0].bias, np.concatenate([found[f"b_{g}"] for g in order]))
        put(cell.hh.bias, np.zeros(4 * HIDDEN + 4))

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            h, c, _ = cell(x, (state[0], state[1].reshape(1, 2, 2)))
            return h, [h, c.reshape(1, HIDDEN)]

        return found | stepped(step, "h c", draw(TIME, IN), [draw(HIDDEN), draw(HIDDEN)])

    def mc_lstm(draw: Draw) -> Arrays:
        """A row of their matrix has the shares of a cell, a column in Noria."""
        module = from_source("ml-jku/mc-lstm", "", "mclstm")
        layer = module.MassConservingLSTM(2, IN - 2, HIDDEN).double()
        found: Arrays = {}
        gates = (("i", layer.in_gate), ("o", layer.out_gate), ("r", layer.redistribution))
        for letter, gate in gates:
            rows = gate.connections.weight.shape[0]
            W, U, b = draw(rows, IN - 2), draw(rows, HIDDEN), draw(rows)
            put(gate.connections.weight, np.concatenate([W, U], 1))
            put(gate.connections.bias, b)
            if letter == "r":
                W, U, b = (
                    a.reshape(HIDDEN, HIDDEN, -1).swapaxes(0, 1).reshape(a.shape) for a in (W, U, b)
                )
                b = b.reshape(HIDDEN, HIDDEN)
            found |= {f"W_{letter}": W, f"U_{letter}": U, f"b_{letter}": b}
        xs, start = draw(TIME, IN), np.abs(draw(HIDDEN)) + 0.25
        xs[:, :2] = np.abs(xs[:, :2])
        given = torch.as_tensor(xs)[:, None]
        ys, cs = layer(given[..., :2], given[..., 2:], *batch(start))
        found |= {"xs": xs, "ys": ys[:, 0].detach()}
        return found | starts("c", [start]) | finals("c", [cs[-1]])

    def orthogonal(param: Callable[[Any], Any], diagonal: bool) -> Callable[[Draw], Arrays]:
        """They multiply rows, so that their skew-symmetric matrix is the transpose of Noria's."""

        def run(draw: Draw) -> Arrays:
            module = from_source("Lezcano/expRNN", "", "orthogonal")
            cell = module.OrthogonalRNN(IN, HIDDEN, torch.nn.init.zeros_, "static", param).double()
            a = draw(HIDDEN * (HIDDEN - 1) // 2)
            A = np.zeros((HIDDEN, HIDDEN))
            A[np.triu_indices(HIDDEN, 1)] = -a
            found = {"V" if diagonal else "W": draw(HIDDEN, IN), "b": draw(HIDDEN) / 4}
            put(cell.recurrent_kernel.A, A)
            put(cell.input_kernel.weight, found["V" if diagonal else "W"])
            put(cell.nonlinearity.b, found["b"])
            found |= {"a": a} | ({"D": np.ones(HIDDEN)} if diagonal else {})

            def step(x: torch.Tensor, state: list[Any]) -> Any:
                y, after = cell(x, state[0])
                return y, [after]

            return found | stepped(step, "h", draw(TIME, IN), [draw(HIDDEN)])

        return run

    def cayley(A: torch.Tensor) -> torch.Tensor:
        """Their ``cayley_map`` calls a function that torch no longer has."""
        one = torch.eye(len(A), dtype=A.dtype)
        return torch.linalg.solve(one + A, one - A)

    def lipschitz(solver: str) -> Callable[[Draw], Arrays]:
        """The model gives the state after the last step; it starts from zeros."""

        def run(draw: Draw) -> Arrays:
            torch._utils._accumulate = itertools.accumulate
            module = from_source("erichson/LipschitzRNN", "", "models", "torchvision")
            kind = "LipschitzRNN" if solver == "euler" else "LipschitzRNN_ODE"
            found = {"M_A": draw(HIDDEN, HIDDEN), "M_W": draw(HIDDEN, HIDDEN)}
            found |= {"U": draw(HIDDEN, IN), "b": draw(HIDDEN)}
            model = module.RnnModels(
                IN, HIDDEN, HIDDEN, eps=0.125, beta=0.75, gamma=0.25, model=kind, solver=solver
            )
            model = model.double()
            model.I = model.I.double()
            holder = model if solver == "euler" else model.func
            holder.I = holder.I.double()
            put(holder.B, found["M_A"].T)
            put(holder.C, found["M_W"].T)
            put(model.E.weight, found["U"])
            put(model.E.bias, found["b"])
            put(model.D.weight, np.eye(HIDDEN))
            put(model.D.bias, np.zeros(HIDDEN))
            torch.set_default_dtype(torch.float64)
            xs = draw(TIME, IN)
            ys = np.stack([model(*batch(xs[: t + 1]))[0].detach() for t in range(TIME)])
            torch.set_default_dtype(torch.float32)
            found |= {"xs": xs, "ys": ys}
            return found | starts("h", [np.zeros(HIDDEN)]) | finals("h", [ys[-1]])

        return run

    def momentum(draw: Draw) -> Arrays:
        module = from_source("minhtannguyen/MomentumRNN", "mnist-timit", "momentumnet")
        cell = module.MomentumLSTMCell(IN, HIDDEN, 0.75, 0.5).double()
        found = {"W": draw(4 * HIDDEN, IN), "U": draw(4 * HIDDEN, HIDDEN), "b": draw(4 * HIDDEN)}
        put(cell.x2h.weight, found["W"])
        put(cell.x2h.bias, found["b"])
        put(cell.h2h.weight, found["U"])
        put(cell.h2h.bias, np.zeros(4 * HIDDEN))

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            twice = [torch.cat([a, a]) for a in (x, *state)]  # it drops a batch of one
            y, (h, c), v = cell(twice[0], tuple(twice[1:3]), twice[3])
            return y[:1], [h[:1], c[:1], v[:1]]

        start = [draw(HIDDEN), draw(HIDDEN), draw(4 * HIDDEN)]
        return found | stepped(step, "h c v", draw(TIME, IN), start)

    def elstm(draw: Draw) -> Arrays:
        module = from_source("IDSIA/rtrl-elstm", "reinforcement_learning/torchbeast", "layer")
        layer = module.QuasiLSTMlayer(IN, HIDDEN).double()
        found = {name: draw(HIDDEN, IN) for name in "FZO"}
        found |= {name: draw(HIDDEN) for name in ("w_f", "w_z", "b_f", "b_z", "b_o")}
        found["W_o"] = draw(HIDDEN, HIDDEN)
        put(layer.wm_f, found["F"])
        put(layer.wm_z, found["Z"])
        put(layer.wv_f, found["w_f"])
        put(layer.wv_z, found["w_z"])
        put(layer.bias_f, found["b_f"])
        put(layer.bias_z, found["b_z"])
        put(layer.out_gate_linear.weight, np.concatenate([found["O"], found["W_o"]], 1))
        put(layer.out_gate_linear.bias, found["b_o"])
        xs, start = draw(TIME, IN), draw(HIDDEN)
        ys, after = layer(torch.as_tensor(xs)[:, None], batch(start)[0][None])
        found |= {"xs": xs, "ys": ys[:, 0].detach()}
        return found | starts("c", [start]) | finals("c", [after])

    def qrnn(pooling: str) -> Callable[[Draw], Arrays]:
        """Their window has the newest input first."""

        def run(draw: Draw) -> Arrays:
            absent = ("cupy", "cupy.cuda", "pynvrtc", "pynvrtc.compiler")
            module = from_source("salesforce/pytorch-qrnn", "", "torchqrnn.qrnn", *absent)
            gates = "zfo" if pooling == "fo" else "zf"
            layer = module.QRNNLayer(
                IN, HIDDEN, save_prev_x=True, window=2, output_gate=pooling == "fo", use_cuda=False
            ).double()
            found = {f"W_{g}": draw(HIDDEN, 2 * IN) for g in gates}
            found |= {f"b_{g}": draw(HIDDEN) for g in gates}
            signs = {"z": 1, "f": -1, "o": 1}
            rows = np.concatenate([signs[g] * found[f"W_{g}"] for g in gates])
            put(layer.linear.weight, np.concatenate([rows[:, IN:], rows[:, :IN]], 1))
            put(layer.linear.bias, np.concatenate([signs[g] * found[f"b_{g}"] for g in gates]))
            xs, c, past = draw(TIME, IN), draw(HIDDEN), draw(IN)
            layer.prevX = torch.as_tensor(past)[None, None]
            ys, after = layer(torch.as_tensor(xs)[:, None], *batch(c))
            found |= {"xs": xs, "ys": ys[:, 0].detach()}
            return found | starts("c past", [c, past]) | finals("c past", [after, layer.prevX])

        return run

    def plrnn(bases: int) -> Callable[[Draw], Arrays]:
        """Their activation is a leaky ReLU, in the paper a ReLU."""

        def run(draw: Draw) -> Arrays:
            module = from_source("DurstewitzLab/dendPLRNN", "VI/sgvb", "generative_model")
            found = {"A": draw(HIDDEN), "W": draw(HIDDEN, HIDDEN), "C": draw(HIDDEN, IN)}
            found["h"] = draw(HIDDEN)
            np.fill_diagonal(found["W"], 0)
            if bases:
                model = module.PLRNN_Basis_Step(HIDDEN, bases, IN).double()
                found |= {"alpha": draw(bases), "H": draw(HIDDEN, bases)}
                put(model.alphas, found["alpha"])
                put(model.thetas, found["H"])
            else:
                model = module.PLRNN_Step(HIDDEN, IN).double()
            model.nonlinearity = torch.nn.ReLU()
            put(model.AW, found["W"] + np.diag(found["A"]))
            put(model.C, found["C"])
            put(model.h, found["h"])

            def step(x: torch.Tensor, state: list[Any]) -> Any:
                z = model(state[0], x)
                return z, [z]

            return found | stepped(step, "z", draw(TIME, IN), [draw(HIDDEN)])

        return run

    case("plrnn", "DurstewitzLab/dendPLRNN", plrnn(0))
    case("dend_plrnn", "DurstewitzLab/dendPLRNN", plrnn(3), bases=3)
    case("lem", "tk-rusch/LEM", lem, dt=0.75)
    case("cornn", "tk-rusch/coRNN", cornn, dt=0.25, gamma=1.5, epsilon=2.0)
    case("on_lstm", "yikangshen/Ordered-Neurons", on_lstm, chunk_size=2)
    case("mass_conserving_lstm", "ml-jku/mc-lstm", mc_lstm, mass_size=2)
    case("exprnn", "Lezcano/expRNN", orthogonal(torch.matrix_exp, False))
    case("scornn", "Lezcano/expRNN", orthogonal(cayley, True))
    for solver in ("euler", "midpoint"):
        case(
            "lipschitz_rnn",
            "erichson/LipschitzRNN",
            lipschitz(solver),
            beta=0.75,
            gamma=0.25,
            epsilon=0.125,
            solver=solver,
        )
    case("momentum_lstm", "minhtannguyen/MomentumRNN", momentum, mu=0.75, s=0.5)
    case("elstm", "IDSIA/rtrl-elstm", elstm)
    for pooling in ("f", "fo"):
        case("qrnn", "salesforce/pytorch-qrnn", qrnn(pooling), pooling=pooling)


# --- Images, and cells of 2020 and later ----------------------------------------------------------


def of_keras() -> None:
    """Its gates are i, f, g and o, too."""
    import keras

    sizes = {1: (5,), 2: (4, 5), 3: (2, 3, 3)}

    def run(space: tuple[int, ...], **options: Any) -> Callable[[Draw], Arrays]:
        def arrays(draw: Draw) -> Arrays:
            kind = getattr(keras.layers, f"ConvLSTM{len(space)}D")
            layer = kind(
                HIDDEN,
                options["kernel_size"],
                strides=options.get("strides", 1),
                padding=options.get("padding", "same"),
                dilation_rate=options.get("dilation", 1),
                return_sequences=True,
                return_state=True,
                dtype="float64",
            )
            xs = draw(TIME, *space, 2)
            layer.build((1, *xs.shape))
            taps = (options["kernel_size"],) * len(space)
            found = {"W": draw(*taps, 2, 4 * HIDDEN), "U": draw(*taps, HIDDEN, 4 * HIDDEN)}
            found |= {"b": draw(4 * HIDDEN), "xs": xs}
            layer.set_weights([found[name] for name in ("W", "U", "b")])
            ys, h, c = (keras.ops.convert_to_numpy(a)[0] for a in layer(xs[None]))
            zeros = np.zeros_like(h)
            found |= starts("h c", [zeros, zeros]) | {"final.h": h, "final.c": c}
            return found | {"ys": ys}

        return arrays

    def keras_case(axes: int, **options: Any) -> None:
        case("conv_lstm", "keras", run(sizes[axes], **options), peepholes=False, **options)

    for axes in sizes:
        keras_case(axes, kernel_size=axes)
    keras_case(2, kernel_size=3, strides=2)
    keras_case(2, kernel_size=3, padding="valid")
    keras_case(1, kernel_size=2, dilation=2)


def first_to_last(a: Any) -> np.ndarray:
    """Images without the batch of one, and with features last."""
    return np.moveaxis(np.asarray(a)[0], 0, -1)


def kernel_of(kernel: np.ndarray) -> np.ndarray:
    """A kernel of PyTorch, from one with features last."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def of_images() -> None:
    def st_lstm(draw: Draw) -> Arrays:
        """Two layers."""
        module = from_source("thuml/predrnn-pytorch", "core/layers", "SpatioTemporalLSTMCell")
        kind, n = module.SpatioTemporalLSTMCell, HIDDEN
        cells = [kind(size, n, 4, 3, 1, False).double() for size in (2, n)]
        found = {"W": draw(3, 3, 2, 7 * n), "W_above": draw(1, 3, 3, n, 7 * n)}
        found |= {"U": draw(2, 3, 3, n, 4 * n), "V": draw(2, 3, 3, n, 3 * n)}
        found |= {"O": draw(2, 3, 3, 2 * n, n), "P": draw(2, 2 * n, n), "b": np.zeros((2, 7 * n))}
        found["b"][:, 2 * n : 3 * n] = found["b"][:, 5 * n : 6 * n] = 1

        def ordered(kernel: np.ndarray, order: str) -> np.ndarray:
            """Theirs are i f g, or i f g i2 f2 g2 o."""
            gates = dict(zip("gifjklo", np.split(kernel, kernel.shape[-1] // n, -1), strict=False))
            if len(gates) == 4:
                gates["o"] = gates.pop("j")
            return kernel_of(np.concatenate([gates[g] for g in order], -1))

        for layer, cell in enumerate(cells):
            W = found["W"] if layer == 0 else found["W_above"][0]
            put(cell.conv_x[0].weight, ordered(W, "ifgkljo"))
            put(cell.conv_h[0].weight, ordered(found["U"][layer], "ifgo"))
            put(cell.conv_m[0].weight, ordered(found["V"][layer], "ifg"))
            put(cell.conv_o[0].weight, kernel_of(found["O"][layer]))
            put(cell.conv_last.weight, found["P"][layer].T[:, :, None, None])
        xs, h, c, m = draw(TIME, 3, 4, 2), draw(2, 3, 4, n), draw(2, 3, 4, n), draw(3, 4, n)
        images = lambda a: torch.as_tensor(np.moveaxis(a, -1, 0))[None]  # noqa: E731
        hs, cs, memory, ys = [*map(images, h)], [*map(images, c)], images(m), []
        for x in xs:
            below = images(x)
            for layer, cell in enumerate(cells):
                hs[layer], cs[layer], memory = cell(below, hs[layer], cs[layer], memory)
                below = hs[layer]
            ys.append(first_to_last(below))
        found |= {"xs": xs, "ys": np.stack(ys)} | starts("h c m", [h, c, m])
        ends = {"h": np.stack([*map(first_to_last, hs)]), "c": np.stack([*map(first_to_last, cs)])}
        ends["m"] = first_to_last(memory)
        return found | {f"final.{name}": a for name, a in ends.items()}

    def phy_cell(draw: Draw) -> Arrays:
        """Their input is what an encoder gives; here it has a kernel with one tap."""
        module = from_source("vincent-leguen/PhyDNet", "models", "models")
        cell, n = module.PhyCell_Cell(HIDDEN, 7, (3, 3)).double(), HIDDEN
        cell.F.bn1 = torch.nn.Identity()
        found = {"E": np.eye(n)[None, None], "b_E": np.zeros(n), "F": draw(3, 3, n, 7)}
        found |= {"c": draw(7, n), "b_F": draw(n), "b_K": draw(n)}
        found |= {"W_u": draw(3, 3, n, n), "W_h": draw(3, 3, n, n)}
        put(cell.F.conv1.weight, kernel_of(found["F"]))
        put(cell.F.conv1.bias, np.zeros(7))
        put(cell.F.conv2.weight, found["c"].T[:, :, None, None])
        put(cell.F.conv2.bias, found["b_F"])
        put(cell.convgate.weight, kernel_of(np.concatenate([found["W_u"], found["W_h"]], -2)))
        put(cell.convgate.bias, found["b_K"])
        xs, h, ys = draw(TIME, 3, 4, n), draw(3, 4, n), []
        state = torch.as_tensor(np.moveaxis(h, -1, 0))[None]
        for x in xs:
            state = cell(torch.as_tensor(np.moveaxis(x, -1, 0))[None], state)
            ys.append(first_to_last(state))
        found |= {"xs": xs, "ys": np.stack(ys)} | starts("h", [h])
        return found | {"final.h": ys[-1]}

    case("st_lstm", "thuml/predrnn-pytorch", st_lstm, layers=2)
    about = {"kernel_size": 1, "recurrent_kernel_size": 3, "derivatives": 7}
    case("phy_cell", "vincent-leguen/PhyDNet", phy_cell, **about)


def of_mamba() -> None:
    """The reference of their tests."""

    def run(draw: Draw) -> Arrays:
        kernels = "mamba_ssm.ops.triton.mamba3"
        absent = ["triton", "mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", kernels]
        absent += [f"{kernels}.mamba3_siso_combined", f"{kernels}.mamba3_siso_step"]
        module = from_source("state-spaces/mamba", "tests/ops/triton", "test_mamba3_siso", *absent)
        found = {"W_u": draw(HIDDEN, IN), "W_B": draw(6, IN), "W_C": draw(6, IN)}
        found |= {"g_B": draw(6), "g_C": draw(6), "b_B": draw(2, 1, 6), "b_C": draw(2, 1, 6)}
        found |= {"W_Delta": draw(2, IN), "b_Delta": draw(2), "W_A": draw(2, IN)}
        found |= {"W_lam": draw(2, IN), "W_theta": draw(1, IN), "D": draw(2)}
        xs, start = draw(TIME, IN), [draw(2, 6, 2), np.abs(draw(2, 1)), draw(2, 1, 6), draw(2, 2)]

        def normed(g: str) -> torch.Tensor:
            a = xs @ found[f"W_{g}"].T
            a = found[f"g_{g}"] * a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5)
            return torch.as_tensor(np.repeat(a[:, None], 2, 1))[None]

        delta = softplus(xs @ found["W_Delta"].T + found["b_Delta"]).T
        rate = -softplus(xs @ found["W_A"].T).T
        angles = np.repeat((xs @ found["W_theta"].T)[:, None], 2, 1)
        S, phi, B, u = (torch.as_tensor(a)[None] for a in start)
        given = [normed("C"), normed("B"), torch.as_tensor(split(xs @ found["W_u"].T))[None]]
        given += [*batch(delta * rate, delta, (xs @ found["W_lam"].T).T)]
        given += [torch.as_tensor(found[f"b_{g}"][:, 0]) for g in "CB"] + batch(angles)
        ys, after = module.mamba3_siso_step_ref(
            *given, D=torch.as_tensor(found["D"]), Input_States=(phi, S.mT, B[:, :, 0], u)
        )
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)}
        found |= starts("S phi B_before u_before", start)
        ends = dict(zip(("phi", "S", "B_before", "u_before"), after, strict=True))
        ends |= {"S": ends["S"].mT, "B_before": ends["B_before"][:, :, None]}
        return found | {f"final.{name}": np.asarray(a)[0] for name, a in ends.items()}

    case("mamba3", "state-spaces/mamba", run, heads=2, state_size=6)


def of_memories() -> None:
    """More of flash-linear-attention, and the recurrence of M2RNN; all in float32."""
    root = 3**0.5

    def gdn2_inputs(found: Arrays, xs: np.ndarray) -> dict[str, np.ndarray]:
        made = qkv(found, xs)
        made |= {"q": root * unit(silu(made["q"])), "k": unit(silu(made["k"]))}
        made["v"] = silu(made["v"])
        a = split(xs @ found["W_down"].T @ found["W_up"].T + found["b_alpha"])
        made["g"] = -np.exp(found["A_log"])[:, None] * softplus(a)
        return made | {g: split(sigmoid(xs @ found[f"W_{g}"].T)) for g in "bw"}

    gdn2 = plain("gdn2/naive").naive_recurrent_gdn2
    sizes = {"W_down": (2, IN), "W_up": (6, 2), "b_alpha": (6,), "A_log": (2,)}
    memory(
        "gdn2",
        {**sizes, "W_b": (6, IN), "W_w": (HIDDEN, IN)},
        gdn2_inputs,
        lambda S, **made: gdn2(**made, initial_state=S, output_final_state=True),
        rank=2,
    )

    def rwkv5(draw: Draw) -> Arrays:
        """RWKV-6 with a decay that is the same at each step."""
        function = plain("rwkv6/recurrent_naive").naive_recurrent_rwkv6
        found = {"W_q": draw(6, IN), "W_k": draw(6, IN), "W_v": draw(HIDDEN, IN)}
        found |= {"mu": draw(3, IN), "omega": draw(6), "u": draw(2, 3)}
        xs, S, x_before = draw(TIME, IN), draw(2, 3, 2), draw(IN)
        change = np.concatenate([x_before[None], xs[:-1]]) - xs
        made = {
            g: split((xs + change * mu) @ found[f"W_{g}"].T)
            for g, mu in zip("qkv", found["mu"], strict=True)
        }
        made["w"] = split(np.repeat(-np.exp(found["omega"])[None], TIME, 0))
        given = {g: torch.as_tensor(a)[None].transpose(1, 2) for g, a in made.items()}
        start, u = torch.as_tensor(S)[None], torch.as_tensor(found["u"])
        ys, after = function(**given, u=u, scale=1.0, initial_state=start, output_final_state=True)
        found |= {"xs": xs, "ys": np.asarray(ys.transpose(1, 2)).reshape(TIME, HIDDEN)}
        return found | starts("S x_before", [S, x_before]) | finals("S x_before", [after, xs[-1]])

    case("rwkv5", "flash-linear-attention", rwkv5, heads=2, key_size=3)

    def mesanet(draw: Draw) -> Arrays:
        """Their keys and values have the same size."""
        function = plain("mesa_net/naive").naive_mesa_net_exact
        found = {f"W_{g}": draw(HIDDEN, IN) for g in "qkv"}
        found |= {"W_gamma": draw(2, IN), "b_gamma": draw(2), "lam": draw(2, 2)}
        found |= {"W_beta": draw(2, IN), "b_beta": draw(2)}
        xs = draw(TIME, IN)
        made = qkv(found, xs)
        made |= {g: unit(silu(made[g])) for g in "qk"}
        made["g"] = np.log(sigmoid(xs @ found["W_gamma"].T + found["b_gamma"]))
        made["beta"] = sigmoid(xs @ found["W_beta"].T + found["b_beta"])
        given = {g: torch.as_tensor(a)[None] for g, a in made.items()}
        given["lamb"] = torch.as_tensor(0.25 + softplus(found["lam"]))
        ys, G, H = function(**given)
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)}
        zeros = np.zeros((2, 2, 2))
        return found | starts("G H", [zeros, zeros]) | finals("G H", [G, H])

    case("mesanet", "flash-linear-attention", mesanet, heads=2, key_size=2)

    def gsa(draw: Draw) -> Arrays:
        """Their memory of keys has slots last."""
        function = plain("gsa/naive").naive_recurrent_gsa
        found = {"W_q": draw(6, IN), "W_k": draw(6, IN), "W_v": draw(HIDDEN, IN)}
        found["W_a"] = draw(10, IN)
        xs, start = draw(TIME, IN), [draw(2, 5, 3), draw(2, 5, 2)]
        alpha = split(sigmoid(xs @ found["W_a"].T)) ** 0.5
        made = {g: silu(a) for g, a in qkv(found, xs).items()}
        made |= {"q": root * made["q"], "s": 1 - alpha, "g": np.log(alpha)}
        given = {g: torch.as_tensor(a)[None] for g, a in made.items()}
        first = [torch.as_tensor(a)[None] for a in (start[0].swapaxes(1, 2), start[1])]
        ys, (K, V) = function(**given, initial_state=first, output_final_state=True)
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)} | starts("K V", start)
        return found | finals("K V", [K.mT, V])

    about = {"heads": 2, "key_size": 3, "slots": 5, "tau": 2.0}
    case("gsa", "flash-linear-attention", gsa, **about)

    def m2rnn(draw: Draw) -> Arrays:
        name = "open-lm-engine/accelerated-model-architectures"
        module = from_source(name, "", "xma.layers.m2rnn.torch_implementation")
        found = {"W_q": draw(6, IN), "W_k": draw(6, IN), "W_v": draw(HIDDEN, IN)}
        found |= {"W": draw(2, 2, 2), "W_f": draw(2, IN), "b_f": draw(2), "A_log": draw(2)}
        xs, H = draw(TIME, IN), draw(2, 3, 2)
        f = np.exp(-np.exp(found["A_log"]) * softplus(xs @ found["W_f"].T + found["b_f"]))
        given = [torch.as_tensor(a)[None] for a in (*qkv(found, xs).values(), f, H)]
        ys, after = module._m2rnn_torch(
            *given[:3], torch.as_tensor(found["W"]), *given[3:], None, None, None
        )
        found |= {"xs": xs, "ys": np.asarray(ys).reshape(TIME, HIDDEN)} | starts("H", [H])
        return found | finals("H", [after])

    case("m2rnn", "open-lm-engine/accelerated-model-architectures", m2rnn, heads=2, key_size=3)


def of_ncps_wiring() -> None:
    """The inputs and outputs have no scales and shifts."""
    from ncps.torch import LTCCell
    from ncps.wirings import AutoNCP  # type: ignore[import-not-found]

    def run(draw: Draw) -> Arrays:
        cell = LTCCell(
            AutoNCP(HIDDEN, 1),
            IN,
            input_mapping=None,
            output_mapping=None,
            ode_unfolds=3,
            epsilon=0.0,
            implicit_param_constraints=True,
        ).double()
        own = {"w": "w", "mu": "mu", "gamma": "sigma", "E": "erev"}
        found: Arrays = {}
        for name, theirs in own.items():
            for suffix, prefix, size in (("", "", HIDDEN), ("_x", "sensory_", IN)):
                found[name + suffix] = draw(HIDDEN, size)
                put(cell._params[prefix + theirs], found[name + suffix].T)
        for name, theirs in {"g": "gleak", "e": "vleak", "c": "cm"}.items():
            found[name] = draw(HIDDEN)
            put(cell._params[theirs], found[name])
        found["M"] = cell._params["sparsity_mask"].numpy().T
        found["M_x"] = cell._params["sensory_sparsity_mask"].numpy().T

        def step(x: torch.Tensor, state: list[Any]) -> Any:
            y, after = cell(x, state[0], 0.5)
            return y, [after]

        made = stepped(step, "v", draw(TIME, IN), [draw(HIDDEN)])
        return found | made | {"ys": made["ys"].reshape(TIME, 1)}

    case("ncp", "ncps", run, dt=0.5, unfolds=3)


def record(arrays: Arrays) -> np.ndarray:
    """One array with the arrays as its fields."""
    made = np.zeros((), [(name, a.dtype, a.shape) for name, a in arrays.items()])
    for name, array in arrays.items():
        made[name] = array
    return made


def torchrecurrent() -> None:
    for line in TORCHRECURRENT.strip().splitlines():
        recurrent(line)
    corrected_of_torchrecurrent()


WITHOUT_GRADIENTS = (
    torchrecurrent,
    all_of_torch,
    of_onnx,
    of_mingru,
    of_ncps,
    of_reservoirpy,
    of_sru,
    of_recurrentgemma,
    of_keras_lmu,
    of_tensorflow_addons,
    of_memax_and_braintrace,
    of_xlstm,
    of_flash_linear_attention,
    of_transformers,
    of_keras,
    of_images,
    of_mamba,
    of_memories,
    of_ncps_wiring,
)


def main(folder: str, *names: str) -> None:
    """Write the file."""
    global SOURCES
    SOURCES = Path(folder)
    cases: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    if names:
        with np.load(GOLDEN) as file:
            arrays = {name: file[name] for name in file.files}
        cases = json.loads(arrays.pop("cases").item())
    for function in (*WITHOUT_GRADIENTS, all_of_authors):
        if not names or function.__name__ in names:
            torch.set_grad_enabled(function is all_of_authors)
            function()
    cases |= {name: about for name, (about, _) in MADE.items()}
    arrays |= {name: record(found) for name, (_, found) in MADE.items()}
    np.savez_compressed(GOLDEN, cases=np.array(json.dumps(cases)), **arrays)
    print(f"{GOLDEN}: {len(cases)} cases, {GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
