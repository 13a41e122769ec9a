"""The public surface, the layering of imports, and the contract of the guide."""

import ast
import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from docstrings import faults, members, public

import noria as nr
from noria import plot

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "noria"
FILES = sorted(SOURCE.parent.rglob("*.py"))  # the package, and the command line beside it


def surface() -> list[str]:
    """Every public name with its signature."""
    lines = []
    for module, prefix in (
        (nr, ""),
        (nr.activations, "activations."),
        (nr.cells, "cells."),
        (nr.data, "data."),
        (nr.initializers, "initializers."),
    ):
        for name, thing in sorted(members(module).items()):
            if name.startswith("_") or inspect.ismodule(thing) or not callable(thing):
                continue
            if prefix and not getattr(thing, "__module__", "noria").startswith("noria"):
                continue
            signature = inspect.signature(thing)
            bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
            shown = str(signature.replace(parameters=bare, return_annotation=signature.empty))
            lines.append(f"{prefix}{name}{re.sub(' at 0x[0-9a-f]+', '', shown)}")
    return lines


def test_names_and_signatures_change_only_on_purpose():
    """After a deliberate change: a line in CHANGELOG.md, and

    NORIA_WRITE_SURFACE=1 python -m pytest tests/test_public.py
    """
    path = ROOT / "tests" / "surface.txt"
    text = "\n".join(surface()) + "\n"
    if os.environ.get("NORIA_WRITE_SURFACE"):
        path.write_text(text)
    assert text == path.read_text()


PUBLIC = [
    pytest.param(thing, "." in name, id=f"{module.__name__}.{name}")
    for module in (nr, nr.activations, nr.cells, nr.data, nr.initializers, plot)
    for name, thing in public(module)
]


@pytest.mark.parametrize(("thing", "is_member"), PUBLIC)
def test_docstrings_name_parameters_results_errors_and_give_an_example(thing, is_member):
    assert not faults(thing, is_member)


GOOD = """Adds.

Args:
    a: a number.
    *others: numbers.

Returns:
    The sum.

Raises:
    ValueError: if it is 0.

Examples:
    >>> 1 + 1
    2
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("Adds.", "Adds"), "the first line is not a sentence"),
        (("    a: a", "    an: a"), "a is not named"),
        (("*others", "others"), "*others is not named"),
        (("Returns:", "Gives:"), "there is no Returns section"),
        (("Raises:", "Throws:"), "there is no Raises section"),
        ((">>> ", "> "), "there is no example"),
        (("Args:", "Arguments:"), "a is not named"),
    ],
)
def test_the_test_of_docstrings_can_fail(change, fault):
    def add(a: int, *others: int) -> int:
        if not sum(others, a):
            raise ValueError
        return sum(others, a)

    add.__doc__ = GOOD
    assert not faults(add)
    add.__doc__ = GOOD.replace(*change)
    assert fault in faults(add)


#: What everything may import; these import nothing but each other.
LEGEND = (
    "_atomic",
    "_errors",
    "_flags",
    "_functions",
    "_integers",
    "_jax",
    "_legendre",
    "_parameters",
    "_stored",
    "_types",
    "display",
)

#: What each part may import besides itself and those.
ALLOWED: dict[str, set[str]] = {
    **{part: set() for part in LEGEND},
    "activations": set(),
    "initializers": set(),
    "module": set(),
    "freezing": {"module"},
    "masking": {"ir"},
    "losses": {"masking"},
    "optimise": {"module"},
    "data": set(),
    "cells": {"module", "initializers"},
    "ir": set(),
    "ops": set(),
    "backends": {"cells", "ir", "masking"},
    "compiler": {"backends", "cells", "ir", "masking", "ops"},
    "layers": {"backends", "cells", "compiler", "ir", "masking", "module", "initializers"},
    "generate": {"backends", "cells", "layers"},
    "cell_page": {"cells", "layers"},
    "interop": {"activations", "cells", "compiler", "io", "ir", "layers", "module"},
    "summary": {"layers", "module"},
    "_description": {"cells", "module"},
    "io": {"_description", "cells", "module"},
    "train": {"_description", "backends", "data", "io", "module", "optimise"},
    "plot": {"train"},
    "demo": {"", "plot", "io", "data", "demo", "train"},
    "bench": {""},
    "__main__": set(),
    "noria_cli": {"bench", "cell_page", "cells", "demo", "interop", "train"},
}


def imports_of(path: Path) -> set[str]:
    """The imported parts: ``layers`` for ``noria.layers.base``, ``""`` for ``noria`` itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                [*alias.name.split("."), ""][1]
                for alias in node.names
                if alias.name.split(".")[0] == "noria"
            }
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "noria"
        ):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE.parent)))
def test_imports_point_one_way(path):
    part = (
        path.relative_to(SOURCE if path.is_relative_to(SOURCE) else SOURCE.parent)
        .parts[0]
        .removesuffix(".py")
    )
    if part == "__init__":
        return
    others = imports_of(path) - {part, *LEGEND}
    assert others <= ALLOWED[part], f"{part} may not import {sorted(others - ALLOWED[part])}"


