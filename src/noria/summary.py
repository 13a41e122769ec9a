"""``summary``: the layers and arrays of a model, as a table."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.tree_util as jtu

from noria.display import page, paragraph, shape_text, table
from noria.layers.base import Layer
from noria.module import Module, is_inexact, iterate_modules, named_leaves, trainable_mask

_COLUMNS = ("layer", "array", "shape", "dtype", "parameters", "trainable")


class Row(NamedTuple):
    """One array of a model.

    Attributes:
        layer: label of the innermost layer around it.
        name: its path in the model, ``layers[0].cell.W``.
        shape: its shape.
        dtype: name of its dtype.
        parameters: floating and complex numbers in it.
        trainable: whether it is trained.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    trainable: bool


@dataclass(frozen=True)
class Summary:
    """The arrays of a model and their totals; prints as a table, and a notebook shows it as one.

    Attributes:
        title: name of the class of the model.
        rows: one record for each array, in order, with the fields ``layer``, ``name``, ``shape``,
            ``dtype``, ``parameters`` and ``trainable``.
        trainable: number of trained numbers.
        frozen: number of floating and complex numbers that are not trained.
        bytes: memory of all arrays, in bytes.

    Examples:
        >>> import jax, noria as nr
        >>> table = nr.summary(nr.Dense(8, 1, key=jax.random.key(1)))
        >>> [(row.name, row.shape) for row in table.rows], table.bytes
        ([('W', (1, 8)), ('b', (1,))], 36)
    """

    title: str
    rows: tuple[Row, ...]
    trainable: int
    frozen: int
    bytes: int

    @property
    def _totals(self) -> str:
        return f"{self.trainable:,} trainable, {self.frozen:,} not, {self.bytes:,} bytes"

    def _cells(self) -> Iterator[tuple[str, str, str, str, int, str]]:
        """One row for each array; a layer is named in its first one."""
        before = None
        for row in self.rows:
            layer, before = ("" if row.layer == before else row.layer), row.layer
            trained = "yes" if row.trainable else "no"
            yield layer, row.name, shape_text(row.shape), row.dtype, row.parameters, trained

    def _repr_html_(self) -> str:
        return page(paragraph(self.title), table(_COLUMNS, self._cells()), paragraph(self._totals))

    def __rich__(self) -> Any:
        from rich.table import Table  # here, since `import noria` need not load it

        table = Table(
            title=self.title, caption=self._totals, title_justify="left", caption_justify="left"
        )
        for column in _COLUMNS:
            table.add_column(column, justify="right" if column == "parameters" else "left")
        for *cells, parameters, trained in self._cells():
            table.add_row(*cells, f"{parameters:,}", trained)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=120).print(self)
        return text.getvalue().rstrip()


def summary(model: Any) -> Summary:
    """A table of the layers and arrays of a model, with shapes, dtypes and numbers of parameters.

    Args:
        model: a model, or any pytree that holds modules.

    Returns:
        A `Summary`. ``print`` it, or use its ``rows`` and totals in a program.

    Keras prints output shapes too; here a layer takes sequences of any length, so there are none.

    Examples:
        >>> import jax, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> net = nr.Chain(nr.GRU(2, 8, key=k1), nr.Dense(8, 1, key=k2))
        >>> table = nr.summary(nr.freeze(net, lambda m: m[0]))
        >>> table.trainable, table.frozen
        (9, 264)
    """
    owners = sorted(iterate_modules(model), key=lambda pair: len(pair[0]))
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
    """The label of the innermost layer around an array, or the class of the innermost module."""
    around = [
        module for path, module in owners if name.startswith(path) and name[len(path) :][:1] in ".["
    ]
    layers = [module for module in around if isinstance(module, Layer)]
    if layers:
        return layers[-1].label
    return type(around[-1]).__name__ if around else ""
