"""HTML for notebooks: tables, the tree of a model, and the diagram of an explanation.

The functions take plain records and import no other part of the package. They escape all text.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

#: Colours are translucent and text inherits its colour, so light and dark notebooks both work.
_STYLE = """<style>
.noria {font-size: 13px; line-height: 1.45; max-width: 72em}
.noria code, .noria pre {font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12px}
.noria code {background: none; color: inherit; padding: 0}
.noria table {border-collapse: collapse; margin: .3em 0; font-size: inherit}
.noria th, .noria td {padding: .15em .7em; text-align: left; border: 0}
.noria th {border-bottom: 1px solid rgba(128, 128, 128, .5)}
.noria .number {text-align: right}
.noria .dim {opacity: .65}
.noria details {margin-left: 1.2em}
.noria summary {margin-left: -1.2em; cursor: pointer}
.noria .flow {display: flex; flex-wrap: wrap; gap: .6em; margin: .6em 0; align-items: flex-start}
.noria .box {flex: 1 1 15em; border-left: 4px solid; border-radius: 4px; padding: .4em .7em}
.noria .box div {margin-top: .35em; overflow-wrap: anywhere}
.noria .chip {display: inline-block; border-radius: 3px; padding: 0 .35em; margin: .1em .2em 0 0;
  background: rgba(128, 128, 128, .18)}
</style>"""


def page(*parts: str) -> str:
    """Parts of HTML in one block, with the style sheet."""
    return f'{_STYLE}<div class="noria">{"".join(parts)}</div>'


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<div>{escape(text)}</div>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header; integers are aligned to the right."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape(str(value))}</td>"


# --- Models ---------------------------------------------------------------------------------------


class Array(NamedTuple):
    """An array of a module."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    trained: bool


class Node(NamedTuple):
    """A module: its path below the module around it, its label, its arrays and its modules."""

    name: str
    label: str
    arrays: tuple[Array, ...]
    children: tuple["Node", ...]

    @property
    def parameters(self) -> int:
        return sum(array.parameters for array in self.arrays) + sum(
            child.parameters for child in self.children
        )


def tree(node: Node, depth: int = 0) -> str:
    """A model as nested sections, of which the two outer levels are open."""
    name = f"<code>{escape(node.name)}</code> " if node.name else ""
    count = f'<span class="dim">{node.parameters:,} parameters</span>'
    title = f"{name}<b>{escape(node.label)}</b> {count}"
    arrays = table(
        ("array", "shape", "dtype", "parameters", "trained"),
        (
            (array.name, shape_text(array.shape), array.dtype, array.parameters, _yes(array))
            for array in node.arrays
        ),
    )
    inside = (arrays if node.arrays else "") + "".join(
        tree(child, depth + 1) for child in node.children
    )
    if not inside:
        return f"<div>{title}</div>"
    state = " open" if depth < 2 else ""
    return f"<details{state}><summary>{title}</summary>{inside}</details>"


def shape_text(shape: tuple[int, ...]) -> str:
    """The sizes of the axes: ``12 × 2``; ``1`` for a scalar."""
    return " × ".join(map(str, shape)) or "1"


def _yes(array: Array) -> str:
    return "yes" if array.trained else "no"


# --- Explanations ---------------------------------------------------------------------------------

#: How the loop of a backend runs that takes no single steps.
_AT_ONCE = {"associative": "as a linear recurrence", "chunkwise": "chunk by chunk"}


class Part(NamedTuple):
    """A part of an explanation: its field, its title, and its colour in a diagram."""

    name: str
    title: str
    colour: str


def parts_of(backend: str) -> tuple[list[Part], list[Part]]:
    """The parts of a step and of its gradient, each in the order in which they run."""
    forward = [
        Part("constant", "constant: once", "128, 128, 128"),
        Part("context", "context: once per example", "0, 150, 170"),
        Part("before", "before: all steps at once", "30, 110, 220"),
        Part("loop", f"loop: {_AT_ONCE.get(backend, 'step by step')}", "225, 120, 0"),
        Part("after", "after: all steps at once", "20, 150, 90"),
    ]
    if backend in _AT_ONCE:  # JAX differentiates these
        return forward, []
    sums = (
        "summed up in the reverse loop, or after it"
        if backend == "native"
        else "all steps at once, after the reverse loop"
    )
    uses = f"where parameters enter the loop; their gradients: {sums}"
    return forward, [
        Part("reverse", "reverse loop: step by step, for the gradient", "200, 50, 60"),
        Part("gradients", uses, "130, 70, 190"),
    ]


