"""One page about a cell of the catalogue, as text."""

import inspect
import re
import textwrap
from typing import Any

import jax
import jax.numpy as jnp

from noria.cells.base import arguments_of
from noria.cells.catalogue import Entry, class_of, papers, parameter_count
from noria.cells.spatial import SpatialCell
from noria.layers.explain import explain
from noria.layers.recurrence import Recurrence

#: Features and units of examples, and the shape of an image.
IN, HIDDEN, IMAGE = 3, 4, (8, 8, 3)


def equations(cls: type) -> str:
    """The equations in the docstring of a class."""
    text = inspect.getdoc(cls) or ""
    match = re.search(r"^::\n\n((?:(?: +.*)?\n)+)", text, re.MULTILINE)
    return textwrap.dedent(match[1]).strip("\n") if match else ""


def section(cls: type, name: str) -> str:
    """A section of the docstring of a class, such as ``Source``, in one line."""
    text = inspect.getdoc(cls) or ""
    match = re.search(rf"^{name}: ?((?:.+\n?)+)", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def settings(cls: Any) -> dict[str, str]:
    """What the docstrings of a class and of its bases say of each setting and size."""
    known = {*cls._settings, *(name for name, one in cls._sizes.items() if one.kw_only)}
    found: dict[str, str] = {}
    for base in cls.__mro__:
        doc = inspect.cleandoc(base.__doc__ or "")
        text = re.search(r"^Args:\n((?:    .*\n|\n)+)", doc, re.MULTILINE)
        for name, words in re.findall(
            r"^    (\w+): ((?:.+\n?(?:     .*\n?)*))", text[1] if text else "", re.MULTILINE
        ):
            if name in known:
                found.setdefault(name, " ".join(words.split()))
    return found


def about(entry: Entry) -> str:
    """All that there is to say of a cell.

    Args:
        entry: its entry.

    Returns:
        Its equations, arrays, count of parameters, backend, source, citation and an example.
    """
    cls = class_of(entry)
    inputs, step = (IMAGE, IMAGE) if issubclass(cls, SpatialCell) else (IN, (IN,))
    cell = cls(inputs, HIDDEN, key=jax.random.key(0))
    needs_time = "dt" in arguments_of(cell)
    given = {"dt": jnp.ones(5)} if needs_time else {}
    found = explain(Recurrence(cell), jnp.ones((5, *step), cell.dtype), **given)
    arrays = {**cell._parameters, **cell._states}
    shapes = {name: ", ".join(map(str, one.axes)) or "one number" for name, one in arrays.items()}
    facts = {
        "class": f"noria.cells.{entry.cls}{signature(cls)}",
        "states": "; ".join(f"{name} ({shapes[name]})" for name in cell._states),
        "gates": ", ".join(entry.gates) or "none",
        "arrays": "; ".join(f"{name} ({shapes[name]})" for name in cell._parameters),
        "parameters": f"{entry.parameters} = {parameter_count(entry, cell)} for {inputs} features "
        f"and {HIDDEN} units",
        "backend": f"{found.backend}: {found.reason}",
        "source": section(cls, "Source").replace("``", ""),
        "elsewhere": ", ".join(entry.libraries) or "no library that is known",
    }
    width = max(map(len, facts)) + 2
    lines = [
        textwrap.fill(f"{name:{width}}{text}", 100, subsequent_indent=" " * width)
        for name, text in facts.items()
    ]
    time = ", dt=dt" if needs_time else ""
    code = f"""\
import jax, noria as nr

layer = nr.Recurrence(nr.cells.{entry.cls}({inputs}, {HIDDEN}, key=jax.random.key(0)))
ys = layer(xs{time})  # xs: (batch, time, {", ".join(map(str, step))})"""
    parts = [
        f"{entry.name}\n{'=' * len(entry.name)}",
        (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", ""),
        textwrap.indent(equations(cls), "    "),
        "\n".join(lines),
        textwrap.indent(code, "    "),
        papers()[entry.paper],
    ]
    return "\n\n".join(parts)


def signature(cls: type) -> str:
    """The arguments of a constructor, without ``init`` and ``dtype``."""
    shown = [
        p for p in inspect.signature(cls).parameters.values() if p.name not in ("init", "dtype")
    ]
    plain = [p.replace(annotation=p.empty, default=_named(p.default)) for p in shown]
    return str(inspect.Signature(plain)).replace("key=None", "key")


class _Name:
    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _named(default: Any) -> Any:
    """A function as its name."""
    is_function = callable(default) and not isinstance(default, type)
    return _Name(default.__name__) if is_function else default
