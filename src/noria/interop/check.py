"""``check``: a model beside its original, and where they part."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from noria.interop.entries import as_numpy
from noria.layers.chain import Chain


@dataclass(frozen=True)
class Comparison:
    """How far the outputs of a model are from those of its reference.

    Attributes:
        agrees: whether no difference is above the tolerance.
        largest: the largest absolute difference.
        scale: the largest absolute value of the reference.
        place: the index of the largest difference in the outputs.
        step: the first step in which a difference is above the tolerance, or ``None``.
        layer: the first layer of which that is true, or ``None`` if the layers were not compared.
        label: the name of that layer.
        problem: what else is wrong, such as another shape; empty in most cases.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> print(nr.check(jnp.tanh, lambda xs: jnp.tanh(xs) + xs, jnp.zeros((4, 2))))
        agrees: the largest difference is 0 of 0
    """

    agrees: bool
    largest: float
    scale: float
    place: tuple[int, ...] = ()
    step: int | None = None
    layer: int | None = None
    label: str = ""
    problem: str = ""

    def __str__(self) -> str:
        size = f"the largest difference is {self.largest:.2g} of {self.scale:.2g}"
        if self.agrees:
            return f"agrees: {size}"
        where = f"layer {self.layer}, {self.label}: " if self.layer is not None else ""
        if self.problem:
            return f"differs: {where}{self.problem}"
        first = "" if self.step is None else f", the first one in step {self.step}"
        return f"differs: {where}{size}, at {list(self.place)}{first}"


def check(model: Any, reference: Any, example: Any, *, tolerance: float = 1e-5) -> Comparison:
    """Compare a model with its original on an example, and tell where they part.

    Args:
        model: a layer, or any function of arrays.
        reference: the original: a function of the same array, whose first output counts if it gives
            several. A module of PyTorch gets a tensor, anything else a NumPy array. A list has one
            function for each layer of ``model``, a `Chain`; a `Chain` of as many layers is such a
            list. Each layer then gets what the reference gave before it, so that the first one that
            differs is the one at fault.
        example: the input of both, ``(batch, time, in)`` or ``(time, in)``.
        tolerance: largest difference that is accepted, as a part of the largest value of the
            reference.

    Returns:
        A `Comparison`; print it. NaN agrees with NaN only.

    Raises:
        ValueError: if a list has another number of functions than ``model`` has layers.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> gru, dense = nr.GRU(2, 3, key=k1), nr.Dense(3, 1, key=k2)
        >>> wrong = lambda ys: dense(ys) + 1.0
        >>> found = nr.check(nr.Chain(gru, dense), [gru, wrong], jnp.ones((4, 2)))
        >>> found.agrees, found.layer
        (False, 1)
    """
    layers: Sequence[Any] = [model]
    if isinstance(reference, list | tuple | Chain) and isinstance(model, Chain):
        layers, reference = list(model), list(reference)
        if len(layers) != len(reference):
            raise ValueError(
                f"check: the reference has {len(reference)} parts; expected {len(layers)}, one for "
                "each layer of the model."
            )
    else:
        reference = [reference]
    found = []
    for n, (layer, original) in enumerate(zip(layers, reference, strict=True)):
        wanted = _output(original, example)
        label = getattr(layer, "label", type(layer).__name__) if len(layers) > 1 else ""
        place = n if len(layers) > 1 else None
        got = as_numpy(_first(layer(jnp.asarray(as_numpy(example)))))
        found.append(_compared(got, wanted, tolerance, place, label))
        if not found[-1].agrees:
            return found[-1]
        example = wanted
    return max(found, key=lambda comparison: comparison.largest / (comparison.scale or 1))


def _output(function: Callable[..., Any], example: Any) -> np.ndarray:
    torch = sys.modules.get("torch")
    example = as_numpy(example)
    if torch is not None and isinstance(function, torch.nn.Module):
        example = torch.from_numpy(np.array(example))
    return as_numpy(_first(function(example)))


def _first(outputs: Any) -> Any:
    return _first(outputs[0]) if isinstance(outputs, tuple | list) else outputs


def _compared(
    got: np.ndarray, wanted: np.ndarray, tolerance: float, layer: int | None, label: str
) -> Comparison:
    if got.shape != wanted.shape:
        text = f"its outputs have shape {got.shape}; those of the reference {wanted.shape}"
        return Comparison(False, np.inf, np.inf, layer=layer, label=label, problem=text)
    if not got.size:
        return Comparison(True, 0.0, 0.0)
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(got - wanted))
    difference = np.where(np.isnan(difference), np.inf, difference)
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = float(finite.max(initial=0.0))
    above = difference > tolerance * scale
    place = tuple(int(n) for n in np.unravel_index(difference.argmax(), difference.shape))
    step = None
    if above.any() and above.ndim > 1:
        steps = np.moveaxis(above, -2, 0).reshape(above.shape[-2], -1).any(axis=1)
        step = int(steps.argmax())
    largest = float(difference.max())
    return Comparison(not above.any(), largest, scale, place, step, layer, label)
