"""Documentation runs: every ``>>>`` of the package, and every Python block of README and docs, top to bottom."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import noria

ROOT = Path(__file__).parent.parent
# Those left out hold no examples, and import data sets or libraries that need not be installed.
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(noria.__path__, "noria.")
    if not re.search("demo|peers", m.name)
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

pytestmark = pytest.mark.usefixtures("plain_jax")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "page", [pytest.param(PAGES[0], marks=pytest.mark.versions), *PAGES[1:]], ids=lambda p: p.name
)
def test_pages(page, tmp_path, monkeypatch):
    """The blocks of a page run in one namespace. A block marked ``python skip`` needs another framework."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.name}
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