#: What each room of the native backend may import of the others.
NATIVE: dict[str, set[str]] = {
    "machine": set(),
    "lower": {"machine"},
    "plan": {"machine", "lower"},
    "codegen": {"machine", "lower", "plan"},
    "runtime": {"machine", "lower", "plan", "codegen"},
    "loop": {"machine", "runtime"},
    "batching": {"loop"},
    "carried_sums": {"loop"},
    "head_groups": {"machine", "lower", "plan", "loop"},
    "unchanged": {"loop"},
    "kernel_call": {
        *("machine", "plan", "runtime", "loop"),
        *("carried_sums", "head_groups", "unchanged"),
    },
    "primitive": {"lower", "loop", "batching", "kernel_call"},
    "backend": {"machine", "lower", "runtime", "loop", "primitive"},
}

#: The rooms that work without LLVM, so that Noria can decide what to run where it is missing.
WITHOUT_LLVM = (
    "ir",
    "compiler",
    "backends/native/machine.py",
    "backends/native/lower",
    "backends/native/plan",
)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes besides those that only a type checker reads."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            todo += ast.iter_child_nodes(node)


def modules_of(path: Path) -> set[str]:
    """The modules that a file imports when it runs, with their full names."""
    found = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_rooms_of_the_native_backend_import_one_way():
    native = SOURCE / "backends" / "native"
    for room, allowed in NATIVE.items():
        for path in [native / f"{room}.py", *(native / room).rglob("*.py")]:
            if path.exists():
                names = [m.split(".") for m in modules_of(path)]
                rooms = {m[3] for m in names if m[:3] == ["noria", "backends", "native"] and m[3:]}
                assert rooms <= {room, *allowed}, f"{path}: {sorted(rooms)}"


def test_lowering_and_planning_do_not_import_llvm():
    for part in WITHOUT_LLVM:
        place = SOURCE / part
        for path in [place] if place.is_file() else place.rglob("*.py"):
            assert not [m for m in modules_of(path) if m.startswith("llvmlite")], path


def test_no_module_imports_itself_through_others():
    names = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    imports = {name: modules_of(path) & names.keys() - {name} for name, path in names.items()}
    # An __init__.py exports names of its own files, which is no circle.
    rest = {name: found for name, found in imports.items() if names[name].stem != "__init__"}
    rest = {name: found & rest.keys() for name, found in rest.items()}
    while rest:
        free = {name for name, found in rest.items() if not found & rest.keys()}
        assert free, f"a circle of imports: {sorted(rest)}"
        rest = {name: found for name, found in rest.items() if name not in free}


NATIVE_ROOMS = tuple(f"backends/native/{room}" for room in ("lower", "plan", "codegen", "runtime"))


@pytest.mark.parametrize("package", ["compiler", "ir", "ops", "interop/onnx", *NATIVE_ROOMS])
def test_the_table_of_a_package_has_each_of_its_files(package):
    text = ast.get_docstring(ast.parse((SOURCE / package / "__init__.py").read_text())) or ""
    table = re.findall(r"^`(\w+)` +\S", text, re.M)
    files = {path.stem for path in (SOURCE / package).glob("*.py")} - {"__init__"}
    assert sorted(table) == sorted(files)


def test_import_starts_no_backend():
    """`jax.distributed.initialize` has to come before the first array."""
    script = "import noria; from jax._src import xla_bridge; print([*xla_bridge._backends])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_noria_loads_no_optional_or_heavy_library():
    """LLVM is loaded when the first loop is native, importers on use; the rest is of commands."""
    heavy = ("llvmlite", "matplotlib", "typer", "rich", "noria.interop")
    script = f"import sys, noria; sys.exit(', '.join({{*sys.modules}} & {{*{heavy}}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def run_contract(name: str, *arguments: str, devices: int = 1) -> str:
    """The last line that a file of the contract prints."""
    file = ROOT.parent / "shared" / "contract" / f"{name}.py"
    if not file.exists():
        pytest.skip("the contract lies beside the checkout, in ../shared, and is not there")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, file, *arguments],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_contract_of_the_guide_runs_verbatim():
    assert run_contract("guide") == "the guide runs"


@pytest.mark.parametrize("devices", [1, pytest.param(4, marks=pytest.mark.full)])
def test_the_contract_of_long_runs_runs_verbatim_twice_in_a_folder(tmp_path, devices):
    for _ in range(2):
        assert run_contract("scale", str(tmp_path), devices=devices) == "the run goes on"


def test_the_contract_of_models_in_and_out_runs_verbatim():
    for needed in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(needed)
    assert run_contract("interop") == "models travel"


@pytest.mark.parametrize("layer", [nr.RNN, nr.LSTM, nr.GRU, nr.GRUv3])
def test_named_layers_type_every_option_of_their_cell_and_of_recurrence(layer):
    [options] = typing.get_args(typing.get_type_hints(layer)["options"])
    shown = inspect.signature(layer).parameters.values()
    keywords = {p.name for p in shown if p.kind is p.KEYWORD_ONLY} - {"key", "num_layers"}
    assert options.__optional_keys__ == keywords
    assert inspect.signature(nr.Recurrence).parameters.keys() - {"cell"} <= keywords
