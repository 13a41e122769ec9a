"""Change the formulas of the catalogue's cells, and list the changes that the oracles miss.

    python scripts/mutate_cells.py                   # all cells, some minutes
    python scripts/mutate_cells.py mgu lem           # some cells
    python scripts/mutate_cells.py --wrappers        # the files of the wrappers
    python scripts/mutate_cells.py --wrappers wrappers_norms

A mutant is a class with one change in a method: an operator, a function, a number, or one parameter
in the place of another of the same shape. It is run as in ``tests/test_cells.py``, under all
settings for which there is an oracle. A mutant survives if it gives the numbers of the oracle under
each of them. Some changes do not change the numbers, so survivors are to be read.

A mutant of a wrapper is a file of ``noria.cells`` with one change. It survives if it gives the
numbers of ``tests/wrapper_oracles.py``, and if the tests of single wrappers in
``tests/test_wrappers.py`` pass.
"""

import ast
import contextlib
import copy
import functools
import importlib
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.tree_util as jtu
import numpy as np
import pytest
import typer
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import test_wrappers
import wrapper_oracles
from cell_checks import CASES, TIME, by_oracle, cell_of, inputs_of, numbers, options_of, start_of
from fuzzing.evaluate import evaluated
from models import random

import noria as nr
from noria._errors import describe
from noria.cells.catalogue import catalogue, class_of

#: The files of the wrappers; each imports from earlier ones only.
FILES = [
    "wrappers",
    "products",
    *(f"wrappers_{name}" for name in "dropout zoneout norms products clockwork".split()),
    *(f"wrappers_{name}" for name in "time gates fast_slow".split()),
]

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
#: Functions and methods that are no part of a step.
_OTHER = re.compile(r"_*check\w*|__init__|initial_state|_call|_first")


def places(tree: ast.Module) -> list[ast.AST]:
    """What may be changed in functions and methods, but for messages of errors."""
    found: list[ast.AST] = []

    def visit(node: ast.AST) -> None:
        if not isinstance(node, ast.Raise):
            found.append(node)
            for child in ast.iter_child_nodes(node):
                visit(child)

    bodies = [node.body if isinstance(node, ast.ClassDef) else [node] for node in tree.body]
    for function in (node for body in bodies for node in body):
        if isinstance(function, ast.FunctionDef) and not _OTHER.fullmatch(function.name):
            for statement in function.body:
                visit(statement)
    return found


def mutants(tree: ast.Module, shapes: dict[str, Any]) -> Iterator[tuple[str, ast.Module]]:
    """Each change with the changed source."""
    for place, node in enumerate(places(tree)):
        for what, change in changes(node, shapes):
            other = copy.deepcopy(tree)
            change(places(other)[place])
            line = getattr(node, "lineno", 0)
            yield f"line {line}: {what}", ast.fix_missing_locations(other)


