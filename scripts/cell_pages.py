"""Write ``docs/cells/`` from the catalogue and the docstrings of its cells.

    python scripts/cell_pages.py            # a page for each family, and one with the list
    python scripts/cell_pages.py --check    # fail if a page would change

``tests/test_cells.py`` compares the pages with what this script writes.
"""

import argparse
import re
import sys
from pathlib import Path
from textwrap import fill

from noria.cell_page import equations, section, settings, signature
from noria.cells.catalogue import FAMILIES, Entry, catalogue, class_of, papers

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "cells"
NOTE = "<!-- Written by scripts/cell_pages.py. -->\n\n"


def wrapped(text: str, indent: str = "") -> str:
    return fill(
        text.replace("``", "`"),
        100,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def year(entry: Entry) -> str:
    """First author and year, from the BibTeX entry."""
    text = papers()[entry.paper]
    author = re.search(r"author = \{([^,}]+)", text)
    when = re.search(r"year = \{(\d+)\}", text)
    return f"{author[1] if author else entry.paper} {when[1] if when else ''}".strip()


def part(entry: Entry) -> str:
    """What a page says of one cell."""
    cls = class_of(entry)
    rows = {
        "class": f"`noria.cells.{entry.cls}{signature(cls)}`",
        "state": ", ".join(f"`{name}`" for name in entry.states),
        "gates": ", ".join(f"`{name}`" for name in entry.gates) or "none",
        "parameters": f"`{entry.parameters}`",
        "elsewhere": ", ".join(entry.libraries) or "in no library that is known",
    }
    lines = [f"* **{name}**: {text}" for name, text in rows.items()]
    lines += [f"* **setting** `{name}`: {text}" for name, text in settings(cls).items()]
    blocks = [
        f"## {entry.name}",
        wrapped((cls.__doc__ or "").partition("\n")[0]),
        f"```text\n{equations(cls)}\n```",
        "\n".join(wrapped(line, "  ") for line in lines),
        wrapped(section(cls, "Source")),
        wrapped("" if entry.differs in section(cls, "Source").replace("`", "") else entry.differs),
    ]
    return "\n\n".join(block for block in blocks if block)


def pages() -> dict[str, str]:
    """The texts by their file names."""
    found = {}
    families = {}
    for family, what in FAMILIES.items():
        entries = [entry for entry in catalogue().values() if entry.family == family]
        if entries:
            families[family] = entries
            title = f"# {family.capitalize()} cells"
            parts = "\n\n".join(map(part, entries))
            found[f"{family}.md"] = f"{NOTE}{title}\n\nThese cells: {what}.\n\n{parts}\n"
    found["index.md"] = NOTE + index(families)
    return found


def index(families: dict[str, list[Entry]]) -> str:
    """The page with the list of all cells."""
    count = sum(map(len, families.values()))
    text = wrapped(
        f"Noria has {count} cells of the literature besides `RNNCell`, `LSTMCell`, `GRUCell` and "
        "`GRUv3Cell`. Each is a class in `noria.cells`, with the equations of its paper, and "
        "tests compare it with an independent version in NumPy. Run any of them as "
        "`nr.Recurrence(nr.cells.MGUCell(in_size, hidden_size, key=key))`. `noria cells` lists "
        "them in a terminal, and `noria cells mgu` tells about one. Another page says what is "
        "[not in the catalogue](not-here.md), and why."
    )
    blocks = [f"# Cells of the literature\n\n{text}"]
    for family, entries in families.items():
        rows = "\n".join(
            f"| `{e.key}` | {e.name} | {', '.join(e.states)} | {year(e)} |" for e in entries
        )
        head = "| cell | name | state | paper |\n|---|---|---|---|"
        link = f"[{family.capitalize()} cells]({family}.md): {FAMILIES[family]}."
        blocks.append(f"## {family.capitalize()}\n\n{link}\n\n{head}\n{rows}")
    tree = "\n".join([*families, "not-here"])
    blocks.append(f"```{{toctree}}\n:hidden:\n\n{tree}\n```")
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if check and (not path.exists() or path.read_text() != text):
            sys.exit(f"{path.name} is out of date: run python scripts/cell_pages.py")
        if not check:
            path.write_text(text)


if __name__ == "__main__":
    main()
