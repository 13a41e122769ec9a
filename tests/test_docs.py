"""Run every ``>>>`` example of the package and every Python block of README and docs."""

import contextlib
import doctest
import functools
import importlib
import importlib.util
import pkgutil
import re
import runpy
import tempfile
from pathlib import Path

import pytest
from docstrings import members

import noria

ROOT = Path(__file__).parent.parent
# The excluded modules have no examples, and import libraries that may be missing.
HAS_ONNX = importlib.util.find_spec("onnx") is not None
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(noria.__path__, "noria.")
    if not re.search("demo|peers" if HAS_ONNX else "demo|peers|interop.onnx", m.name)
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Paths in a page are relative to the root, the package, or the native backend.
BASES = (ROOT, ROOT / "src" / "noria", ROOT / "src" / "noria" / "backends" / "native")

pytestmark = pytest.mark.usefixtures("plain_jax")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


#: Folders that commands create.
GENERATED = {"site", "dist", "build", ".venv"}


#: `run` of the script that checks the wheel: the names of a page, and the number of its blocks.
run_page = runpy.run_path(str(ROOT / "scripts" / "run_page.py"))["run"]


@functools.cache
def names_of(page):
    """What the blocks of a page define. They run once, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return run_page(page)[0]


#: The README runs on each version of JAX; the guide runs with the wheel (`make test-wheel`).
MARKS = {"README.md": pytest.mark.versions, "guide.md": pytest.mark.full}
if not HAS_ONNX:
    MARKS["onnx.md"] = pytest.mark.skip("its examples need onnx")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=MARKS.get(page.name, ()), id=page.name) for page in PAGES],
)
def test_python_blocks_of_pages_run(page):
    names_of(page)


def test_the_text_below_a_block_must_be_what_it_prints(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(2)\n```\n\n```text\n2\n```\n")
    assert run_page(page)[1] == 1
    page.write_text("\n```python\nprint(2)\n```\n\n```text\n3\n```\n")
    with pytest.raises(ValueError, match=r"page.md:3: the block prints\n2\n"):
        run_page(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_pages_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff"], ids=lambda page: page.name)
def test_pages_have_lines_of_at_most_100_columns(page):
    long = [n for n, line in enumerate(page.read_text().splitlines(), 1) if len(line) > 100]
    assert not long, f"{page.name}: lines {long}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_name_exist(page):
    """Paths in backticks: `dir/file.py`, `dir/` or `file.toml`, relative to one of `BASES`."""
    for path in re.findall(r"`([\w./-]+(?:\.(?:py|txt|toml|md|rst|cff|png)|/))`", page.read_text()):
        if path.split("/")[0] in GENERATED:
            continue
        assert any((base / path).exists() for base in BASES), f"{page.name} names {path}"


def test_every_public_name_has_an_entry_in_the_reference():
    entries = "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "api").glob("*.rst")))
    documented = re.findall(r"^\.\. auto(?:class|function|data):: noria\.([\w.]+)$", entries, re.M)
    assert len(set(documented)) == len(documented), "a name has two entries"
    public = {name for name in members(noria) if is_public(noria, name)}
    plot = importlib.import_module("noria.plot")
    for module in (noria.activations, noria.cells, noria.data, noria.initializers, plot):
        part = module.__name__.removeprefix("noria.")
        public |= {f"{part}.{name}" for name in vars(module) if is_public(module, name)}
    assert public == set(documented)


def is_public(module, name):
    """Whether a name is public: not private, callable, and defined in the module or below it."""
    thing = getattr(module, name)
    own = getattr(thing, "__module__", "").startswith(module.__name__)
    borrowed = module is noria.initializers and name in ("zeros", "ones")
    return not name.startswith("_") and callable(thing) and (own or borrowed)
