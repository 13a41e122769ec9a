"""``summary``: what a model is made of, as a table."""

import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.tree_util as jtu
from rich.console import Console
from rich.table import Table

from noria.layers.base import Layer
from noria.module import Module, is_inexact, iterate_modules, named_leaves, trainable_mask


class Row(NamedTuple):
    """One array of a model."""

    layer: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    trainable: bool


@dataclass(frozen=True)
class Summary:
    """The arrays of a model and their totals; prints as a table.

    Attributes:
        rows: one for each array, in order.
        trainable: numbers that are trained.
        frozen: numbers that are not.
        bytes: memory of all arrays.
    """

    title: str
    rows: tuple[Row, ...]
    trainable: int
    frozen: int
    bytes: int

    def __rich__(self) -> Table:
        totals = f"{self.trainable:,} trainable, {self.frozen:,} not, {self.bytes:,} bytes"
        table = Table(
            title=self.title, caption=totals, title_justify="left", caption_justify="left"
        )
        for column in ("layer", "array", "shape", "dtype"):
            table.add_column(column)
        table.add_column("parameters", justify="right")
        table.add_column("trainable")
        before = None
        for row in self.rows:
            layer, before = ("" if row.layer == before else row.layer), row.layer
            shape = " × ".join(map(str, row.shape)) or "1"
            table.add_row(
                layer,
                row.name,
                shape,
                row.dtype,
                f"{row.parameters:,}",
                "yes" if row.trainable else "no",
            )
        return table

    def __str__(self) -> str:
        text = io.StringIO()
        Console(file=text, width=120).print(self)
        return text.getvalue().rstrip()


def summary(model: Any) -> Summary:
    """The layers and arrays of a model: shapes, dtypes, numbers of parameters, trainable or not.

    Returns:
        A `Summary`: print it to look at it; its ``rows`` and totals are for programs.

    >>> import jax, noria as nr
    >>> net = nr.Chain(nr.GRU(2, 8, key=jax.random.key(0)), nr.Dense(8, 1, key=jax.random.key(1)))
    >>> table = nr.summary(nr.freeze(net, lambda m: m[0]))
    >>> table.trainable, table.frozen
    (9, 264)
    """
    owners = sorted(
        ((path, module) for path, module in iterate_modules(model)), key=lambda pair: len(pair[0])
    )
    rows = []
    for (name, leaf), trained in zip(
        named_leaves(model), jtu.tree_leaves(trainable_mask(model)), strict=True
    ):
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            layer = _layer_of(name, owners)
            size = int(leaf.size) if is_inexact(leaf) else 0
            rows.append(Row(layer, name, tuple(leaf.shape), str(leaf.dtype), size, trained))
    trainable = sum(row.parameters for row in rows if row.trainable)
    nbytes = sum(leaf.nbytes for _, leaf in named_leaves(model) if hasattr(leaf, "nbytes"))
    total = sum(row.parameters for row in rows)
    return Summary(type(model).__name__, tuple(rows), trainable, total - trainable, nbytes)


def _layer_of(name: str, owners: list[tuple[str, Module]]) -> str:
    """The innermost layer around an array, or else the innermost module."""
    around = [
        module for path, module in owners if name.startswith(path) and name[len(path) :][:1] in ".["
    ]
    layers = [module for module in around if isinstance(module, Layer)]
    if layers:
        return layers[-1].label
    return type(around[-1]).__name__ if around else ""