def explanation_html(explanation: Any) -> str:
    """The diagram of a `noria.Explanation`: one coloured box for each part of the step."""
    return page(_diagram(explanation))


def explanations_html(explanations: Iterable[Any]) -> str:
    """The diagrams of several layers, one below the other."""
    return page("<hr>".join(map(_diagram, explanations)))


def _obstacle(text: str) -> str:
    return f'<div class="dim">{escape(text)}</div>'


def _diagram(explanation: Any) -> str:
    batch = "" if explanation.batch is None else f"{explanation.batch} examples, "
    title = (
        f"<div><b>{escape(explanation.label)}</b>: {batch}{explanation.time} steps, backend "
        f'<b>{escape(explanation.backend)}</b>: <span class="dim">{escape(explanation.reason)}'
        "</span></div>"
    )
    if explanation.sharing:
        title += f"<div>On {explanation.devices} devices: {escape(explanation.sharing)}.</div>"
    if len(explanation.obstacles) > 1:
        title += "<div>All obstacles:</div>" + "".join(map(_obstacle, explanation.obstacles))
    if explanation.flops is None:
        return title
    about = escape(" ".join(sentences(explanation)))
    forward, gradient = parts_of(explanation.backend)
    return (
        f"{title}<div>{about}</div>"
        f"{_flow(explanation, forward)}{_flow(explanation, gradient)}"
        f"<div>Stored for the gradient, <b>{amount(explanation.saved_bytes)}B</b>: "
        f"<code>{escape(stored(explanation))}</code></div>"
    )


def stored(explanation: Any) -> str:
    """The values that are stored for the gradient, as shapes of one example."""

    def counted(shapes: Iterable[str]) -> str:
        return ", ".join(f"{n} {shape}" for shape, n in Counter(shapes).items()) or "nothing"

    text = f"at each step {counted(explanation.saved)}"
    if explanation.segment:
        text += f"; every {explanation.segment} steps {counted(explanation.saved_segments)}"
    return text


def sentences(explanation: Any) -> list[str]:
    """Sentences about the arrays of the state."""
    places: dict[str, list[int]] = {}
    for n, kind in enumerate(explanation.states):
        places.setdefault(kind, []).append(n)
    lines = [
        f"No loop is needed for {kind} {', '.join(map(str, places[kind]))} of the state."
        for kind in ("delay", "counter", "output")
        if kind in places
    ]
    if "loop" in places:
        lines.append(
            f"The next state is {'' if explanation.linear else 'not '}affine and element-wise in "
            "the state."
        )
    if explanation.chunkwise == "yes":
        lines.append("Its matrices have a chunkwise form.")
    elif explanation.chunkwise:
        lines.append(f"Its matrices have no chunkwise form: {explanation.chunkwise}.")
    return lines


def _flow(explanation: Any, parts: Iterable[Part]) -> str:
    boxes = (_box(explanation, part) for part in parts if getattr(explanation, part.name))
    arrow = '<span class="dim">→</span>'
    return f'<div class="flow">{arrow.join(boxes)}</div>'


def _box(explanation: Any, part: Part) -> str:
    """One part: its title and cost, then each line of the cell with its equations."""
    name, title, colour = part
    flops = f"{amount((explanation.flops or {}).get(name, 0))}flop"
    passed = (explanation.bytes or {}).get(name)
    cost = f"{flops}, gives {amount(passed)}B" if passed else flops
    lines: dict[tuple[str, str], list[Any]] = {}
    for line in getattr(explanation, name):
        lines.setdefault((line.where, line.code), []).append(line)
    return (
        f'<div class="box" style="border-color: rgb({colour}); background: rgba({colour}, .08)">'
        f'<b>{escape(title)}</b><br><span class="dim">{escape(cost)}</span>'
        f"{''.join(_line(*place, found) for place, found in lines.items())}</div>"
    )


def _line(where: str, code: str, equations: Sequence[Any]) -> str:
    counts = Counter((equation.name, equation.shapes) for equation in equations)
    chips = "".join(
        f'<span class="chip" title="{escape(shapes)}">{escape(name)}'
        f"{'' if count == 1 else f' × {count}'}</span>"
        for (name, shapes), count in counts.items()
    )
    place = f'<span class="dim">{escape(where or "(the layer)")}</span>'
    return f"<div>{place} <code>{escape(code)}</code><br>{chips}</div>"


def amount(number: float) -> str:
    """A number of three digits with the prefix of its unit: ``1.23 M``."""
    for unit in ("", "k", "M", "G"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} T"