def changes(node: ast.AST, shapes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
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
        options, start = options_of(cell, TIME), start_of(cell)
        layer = nr.Recurrence(cell, backend="reference")
        final, ys = evaluated(functools.partial(scanned, layer), start, xs, options)
        expected = by_oracle(key, cell, numbers(start), numbers(xs), numbers(options.get("dt")))
        for a, b in zip([*jtu.tree_leaves(final), ys], expected, strict=True):
            if not np.allclose(a, b, 1e-9, 1e-9, equal_nan=True):
                return False
    return True


def sources_of(cls: Any) -> list[str]:
    """The source of a class, behind those of the private classes of its file that it is made of."""
    alike = [one for one in cls.__mro__[1:] if one.__module__ == cls.__module__]
    private = [one for one in reversed(alike) if one.__name__.startswith("_")]
    return [textwrap.dedent(inspect.getsource(one)) for one in (*private, cls)]


def of_cells(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Each mutant of a cell, and whether it survives."""
    for key in track(names or list(catalogue())):
        cls = class_of(catalogue()[key])
        module, cell = importlib.import_module(cls.__module__), cell_of(cls)
        assert survives(cls, key), f"{key}: the class itself differs from its oracle"
        tree = ast.parse("\n".join(sources_of(cls)))
        shapes = {n: a.shape for n in cell._parameters if (a := getattr(cell, n)) is not None}
        for what, changed in mutants(tree, shapes):
            space, found = dict(vars(module)), False
            with contextlib.suppress(Exception):
                exec(compile(changed, f"<{key}>", "exec"), space)
                found = survives(space[cls.__name__], key)
            yield f"{key} {what}", found


# --- wrappers -------------------------------------------------------------------------------------


def of_wrappers(names: list[str]) -> Iterator[tuple[str, bool]]:
    """Each mutant of a file of wrappers, and whether it survives."""
    assert all(map(as_expected, wrapper_oracles.WRAPPERS)), "a wrapper differs from its oracle"
    for file in names or FILES:
        tree = ast.parse(source_of(file))
        wrapped = [wrapper_oracles.WRAPPERS[n].make(wrapper_oracles.lstm) for n in alike(file)]
        shapes = {n: str(describe(a)) for one in wrapped for n, a in vars(one).items() if arrays(a)}
        for what, changed in track([*mutants(tree, shapes)], file):
            found = False
            with contextlib.suppress(Exception), exchanged(file, changed):
                found = passes(file)
            yield f"{file} {what}", found


def source_of(file: str) -> str:
    return Path(importlib.import_module(f"noria.cells.{file}").__file__ or "").read_text()


def arrays(tree: Any) -> bool:
    return any(isinstance(leaf, jax.Array) for leaf in jtu.tree_leaves(tree))


def alike(file: str) -> list[str]:
    """The wrappers that a change of a file may change."""
    rows = wrapper_oracles.WRAPPERS.items()
    modules = {name: type(row.make(wrapper_oracles.lstm)).__module__ for name, row in rows}
    found = [name for name, module in modules.items() if module.endswith(f".{file}")]
    return found if file.startswith("wrappers_") else list(modules)


@contextlib.contextmanager
def exchanged(file: str, changed: ast.Module) -> Iterator[None]:
    """Put a changed file, and the files that import it, in the places of the loaded ones."""
    users = [wrapper_oracles, test_wrappers]
    before = [dict(vars(user)) for user in users]
    loaded = dict(sys.modules)
    try:
        for name in FILES[FILES.index(file) :]:
            module = types.ModuleType(f"noria.cells.{name}")
            tree = changed if name == file else ast.parse(source_of(name))
            sys.modules[module.__name__] = module
            exec(compile(tree, f"<{name}>", "exec"), vars(module))
            for user in users:
                own = {n: v for n, v in vars(module).items() if n in vars(user)}
                vars(user).update({n: v for n, v in own.items() if not n.startswith("_")})
        test_wrappers.made.cache_clear()
        yield
    finally:
        sys.modules.update(loaded)
        for user, names in zip(users, before, strict=True):
            vars(user).update(names)


def as_expected(name: str) -> bool:
    """Whether a wrapper gives the numbers of its oracle around both cells."""
    for base in wrapper_oracles.BASES.values():
        cell, xs = wrapper_oracles.WRAPPERS[name].make(base), random(2, TIME, 3)
        layer = nr.Recurrence(cell, backend="reference")
        options = wrapper_oracles.options_of(name)
        final, ys = evaluated(lambda xs: layer.scan(None, xs, **options), xs)  # noqa: B023
        if not np.allclose(ys, wrapper_oracles.by_oracle(name, cell, xs, final), 1e-9, 1e-9):
            return False
    return True


def passes(file: str) -> bool:
    """Whether the oracles and the tests of single wrappers miss a change."""
    with contextlib.suppress(Exception, pytest.fail.Exception):
        if not all(map(as_expected, alike(file))):
            return False
        for name, test in vars(test_wrappers).items():
            if name.startswith("test_") and not inspect.signature(test).parameters:
                test()
        for name in ("variational", "changes"):
            test_wrappers.test_masks_belong_to_a_sequence(name)
        return True
    return False


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Cells, or files of wrappers; all by default.")
    ] = None,
    wrappers: Annotated[bool, typer.Option(help="Wrappers instead of cells.")] = False,
) -> None:
    """List the surviving mutants."""
    jax.config.update("jax_enable_x64", True)
    found = [*(of_wrappers if wrappers else of_cells)(names or [])]
    alive = [what for what, survives in found if survives]
    print(f"{len(found)} mutants, {len(alive)} survive")
    print("\n".join(alive))


if __name__ == "__main__":
    typer.run(main)
