"""Write ``docs/what-runs-fast.md`` from the reasons of the compiler.

    python scripts/what_runs_fast.py            # needs a CPU with native code
    python scripts/what_runs_fast.py --check    # fail if the page would change

The examples are cells in one line. The script asks `explain` about each, so the page shows the
messages and the choices of the compiler; ``tests/test_reasons.py`` compares the page with them.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from textwrap import fill
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import noria as nr
from noria.backends.native.machine import Tuning, tuning, using
from noria.ir.reasons import CHOICE, CHUNKS, CODE, GRADIENT, Reason

PAGE = Path(__file__).resolve().parent.parent / "docs" / "what-runs-fast.md"
SIZE, BATCH, TIME = 8, 2, 6


def printed(x: jax.Array) -> jax.Array:
    jax.debug.print("{}", x)
    return x


@jax.custom_vjp
def cube(x: jax.Array) -> jax.Array:
    """The derivative of this function sorts."""
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (jnp.sort(x) * g,))


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    """The identity, with a clipped cotangent."""
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))


def _array(*shape: int) -> jax.Array:
    return jnp.asarray(0.1 * np.random.default_rng(0).normal(size=shape), jnp.float32)


#: Names of examples, besides the state, ``x`` and ``context``.
NAMES: dict[str, Any] = {
    "jax": jax,
    "jnp": jnp,
    "printed": printed,
    "clipped": clipped,
    "cube": cube,
    "U": _array(SIZE, SIZE),
    "A": _array(2, 3, SIZE),
    "P": _array(2, 4, 4),
    "c": jnp.asarray(0.9 * np.exp(1j * np.arange(SIZE)), jnp.complex64),
    "ROUNDS": 30,
}


@dataclass(frozen=True)
class Example:
    """A cell, and how it is called.

    Attributes:
        next: the next state, an expression of the ``state``, ``x`` and the ``given`` arguments.
        state: the names of the arrays of the state, and their shapes.
        output: the output; by default the first array of the state.
        given: arguments of the call that the step reads.
        shape: of the input.
        dtype: of input and state.
        options: of the layer.
        most: the limit of operations; by default that of the backend.
        note: follows the example on the page.
    """

    next: str
    state: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"h": (SIZE,)})
    output: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    shape: str = f"{BATCH}, {TIME}, {SIZE}"
    dtype: Any = jnp.float32
    options: dict[str, Any] = field(default_factory=dict)
    most: int = Tuning.equations
    note: str = ""

    def __str__(self) -> str:
        text = f"`{', '.join(self.state)} = {self.next}`" if self.state else "no state"
        output = [f"output `{self.output}`"] if self.output else []
        options = [f'`{name}="{value}"`' for name, value in self.options.items()]
        return "; ".join((", ".join((text, *output, *options)), *filter(None, [self.note])))

    @cached_property
    def explanation(self) -> Any:
        shape = jax.export.symbolic_shape(self.shape)
        xs = jax.ShapeDtypeStruct(shape, self.dtype)
        layer = nr.Recurrence(_Cell(self), **self.options)
        with using(replace(tuning(), equations=self.most)):
            return nr.explain(layer, xs, **self.given)

    def messages(self) -> list[str]:
        """Everything that the compiler says about the cell."""
        try:
            page = self.explanation
        except ValueError as error:
            return [str(error)]
        return [page.reason, *page.obstacles, page.chunkwise]


class _Cell(nr.Cell):
    example: Example = eqx.field(static=True)

    def _of(self, text: str, state: Any, x: Any, context: Any) -> Any:
        names = dict(zip(self.example.state, state, strict=True))
        return eval(text, NAMES | names | {"x": x, "context": context})

    def __call__(self, state: Any, x: Any, *, context: Any = None) -> Any:
        found = self._of(self.example.next, state, x, context)
        return tuple(found) if len(self.example.state) != 1 else (found,)

    def output(self, state: Any, x: Any, *, context: Any = None) -> Any:
        text = self.example.output or next(iter(self.example.state), "x")
        return self._of(text, state, x, context)

    def initial_state(self) -> Any:
        return tuple(jnp.zeros(s, self.example.dtype) for s in self.example.state.values())


MATRIX: dict[str, tuple[int, ...]] = {"S": (SIZE, SIZE)}
OUTER = "x[:, None] * x"
FREE, NOTE = f"batch, {TIME}, {SIZE}", "exported with a free batch"

#: A cell for each reason that a cell, and not the machine, can give.
EXAMPLES: dict[Reason, Example] = {
    Reason.AS_ASKED: Example("jnp.tanh(U @ h + x)", options={"backend": "scan"}),
    Reason.FASTEST: Example("jnp.tanh(U @ h + x)"),
    Reason.ANY_DEVICE: Example("jnp.sort(h + x)"),
    Reason.NO_LOOP: Example("h + 1"),
    Reason.CONSTANT_MATRIX: Example("U @ h + x"),
    Reason.SIDE_EFFECT: Example(
        "jnp.tanh(h + printed(x))", note="`printed` calls `jax.debug.print`"
    ),
    Reason.NONLINEAR_RULE: Example(
        "jnp.tanh(clipped(context) @ h + x)",
        given={"context": _array(BATCH, SIZE, SIZE)},
        note="the derivative rule of `clipped` clips",
    ),
    Reason.NO_CODE: Example("jnp.sort(h + x)"),
    Reason.NO_VALUES: Example("jnp.roll(h, 1)", dtype=jnp.float16, note="in float16"),
    Reason.TOO_LONG: Example(
        "[h := jnp.sin(h + x) for _ in range(ROUNDS)][-1]", most=50, note="in thousands of rounds"
    ),
    Reason.CONTEXT: Example(
        "h + jnp.tanh(x @ context)",
        given={"context": _array(BATCH, SIZE, SIZE)},
        note="`context` is a matrix",
    ),
    Reason.COMPLEX: Example("jnp.sort(c * h + x)", dtype=jnp.complex64, note="in complex64"),
    Reason.NO_STATE: Example("()", state={}, options={"backend": "native"}),
    Reason.SYMBOLIC: Example("jnp.tanh(h + x)", shape=FREE, note=NOTE),
    Reason.OTHER_LOOP: Example("cube(0.5 * h) + x", note="the derivative rule of `cube` sorts"),
    Reason.NO_GRADIENT: Example("jax.lax.while_loop(lambda a: a.sum() < 1, jnp.exp, h + x)"),
    Reason.NO_MATRIX: Example("0.5 * h + x", options={"backend": "chunkwise"}),
    Reason.FOLLOWS_MATRIX: Example(
        f"S + {OUTER}, jnp.maximum(m, x @ S)", state={**MATRIX, "m": (SIZE,)}, output="m"
    ),
    Reason.NOT_LINEAR: Example("S + x[:, None] * jnp.tanh(x @ S)", state=MATRIX, output="x @ S"),
    Reason.WHOLE_READ: Example(f"S + {OUTER}", state=MATRIX, output="S"),
    Reason.TWO_READS: Example(f"S + {OUTER}", state=MATRIX, output="x @ (S + S.T)"),
    Reason.SCALED_READ: Example(f"jnp.exp(-{OUTER}) * S + {OUTER}", state=MATRIX, output="x @ S"),
    Reason.BOTH_AXES: Example(f"S + {OUTER}", state=MATRIX, output="x @ S + S @ x"),
    Reason.DENSE_DECAY: Example(f"jnp.exp(-{OUTER}) * S + {OUTER}", state=MATRIX, output="x"),
    Reason.TWO_MATRICES: Example(
        f"S + M, 0.9 * M + {OUTER}", state={**MATRIX, "M": (SIZE, SIZE)}, output="x @ S"
    ),
    Reason.MIXED: Example(f"S.T + {OUTER}", state=MATRIX, output="x @ S"),
    Reason.PARTIAL_RESET: Example(
        f"jnp.where(x[:, None] > 0, U, S) + {OUTER}", state=MATRIX, output="x @ S"
    ),
    Reason.DENSE_UPDATE: Example(f"0.9 * S + jnp.exp({OUTER})", state=MATRIX, output="x @ S"),
    Reason.SCALED_FEEDBACK: Example("S - x[:, None] * (x * (x @ S))", state=MATRIX, output="x"),
    Reason.TWO_SUMS: Example(
        "S + jnp.einsum('abk,abv->kv', A * x, A * x)", state=MATRIX, output="x @ S"
    ),
    Reason.FREE_SIZES: Example(
        f"S + {OUTER}",
        state=MATRIX,
        output="x @ S",
        shape=FREE,
        note=NOTE,
        options={"backend": "chunkwise"},
    ),
}

#: Kinds of cells: a name, cells of that kind, and one of them.
KINDS: list[tuple[str, str, Example]] = [
    ("gates", "LSTM, GRU", Example("jnp.tanh(U @ h + x) * jax.nn.sigmoid(U @ h - x)")),
    ("norms", "layer-norm LSTM", Example("jax.nn.standardize(U @ h) + x")),
    (
        "heads",
        "sLSTM",
        Example("jnp.tanh(jnp.einsum('abc,ac->ab', P, h.reshape(2, 4)).ravel() + x)"),
    ),
    ("linear, element by element", "minGRU, RG-LRU", Example("jax.nn.sigmoid(x) * h + x")),
    (
        "linear, two arrays element by element",
        "LinOSS, rotations",
        Example("v - 0.1 * h + x, h + 0.1 * v", state={"v": (SIZE,), "h": (SIZE,)}),
    ),
    ("constant matrix", "LMU, S4", Example("U @ h + x")),
    ("complex", "LRU, S5", Example("c * h + x", dtype=jnp.complex64, output="h.real")),
    ("delays", "QRNN, token shift", Example("0.5 * h + b, x", state={"h": (SIZE,), "b": (SIZE,)})),
    ("matrix by decay", "RetNet, GLA", Example(f"0.9 * S + {OUTER}", state=MATRIX, output="x @ S")),
    (
        "delta rule",
        "DeltaNet",
        Example("S + x[:, None] * (x - x @ S)", state=MATRIX, output="x @ S"),
    ),
    (
        "matrix, not linear",
        "TTT",
        Example("S + x[:, None] * jnp.tanh(x @ S)", state=MATRIX, output="x @ S"),
    ),
    (
        "attention over a window",
        "",
        Example(
            "jnp.concatenate([K[1:], jnp.tanh(x + K[0])[None]])",
            state={"K": (24, SIZE)},
            output="jax.nn.softmax(K @ x) @ K",
        ),
    ),
    ("branches", "`jax.lax.cond`", Example("jax.lax.cond(x[0] > 0, jnp.tanh, jnp.sin, h + x)")),
    (
        "short inner loop",
        "`fori_loop`",
        Example("jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(U @ h + x), h)"),
    ),
    (
        "long inner loop",
        "`fori_loop`",
        Example("jax.lax.fori_loop(0, 300, lambda i, h: jnp.tanh(U @ h + x), h)"),
    ),
    (
        "convolution",
        "ConvLSTM",
        Example("jnp.tanh(jnp.convolve(h, x[:3], 'same') + x)"),
    ),
    (
        "small system of equations",
        "Kalman filter, MesaNet",
        Example("jnp.linalg.solve(jnp.eye(8) + jnp.outer(h, h), x)"),
    ),
    ("sorting", "", Example("jnp.sort(h + x)")),
    ("side effect", "`print`", Example("jnp.tanh(h + printed(x))")),
    ("delays only", "a moving average", Example("x")),
]

INTRODUCTION = """\
<!-- Written by scripts/what_runs_fast.py. -->

