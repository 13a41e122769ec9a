"""Run the Python blocks of pages from top to bottom with the installed package.

    python scripts/run_page.py docs/guide.md

The blocks of a page share one namespace, and a block marked ``python skip`` does not run. A block
marked ``text`` that follows a Python block is what it prints. The script needs only the package, so
it runs in an environment with just the wheel.
"""

import contextlib
import importlib.metadata
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import noria

#: A Python block, and the text that the page shows below it.
BLOCK = re.compile(
    r"^```python\n(.*?)^```$(?:\n\n^```text\n(?P<shown>.*?)^```$)?", re.DOTALL | re.MULTILINE
)


def run(page: Path) -> tuple[dict[str, object], int]:
    """Run a page in the current folder; return its names and the number of its blocks.

    Raises:
        ValueError: if a block prints another text than the page shows below it.
    """
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.name}
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
        shown = block["shown"]
        if shown is not None and shown != printed.getvalue():
            raise ValueError(f"{page.name}:{line + 1}: the block prints\n{printed.getvalue()}")
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
