"""Run the Python blocks of pages from top to bottom with the installed package.

    python scripts/run_page.py docs/guide.md

The blocks of a page share one namespace, and a block marked ``python skip`` does not run. The
script needs only the package, so it runs in an environment with just the wheel.
"""

import importlib.metadata
import os
import re
import sys
import tempfile
from pathlib import Path

import noria


def run(page: Path) -> tuple[dict[str, object], int]:
    """Run a page in the current folder; return its names and the number of its blocks."""
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.name}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for block in blocks:
        lines_before = "\n" * text[: block.start(1)].count("\n")
        exec(compile(lines_before + block[1], str(page), "exec"), namespace)
    return namespace, len(blocks)


def main() -> None:
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    root = Path(__file__).resolve().parent.parent
    folder = Path(noria.__file__).parent
    if folder.is_relative_to(root / "src"):
        sys.exit(f"run_page: noria is {folder}; expected an installed wheel, not the source")
    assert importlib.metadata.version("noria") == noria.__version__
    for page in pages:
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            _, count = run(page)
            print(f"{page.name}: {count} blocks ran with {folder}", flush=True)


if __name__ == "__main__":
    main()
