"""How 37 published cells run at their sizes, and what the scripts on the compiler's reach report.

The cells were listed because half of them had neither machine code nor a form for all steps at
once. Everything here is traced; nothing large is compiled.
"""

import re
import runpy
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from models import AUTO
from published import DrawingPublished
from published_vectors import PUBLISHED

import noria as nr
from noria.cells.catalogue import catalogue, class_of
from noria.cells.spatial import SpatialCell

pytest.importorskip("llvmlite")
pytestmark = [
    pytest.mark.skipif(AUTO != "native", reason="there is no machine code here"),
    pytest.mark.usefixtures("plain_jax"),
]

SCRIPTS = Path(__file__).parent.parent.parent / "shared" / "faults" / "reach"


# --- cells --------------------------------------------------------------------------------------


class Reach(NamedTuple):
    """What is reported of a cell that is machine code in every direction.

    Attributes:
        linear: whether its next state is affine and element-wise.
        chunkwise: ``"yes"`` if it has a chunkwise form, or a pattern of the obstacle with its line;
            empty if its state has no matrix.
        size: heads, and the width of a head.
    """

    linear: bool = False
    chunkwise: str = ""
    size: tuple[int, int] = (4, 32)


LINE = r"at tests/published(_vectors)?.py:\d+"

CELLS: dict[str, Reach] = {
    # vectors as states
    **dict.fromkeys(
        ("lem", "cornn", "unicornn", "slstm", "cfc", "ltc", "phased_lstm", "clockwork"), Reach()
    ),
    **dict.fromkeys(("indrnn", "rhn", "nas", "fastgrnn", "zoneout", "esn"), Reach()),
    "lmu": Reach(),  # its memory is affine by a constant matrix, beside a tanh
    "sru": Reach(),  # its gates read the state; without that it is linear, see 05_emitted_state.py
    **dict.fromkeys(
        ("lru", "lru_real", "s5", "rglru", "minlstm", "mingru", "qrnn"), Reach(linear=True)
    ),
    # matrices as states
    "mlstm16": Reach(linear=True, chunkwise="yes", size=(8, 16)),
    "mlstm64": Reach(linear=True, chunkwise="yes", size=(2, 64)),
    **dict.fromkeys(("retnet", "retnet_xpos", "hgrn2"), Reach(linear=True, chunkwise="yes")),
    **dict.fromkeys(("deltanet", "gated_deltanet", "rwkv7", "ttt_linear"), Reach(chunkwise="yes")),
    "mamba": Reach(True, rf"dot_general {LINE} scales a matrix before it is read"),
    "titans": Reach(False, rf"add {LINE} makes one matrix of the state depend on another"),
    "titans_mlp": Reach(False, rf"logistic {LINE} is not linear in the matrix"),
    "window_attention": Reach(False, "its state has no matrix"),
    "convlstm": Reach(False, rf"concatenate {LINE} is not linear in the matrix"),
}

#: (batch, time), and features of the input.
SHAPES = (((16, 256), 128), ((1, 1024), 64))


def test_there_are_37_cells():
    names = {re.sub(r"^mlstm\d+$", "mlstm", name) for name in CELLS}
    assert (len(CELLS), names) == (37, {*PUBLISHED})


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_its_published_size_has_no_obstacle(name):
    """Inference, the reverse loop and tangents are machine code, and other forms are as listed."""
    expected = CELLS[name]
    for axes, features in SHAPES:
        make = PUBLISHED[re.sub(r"^mlstm\d+$", "mlstm", name)]
        layer = nr.Recurrence(make(*expected.size, features))
        xs = jax.ShapeDtypeStruct((*axes, features), jnp.float32)
        key = jax.random.key(0) if isinstance(layer.cell, DrawingPublished) else None
        page = nr.explain(layer, xs, key=key)
        assert (page.backend, page.obstacles) == ("native", ())
        assert page.reason == "the fastest one on CPUs"  # no note of another loop on a scan
        assert page.reverse
        assert page.linear == expected.linear
        assert re.fullmatch(expected.chunkwise, page.chunkwise)
        for form, has in (("associative", page.linear), ("chunkwise", page.chunkwise == "yes")):
            if has:
                assert nr.explain(nr.with_backend(layer, form), xs).backend == form


