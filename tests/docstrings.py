"""The structure of public docstrings: `faults` names what one of them lacks.

A docstring has one sentence in its first line, names each parameter under ``Args:`` (or
``Attributes:`` for the fields of a record), has ``Returns:`` if there is a result, ``Raises:`` if
the body raises or checks its arguments, and for each function and class an example.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

#: ``    name: text`` in a section, also ``*args`` and ``**kwargs``.
ENTRY = re.compile(r"^    (\*{0,2}\w+): ", re.MULTILINE)
SECTION = re.compile(r"^([A-Z]\w+):\n((?:(?: .*)?\n)*)", re.MULTILINE)


def members(module: Any) -> dict[str, Any]:
    """The names of ``module``, those that it imports on use too."""
    on_use = vars(module).get("_ON_USE", ())
    return {**vars(module), **{name: getattr(module, name) for name in on_use}}


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """Every public function and class of ``module``, and every method and property of a class.

    The name of a method is ``Class.method``.
    """
    for name, thing in sorted(members(module).items()):
        if name.startswith("_") or not callable(thing) or inspect.ismodule(thing):
            continue
        if not getattr(thing, "__module__", "").startswith("noria"):
            continue  # a type alias, or an initialiser of JAX
        yield name, thing
        if inspect.isclass(thing):
            for attribute, value in sorted(vars(thing).items()):
                if attribute == "__call__" or not attribute.startswith("_"):
                    value = getattr(value, "__func__", value)  # of a class method
                    if inspect.isfunction(value) or isinstance(value, property):
                        yield f"{name}.{attribute}", getattr(thing, attribute)


def faults(thing: Any, is_member: bool = False) -> list[str]:
    """What the docstring lacks; a member of a class may do without an example."""
    text = inspect.getdoc(thing) or ""
    first, _, rest = text.partition("\n")
    found = [] if first.endswith(".") else ["the first line is not a sentence"]
    if isinstance(thing, property):
        return found
    sections = dict(SECTION.findall(f"{rest}\n"))
    named = {
        entry
        for section in ("Args", "Attributes")
        for entry in ENTRY.findall(sections.get(section, ""))
    }
    found += [f"{entry} is not named" for entry in _parameters(thing) if entry not in named]
    if _raises(thing) and "Raises" not in sections:
        found.append("there is no Raises section")
    if not inspect.isclass(thing) and _returns(thing) and "Returns" not in sections:
        found.append("there is no Returns section")
    if not is_member and ">>>" not in text:
        found.append("there is no example")
    return found


def _parameters(thing: Callable[..., Any]) -> list[str]:
    if inspect.isclass(thing) and "__init__" not in vars(thing) and not _is_record(thing):
        return []  # abstract, or made by iterating
    stars: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return [
        stars.get(parameter.kind, "") + name
        for name, parameter in inspect.signature(thing).parameters.items()
        if name != "self" and not name.startswith("_")
    ]


def _is_record(cls: type) -> bool:
    return hasattr(cls, "__dataclass_fields__") or hasattr(cls, "_fields")


def _body(thing: Any) -> ast.AST:
    """The code of a function, or of the ``__init__`` of a class."""
    function: Any = vars(thing).get("__init__") if inspect.isclass(thing) else thing
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):  # there is none, or `dataclass` made it
        return ast.Pass()


def _raises(thing: Any) -> bool:
    for node in ast.walk(_body(thing)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        function = getattr(node, "func", None)
        name = getattr(function, "id", getattr(function, "attr", ""))
        if re.match(r"_?check_|need_", str(name)):
            return True
    return False


def _returns(thing: Callable[..., Any]) -> bool:
    annotation = inspect.signature(thing).return_annotation
    return annotation not in (None, "None", inspect.Signature.empty)
