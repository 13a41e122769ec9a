"""Change the formulas of the catalogue's cells, and list the changes that the oracles miss.

    python scripts/mutate_cells.py            # all cells, some minutes
    python scripts/mutate_cells.py mgu lem    # some cells

A mutant is a class with one change in a method: an operator, a function, a number, or one parameter
in the place of another of the same shape. It is run as in ``tests/test_cells.py``, under all
settings for which there is an oracle. A mutant survives if it gives the numbers of the oracle under
each of them. Some changes do not change the numbers, so survivors are to be read.
"""

import ast
import copy
import functools
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.tree_util as jtu
import numpy as np
import typer
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from cell_checks import CASES, TIME, by_oracle, cell_of, inputs_of, numbers, options_of
from fuzzing.evaluate import evaluated
from models import noise

import noria as nr
from noria.cells.catalogue import catalogue, class_of

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.USub: ast.UAdd,
}
FUNCTIONS = {
    "tanh": "sin",
    "sigmoid": "jnp.tanh",
    "relu": "jnp.tanh",
    "softplus": "jnp.tanh",
    "exp": "jnp.tanh",
    "softmax": "jax.nn.sigmoid",
}
#: Methods that are no part of a step.
_OTHER = {"__check_init__", "__init__", "initial_state"}


def mutants(cls: type, cell: Any) -> Iterator[tuple[str, ast.Module]]:
    """Each change with the source of the changed class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    places = [
        node
        for method in body.body
        if isinstance(method, ast.FunctionDef) and method.name not in _OTHER
        for statement in method.body
        for node in ast.walk(statement)
    ]
    shapes = {n: getattr(cell, n).shape for n in cell._parameters if getattr(cell, n) is not None}
    for place, node in enumerate(places):
        for what, change in changes(node, shapes):
            other = copy.deepcopy(tree)
            again = [
                found
                for method in next(n for n in other.body if isinstance(n, ast.ClassDef)).body
                if isinstance(method, ast.FunctionDef) and method.name not in _OTHER
                for statement in method.body
                for found in ast.walk(statement)
            ]
            change(again[place])
            line = getattr(node, "lineno", 0)
            yield f"line {line}: {what}", ast.fix_missing_locations(other)


def changes(node: ast.AST, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    """What may be changed at a node."""
    if isinstance(node, ast.BinOp | ast.UnaryOp) and type(node.op) in OPERATORS:
        kind = OPERATORS[type(node.op)]
        yield f"{ast.unparse(node)}: {kind.__name__}", lambda n: setattr(n, "op", kind())
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in FUNCTIONS:
            function = ast.parse(FUNCTIONS[name].replace("sin", "jnp.sin"), mode="eval").body
            yield f"{ast.unparse(node)}: {FUNCTIONS[name]}", lambda n: setattr(n, "func", function)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value!r}: plus 1", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Attribute) and node.attr in shapes:
        alike = [n for n, shape in shapes.items() if shape == shapes[node.attr] and n != node.attr]
        for other in alike[:2]:
            yield f"{node.attr}: {other}", lambda n, other=other: setattr(n, "attr", other)


def scanned(layer: Any, start: Any, xs: jax.Array, options: dict[str, Any]) -> Any:
    return layer.scan(start, xs, **options)


def survives(cls: Any, key: str) -> bool:
    """Whether a class gives the numbers of the oracle under all settings."""
    for name, settings in CASES:
        if name != key:
            continue
        cell = cell_of(cls, **settings)
        xs = inputs_of(cell, TIME)
        options, start = options_of(cell, TIME), noise(cell.initial_state(), 3, 0.5)
        layer = nr.Recurrence(cell, backend="reference")
        final, ys = evaluated(functools.partial(scanned, layer), start, xs, options)
        expected = by_oracle(key, cell, numbers(start), numbers(xs), numbers(options.get("dt")))
        for a, b in zip([*jtu.tree_leaves(final), ys], expected, strict=True):
            if not np.allclose(a, b, 1e-9, 1e-9, equal_nan=True):
                return False
    return True


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Cells; all by default.")] = None,
) -> None:
    """List the surviving mutants."""
    jax.config.update("jax_enable_x64", True)
    count, alive = 0, []
    for key in track(names or list(catalogue())):
        cls = class_of(catalogue()[key])
        module = importlib.import_module(cls.__module__)
        assert survives(cls, key), f"{key}: the class itself differs from its oracle"
        for what, tree in mutants(cls, cell_of(cls)):
            space = dict(vars(module))
            try:
                exec(compile(tree, f"<{key}>", "exec"), space)
                found = survives(space[cls.__name__], key)
            except Exception:
                found = False
            count += 1
            if found:
                alive.append(f"{key} {what}")
    print(f"{count} mutants, {len(alive)} survive")
    print("\n".join(alive))


if __name__ == "__main__":
    typer.run(main)
