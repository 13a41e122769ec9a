"""A node of a graph, and the exception for what has no translation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Unreadable(Exception):
    """A part of a graph that has no translation; the message says which."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node: its operator, the names of its values, and its attributes as Python objects."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def label(self) -> str:
        """The node in messages: its name, or else its operator and its first output."""
        return self.name or f"{self.op} of {next(iter(self.outputs), '')!r}"

    def get(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def __getitem__(self, name: str) -> Any:
        if name not in self.attributes:
            raise Unreadable(f"{self.label} has no attribute {name!r}")
        return self.attributes[name]

    def input(self, place: int) -> str:
        """The name of an input, or ``""`` if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""