#: Cells of the library with parts that the list leaves out, such as convolutions and token shifts.
WHOLE = ("rwkv7", "mamba", "mlstm", "slstm", "ttt_linear", "titans", "sru", "ltc", "conv_lstm")


@pytest.mark.parametrize("name", WHOLE)
def test_a_cell_of_the_library_has_no_obstacle(name):
    kind, key = class_of(catalogue()[name]), jax.random.key(0)
    inputs, hidden = ((8, 8, 2), 8) if issubclass(kind, SpatialCell) else ((128,), 128)
    cell = kind(inputs if len(inputs) > 1 else 128, hidden, key=key)
    page = nr.explain(nr.Recurrence(cell), jax.ShapeDtypeStruct((16, 256, *inputs), jnp.float32))
    assert (page.backend, page.obstacles) == ("native", ())
    assert page.reason == "the fastest one on CPUs"


# --- scripts ------------------------------------------------------------------------------------

#: By script: a pattern of each line that it prints.
PRINTED = {
    "01_stacked_gates_einsum": [f"{form} .*native .*" for form in ("one", "einsum", "regrouped")],
    "02_complex": ["complex +native True .*", "real, by hand native True .*"],
    "03_matrix_state": [
        f"{kind} +heads {heads} dim +{size} native +linear {linear} .*"
        for heads, size in ((1, 16), (1, 17), (2, 16), (4, 32), (2, 64))
        for kind, linear in (("hebb", True), ("delta", False))
    ],
    "04_delay_state": [
        f"previous input in {place} +native linear True, .*" for place in ("the state", "x")
    ],
    "05_emitted_state": [r"h in the state +True", r"h in output\(\) +True"],
    "06_step_counter": ["clock native linear False .*", "rotate native linear True .*"],
    "07_conv": ["native .*"],  # inputs of rank 5 and tuples are taken
    "08_rotation_2x2": [
        "2x2 pair linear",
        "momentum linear",
        r"constant matrix -> .*; dot_general at .*08_rotation_2x2.py:\d+ is not\.",
    ],
    "09_inner_grad": [f"{size} native .*" for size in (8, 16, 32)],
    "10_ltc_synapses": [f"{size} native .*" for size in (8, 16, 17, 64)],
    "11_emits_matrix_state": [
        r"the loop gives (\S+) MB to what comes after; the layer's output is \1 MB",
        *[f"{backend} min wall .*" for backend in ("auto", "plain")],
    ],
    "12_which_side_of_S": [
        f"{size} {re.escape(form)} +native .*"
        for size in (4, 8, 9, 16, 17)
        for form in ("k @ S", "S @ k", "(k[:, None] * S).sum(0)")
    ],
}


def test_all_scripts_are_run():
    if not SCRIPTS.is_dir():
        pytest.skip("the scripts lie beside the checkout, in ../shared, and are not there")
    assert sorted(path.stem for path in SCRIPTS.glob("*.py")) == [*PRINTED]


@pytest.mark.parametrize("name", PRINTED)
def test_a_script_reports_native_or_linear(name, capsys):
    """The eleventh times a few calls of milliseconds; its times are not checked."""
    if not SCRIPTS.is_dir():
        pytest.skip("the scripts lie beside the checkout, in ../shared, and are not there")
    runpy.run_path(str(SCRIPTS / f"{name}.py"))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(PRINTED[name])
    for line, pattern in zip(printed, PRINTED[name], strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_constant_matrix_has_a_reason():
    """It is not element-wise; the loop is its best form."""
    A = 0.9 * jnp.eye(8)
    page = nr.explain(nr.Recurrence(lambda h, x: A @ h + x, jnp.zeros(8)), jnp.zeros((2, 32, 8)))
    assert (page.backend, page.linear, page.obstacles) == ("native", False, ())
    assert "affine by a constant matrix" in page.reason
