"""Project files: metadata, extras, citation, and the checker of the built site."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import noria

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_written_once():
    assert PROJECT["dynamic"] == ["version"]
    assert f"\nversion: {noria.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {noria.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_is_marked_as_typed():
    assert (ROOT / "src" / "noria" / "py.typed").exists()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_every_extra_has_pinned_packages():
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    wanted = [name for extra in PROJECT["optional-dependencies"].values() for name in extra]
    wanted += PROJECT["dependencies"]
    names = {re.split(r"[^\w-]", name)[0] for name in wanted}
    assert names - {"noria"} <= {name.lower() for name in pinned}


def test_the_command_without_typer_says_what_to_install():
    script = "import sys; sys.modules['typer'] = None; import noria_cli"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "noria: the command line needs Typer; install it with: pip install 'noria[cli]'\n"
    )


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b.html#here">', None),
        ('<a href="https://example.org/">', None),
        ('<a href="c.html">', "a.html: c.html leads nowhere"),
        ('<a href="b.html#there">', "a.html: b.html#there has no such anchor"),
        ('<script src="https://example.org/x.js">', "a.html: loads https://example.org/x.js"),
        ('<img src="x.png">', "a.html: x.png leads nowhere"),
    ],
)
def test_the_check_of_the_site_finds_broken_links(tmp_path, body, fault):
    check = runpy.run_path(str(ROOT / "scripts" / "check_site.py"))["faults_of_links"]
    (tmp_path / "a.html").write_text(body)
    (tmp_path / "b.html").write_text('<p id="here">')
    assert list(check(tmp_path)) == ([] if fault is None else [fault])