# Fast and slow cells

On CPUs, `backend="auto"` turns the loop of a cell into machine code. Where it cannot, the loop is
one `jax.lax.scan`, and products are still hoisted out of it. The first line of
`nr.explain(layer, xs)` names the backend and gives the reason.

This page lists all reasons, each with a small cell and with advice. It is generated from the
messages of the compiler, and the tests ask `explain` about every cell. A cell is shown as its next
state: `h`, `S`, `T` and `m` are arrays of the state, `x` is the input, and other names are arrays
that the cell closes over. The output is the first array of the state, if no other is given.

## Kinds of cells

* **loop**: the choice of `"auto"` on a CPU. On other devices, `scan` takes the place of `native`.
* **linear**: `backend="associative"` can run it, too.
* **chunks**: `backend="chunkwise"` can run it, too.

[Choose and tune a backend](backends.md) says when these two pay off.
"""

TOPICS = {
    CHOICE: ("The choice of a backend", "The first line of `explain` ends with one of these."),
    CODE: (
        "No machine code",
        "The first obstacle is part of the first line. If there are more, a list follows.",
    ),
    GRADIENT: ("The gradient", "These notes follow the reason of the backend."),
    CHUNKS: (
        "No chunkwise form",
        "`explain` prints these for a cell with matrices in its state. The form only matters for "
        '`backend="chunkwise"`; machine code needs none of it.',
    ),
}


def row(kind: str, cells: str, example: Example) -> str:
    page = example.explanation
    loop = page.backend if "loop" in page.states or page.backend == "plain" else "no loop"
    linear = "yes" if page.linear and loop != "no loop" else ""
    return f"| {kind} | {cells} | {loop} | {linear} | {'yes' * (page.chunkwise == 'yes')} |"


def wrapped(text: str, **options: Any) -> str:
    """A paragraph of lines of at most 100 columns; code in backticks stays on one line."""
    code = re.sub("`[^`]*`", lambda found: found.group().replace(" ", "\0"), text)
    lines = fill(code, 100, break_long_words=False, break_on_hyphens=False, **options)
    return lines.replace("\0", " ")


def entry(reason: Reason) -> Iterator[str]:
    """A reason as an item of a definition list."""
    yield f"`{re.sub(r'({[^}]*})+', '…', reason.text)}`"
    texts = [str(EXAMPLES[reason])] if reason in EXAMPLES else []
    for text in (*texts, reason.advice):
        yield wrapped(text, initial_indent=": ", subsequent_indent="  ")
    yield ""


def page() -> str:
    lines = [
        INTRODUCTION,
        "| kind | for example | loop | linear | chunks |",
        "|---|---|---|---|---|",
    ]
    lines += [row(*kind) for kind in KINDS]
    for topic, (title, text) in TOPICS.items():
        lines += ["", f"## {title}", "", wrapped(text), ""]
        lines += [line for reason in Reason if reason.topic == topic for line in entry(reason)]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail at a difference")
    if parser.parse_args().check:
        if PAGE.read_text() != page():
            sys.exit(f"{PAGE} would change: run {Path(__file__).name}")
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
