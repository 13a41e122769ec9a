"""The training step and the evaluation of ``fit``, compiled, on flat lists of arrays.

A call of a compiled function costs Python time for each part of its arguments: a model is a tree of
many modules. So trees are taken apart once, and the compiled functions take lists of arrays.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._errors import describe
from noria._flags import choose, put
from noria._types import Key
from noria.module import cast, inference, partition
from noria.optimise import OptimiserState, update, value_and_grad
from noria.train.spread import Places, as_jax, examples

#: The arrays of a tree, in the order of its leaves.
Arrays = tuple[jax.Array, ...]


class Flat:
    """The structure of a tree: how it is made of its arrays and of everything else."""

    def __init__(self, tree: Any):
        self._leaves = jtu.tree_leaves(tree)
        self._structure = jtu.tree_structure(tree)
        self._flags = [isinstance(leaf, jax.Array | np.ndarray) for leaf in self._leaves]

    def arrays(self, tree: Any) -> Arrays:
        return tuple(map(as_jax, choose(jtu.tree_leaves(tree), self._flags)))

    def tree(self, arrays: Sequence[Any]) -> Any:
        return jtu.tree_unflatten(self._structure, put(self._leaves, self._flags, arrays))


class Settings(NamedTuple):
    """The options of `fit` that change the compiled step."""

    carry: bool = False
    compute_dtype: Any = None


class Result(NamedTuple):
    """The results of a training step, on the device.

    ``told`` is the loss, and whether all numbers are finite, in one array: each one that is read
    costs tens of microseconds. ``finite`` is the same for each trained array, and ``wishes`` the
    sum of the wishes of all processes.
    """

    model: Arrays
    opt_state: Arrays
    carry: Any
    told: jax.Array
    metrics: dict[str, jax.Array]
    finite: jax.Array
    wishes: jax.Array


class Step:
    """The loss of `fit`, and the compiled functions made from it.

    Args:
        loss: the user's function.
        model: the model in training mode; only its structure is used.
        opt_state: the same for the optimiser.
        settings: options of `fit`.
        places: where arrays are.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        model: Any,
        opt_state: OptimiserState,
        settings: Settings,
        places: Places,
    ):
        self._loss, self._settings, self._places = loss, settings, places
        self._signature = inspect.signature(loss)
        self._takes_key = "key" in self._signature.parameters
        self.model, self.opt_state = Flat(model), Flat(opt_state)
        self._inference = Flat(inference(model))
        self.compiled, self._evaluation = jax.jit(self._train), jax.jit(self._evaluate)
        self._held: Any = None

    # --- compiled calls ---------------------------------------------------------------------------

    def train(
        self,
        model: Arrays,
        opt_state: Arrays,
        carry: Any,
        batch: tuple[Any, ...],
        key: Key,
        step: int,
        first: bool,
        wish: Any = 0.0,
    ) -> Result:
        """One step on a batch.

        Its random key is ``fold_in(key, step)``. ``carry`` is ignored at the ``first`` batch of an
        epoch. ``wish`` is added up over processes, see `Places.wish`.
        """
        if self._held is None and self._places.mesh is not None:
            self._held = jtu.tree_map(lambda array: array.sharding, (model, opt_state))
        result: Result = self.compiled(model, opt_state, carry, batch, key, step, first, wish)
        return result

    def evaluate(
        self, model: Arrays, carry: Any, batch: tuple[Any, ...], key: Key, step: int, first: bool
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        """Loss, metrics and the new carry in inference mode."""
        loss, extra = self._evaluation(model, carry, batch, key, step, first)
        return loss, extra

    @functools.cached_property
    def _start(self) -> Callable[[Arrays, int], Any]:
        def start(arrays: Arrays, rows: int) -> Any:
            carry = self._first_carry(self._cast(self.model.tree(arrays)), rows)
            return self._places.as_rows(carry)

        return jax.jit(start, static_argnums=1)

    def start(self, model: Arrays, rows: int) -> Any:
        """The state before the first batch, for so many examples."""
        return self._start(model, rows) if self._settings.carry else ()

    # --- traced functions -------------------------------------------------------------------------

    def _cast(self, model: Any) -> Any:
        dtype = self._settings.compute_dtype
        return model if dtype is None else cast(model, dtype)

    def _first_carry(self, model: Any, rows: int) -> Any:
        if not hasattr(model, "initial_state"):
            raise TypeError(
                f"fit(carry=True): the {type(model).__name__} has no method initial_state; "
                "expected a layer, or a model with one, that returns the state of one example."
            )
        return jtu.tree_map(
            lambda leaf: jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))), model.initial_state()
        )

    def _objective(
        self, model: Any, carry: Any, batch: tuple[Any, ...], key: Key, first: Any
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        model = self._cast(model)
        options = {"key": key} if self._takes_key else {}
        self._check_columns(batch, options)
        if not self._settings.carry:
            return _numbers(self._loss(model, *batch, **options), ())
        start = self._first_carry(model, examples(batch))
        before = jtu.tree_map(
            lambda new, old: jnp.where(first, new, jax.lax.stop_gradient(old)), start, carry
        )
        result = self._loss(model, before, *batch, **options)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"fit(carry=True): loss returned {describe(result)}; "
                "expected (value, carry), or ((value, metrics), carry)."
            )
        value, after = result
        if describe(after) != describe(start):
            raise TypeError(
                f"fit(carry=True): loss returned the state {describe(after)}; expected "
                f"{describe(start)}, as model.initial_state() with a batch axis. "
                "Return (value, carry), with the carry that scan returned."
            )
        return _numbers(value, after)

    def _check_columns(self, batch: tuple[Any, ...], options: dict[str, Any]) -> None:
        before = (None,) if self._settings.carry else ()
        try:
            self._signature.bind(None, *before, *batch, **options)
        except TypeError:
            came = describe(batch) if len(batch) < 5 else f"{len(batch)} columns"
            raise TypeError(
                f"fit: a batch is {came}, and loss takes {self._signature}; expected the columns "
                "that loss takes. A list is a list of batches; a tuple of arrays, (xs, ys), is "
                "one batch of everything."
            ) from None

    def _train(
        self,
        model_arrays: Arrays,
        opt_arrays: Arrays,
        carry: Any,
        batch: tuple[Any, ...],
        key: Key,
        step: Any,
        first: Any,
        wish: Any,
    ) -> Result:
        model, opt_state = self.model.tree(model_arrays), self.opt_state.tree(opt_arrays)
        key = jax.random.fold_in(key, step)

        def objective(model: Any) -> Any:
            return self._objective(model, carry, batch, key, first)

        (value, (metrics, after)), gradient = value_and_grad(objective, has_aux=True)(model)
        # A line search looks at the loss elsewhere, on the same batch with the same random numbers.
        extra = {"value": value, "value_fn": lambda other: objective(other)[0]}
        new_model, new_state = update(opt_state, model, gradient, **extra)
        # A parameter is the cause if its gradient is not finite, or its new value.
        pairs = zip(
            jtu.tree_leaves(gradient), jtu.tree_leaves(partition(new_model)[0]), strict=True
        )
        finite = jnp.stack([jnp.isfinite(g).all() & jnp.isfinite(new).all() for g, new in pairs])
        # A sum of floats, so that devices send it together with the gradients.
        bad = [jnp.sum(~jnp.isfinite(leaf), dtype=value.dtype) for leaf in jtu.tree_leaves(after)]
        ok = jnp.stack([jnp.isfinite(value), finite.all(), *(n == 0 for n in bad)]).all()
        told = jnp.stack([value, ok.astype(value.dtype)])
        arrays = self.model.arrays(new_model), self.opt_state.arrays(new_state)
        if self._held is not None:  # XLA is free to move what a step returns
            arrays = jax.lax.with_sharding_constraint(arrays, self._held)
        return Result(*arrays, self._places.as_rows(after), told, metrics, finite, jnp.sum(wish))

    def _evaluate(
        self,
        model_arrays: Arrays,
        carry: Any,
        batch: tuple[Any, ...],
        key: Key,
        step: Any,
        first: Any,
    ) -> Any:
        model, key = self._inference.tree(model_arrays), jax.random.fold_in(key, step)
        return self._objective(model, carry, batch, key, first)


def _numbers(result: Any, carry: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """The loss, and metrics and carry beside it, after a check."""
    pair = isinstance(result, tuple) and len(result) == 2
    value, metrics = result if pair else (result, {})
    numbers = isinstance(metrics, dict) and all(
        isinstance(one, bool | int | float) or _is_number(one) for one in metrics.values()
    )
    if not (_is_number(value) and numbers):
        raise TypeError(
            f"fit: loss returned {describe(result)}; expected a number as JAX computes it, "
            "an array of shape (), or a pair of it and a dict of numbers."
        )
    if taken := [name for name in metrics if name == "loss" or name.startswith("valid_")]:
        raise ValueError(
            f"fit: the loss reports {taken[0]!r}, a name that the history keeps for itself; "
            "rename it."
        )
    return value, (metrics, carry)


def _is_number(value: Any) -> bool:
    return getattr(value, "shape", None) == ()
