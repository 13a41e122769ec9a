"""Connectionist temporal classification: labels without their times."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from noria._errors import as_given, check_numbers
from noria.losses.average import Places, average
from noria.masking import check_lengths, valid_steps, valid_values, where, within


def ctc(
    logits: Any,
    labels: Any,
    *,
    lengths: Any = None,
    label_lengths: Any = None,
    blank: int = 0,
    weights: Any = None,
) -> Float[Array, ""]:
    """Mean loss of connectionist temporal classification, for labels without their times.

    ::

        mean(-log(sum over all paths of the labels of product_t softmax(logits_t)[path_t]))

    A path has one class for each step. Equal neighbours are merged and blanks removed, and the
    labels remain.

    Args:
        logits: ``(batch, time, classes)``, floats; the blank is one of the classes.
        labels: integers ``(batch, labels)`` from 0 to ``classes - 1``, without the blank.
        lengths: ``(batch,)`` integers, the valid steps of the logits; all of them without it.
        label_lengths: ``(batch,)`` integers, the valid labels; all of them without it.
        blank: the class of the blank.
        weights: ``(batch,)`` numbers of at least 0, the weight of each example in the mean.

    Returns:
        ``()``, the mean over the examples, of the dtype of the logits. It is infinite if an example
        has fewer steps than its labels need, which are its labels and a blank between equal ones.

    Raises:
        ValueError: if a shape does not fit, a weight is negative, or a label is the blank or no
            class where its value is known. Under `jax.jit` such a label gives NaN.
        TypeError: if logits are no floats or labels no integers.

    Source: Graves et al. 2006, ICML; computed by `optax.ctc_loss`. PyTorch's ``CTCLoss`` has time
    first, takes logarithms of probabilities and divides each loss by the number of its labels.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> logits = jnp.zeros((1, 2, 2))  # the paths are aa, a-, -a of four equally likely ones
        >>> round(float(nr.ctc(logits, jnp.array([[1]]))), 4)  # -log(3 / 4)
        0.2877
    """
    logits, given = jnp.asarray(logits), as_given(labels)
    check_numbers("ctc", "labels", given)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"ctc: logits are {logits.dtype}; expected floats.")
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(f"ctc: labels are {given.dtype}; expected whole numbers.")
    fits = logits.ndim == 3 and given.ndim == 2 and len(logits) == len(given)
    if not fits or not logits.shape[1]:
        raise ValueError(
            f"ctc: logits have shape {logits.shape}, labels {given.shape}; expected "
            "(batch, time, classes) with at least one step, and (batch, labels)."
        )
    if not 0 <= blank < logits.shape[-1]:
        raise ValueError(f"ctc(blank={blank}): expected a class from 0 to {logits.shape[-1] - 1}.")
    steps = _valid("lengths", lengths, logits.shape)
    valid = _valid("label_lengths", label_lengths, given.shape)
    places = Places(weights=weights)
    counted, _ = places.at("ctc", logits.shape[:1])
    used = valid if counted is None else valid & counted[:, None]
    _check_labels(valid_values(given, used), logits.shape[-1], blank)

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return _each(where(steps, logits, jnp.zeros_like(logits)), steps, labels, valid, blank)

    return average("ctc", loss, 2, logits, jnp.asarray(given), places)


def _valid(name: str, lengths: Any, shape: tuple[int, ...]) -> jax.Array:
    if lengths is None:
        return jnp.ones(shape[:2], bool)
    return valid_steps(check_lengths(f"ctc, {name}", lengths, shape, 1), shape[1])


@functools.partial(jax.jit, static_argnums=4)
def _each(
    logits: jax.Array, steps: jax.Array, labels: jax.Array, valid: jax.Array, blank: int
) -> jax.Array:
    """The loss of each example."""
    dtype, classes = logits.dtype, logits.shape[-1]
    wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    labels = within(labels, -1, classes)
    wrong = valid & ((labels < 0) | (labels >= classes) | (labels == blank))
    # Labels past the end are no blanks, so that the first of them ends no path.
    labels = jnp.where(valid & ~wrong, labels, 0 if blank else classes - 1)
    paddings = [(~part).astype(wide) for part in (steps, valid)]
    losses = optax.ctc_loss(logits.astype(wide), paddings[0], labels, paddings[1], blank_id=blank)
    repeated = valid[:, 1:] & (labels[:, 1:] == labels[:, :-1])
    enough = steps.sum(axis=1) >= valid.sum(axis=1) + repeated.sum(axis=1)
    losses = jnp.where(enough, losses, jnp.inf)
    return jnp.where(wrong.any(axis=1), jnp.nan, losses).astype(dtype)


def _check_labels(labels: np.ndarray | None, classes: int, blank: int) -> None:
    if labels is None or not labels.size:
        return
    if not 0 <= labels.min() <= labels.max() < classes or (labels == blank).any():
        raise ValueError(
            f"ctc: the labels go from {labels.min()} to {labels.max()}; expected 0 to "
            f"{classes - 1} without the blank, {blank}."
        )
