"""Training in two calls: the gradient (``grad``, ``value_and_grad``) and the step (``update``).

``setup`` makes the optimiser state. All of them use the arrays of `noria.module.trainable_mask`.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax

from noria.module import named_leaves, partition

M = TypeVar("M")

# --- Gradients -----------------------------------------------------------------------------------


def value_and_grad(fun: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """Value and gradient of ``fun(model, *args, **kwargs)`` with respect to the trained arrays.

    ::

        value = fun(model, ...),    gradient = d value / d model

    Args:
        fun: returns a real scalar; with ``has_aux=True`` a pair of that scalar and anything else.
        has_aux: as in `jax.value_and_grad`.

    Returns:
        A function of the same arguments that returns ``(value, gradient)``, or ``((value, aux),
        gradient)``. The gradient has the structure of ``model``, the shapes and dtypes of its
        arrays, and ``None`` for everything that is not trained. ``model`` may also be a tuple, list
        or dict of models.

    Raises:
        ValueError: in a call, if nothing in the first argument is trainable.
        TypeError: if ``fun`` is not callable, or in a call if it does not return a real scalar.

    `jax.value_and_grad` fails for a model that holds anything but floating arrays, and
    `equinox.filter_value_and_grad` differentiates every floating array. Flux returns a gradient for
    frozen fields too; here a frozen field has none.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> model = nr.Dense(2, 1, key=jax.random.key(0))
        >>> loss = lambda m, x: nr.mse(m(x), jnp.ones((3, 1)))
        >>> value, g = nr.value_and_grad(loss)(model, jnp.zeros((3, 2)))
        >>> float(value), float(g.b[0])
        (1.0, -2.0)
    """
    if not callable(fun):
        raise TypeError(
            f"value_and_grad(fun): fun is a {type(fun).__name__}; "
            "expected a function (model, ...) -> loss."
        )

    @functools.wraps(fun)
    def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
        trained, rest = partition(model)
        if not jtu.tree_leaves(trained):
            raise ValueError(
                f"grad of {getattr(fun, '__name__', 'fun')}: its first argument, "
                f"a {type(model).__name__}, holds nothing trainable; "
                "pass the model first, and thaw what should be trained."
            )
        return jax.value_and_grad(
            lambda t: fun(eqx.combine(t, rest), *args, **kwargs), has_aux=has_aux
        )(trained)

    return wrapped


def grad(fun: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
    """Gradient of ``fun(model, *args, **kwargs)`` with respect to the trained arrays of ``model``.

    ::

        gradient = d fun(model, ...) / d model

    Args:
        fun: returns a real scalar; with ``has_aux=True`` a pair of that scalar and anything else.
        has_aux: as in `jax.grad`.

    Returns:
        A function of the same arguments that returns ``gradient``, or ``(gradient, aux)``; see
        `value_and_grad`.

    Raises:
        ValueError: in a call, if nothing in the first argument is trainable.
        TypeError: if ``fun`` is not callable, or in a call if it does not return a real scalar.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> cell = nr.RNNCell(2, 3, key=jax.random.key(0))
        >>> nr.grad(lambda c: c(jnp.zeros(3), jnp.ones(2)).sum())(cell).W.shape
        (3, 2)
    """
    both = value_and_grad(fun, has_aux=has_aux)

    @functools.wraps(fun)
    def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
        value, gradient = both(model, *args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return wrapped


# --- Updates ------------------------------------------------------------------------------------


class OptimiserState(eqx.Module):
    """An Optax transformation and its state for one model; `setup` returns it, `update` takes it.

    Attributes:
        optimiser: the Optax transformation, as passed.
        state: its Optax state.

    Examples:
        >>> import jax, optax, noria as nr
        >>> opt_state = nr.setup(optax.adam(1e-3), nr.Dense(2, 1, key=jax.random.key(0)))
        >>> int(opt_state.state[0].count)
        0
    """

    optimiser: optax.GradientTransformation = eqx.field(static=True)
    state: Any
    # The trained arrays at the time of `setup`. Modes and other static settings may change
    # afterwards; the list of trained arrays may not.
    _structure: Any = eqx.field(static=True, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled structure loses the marks that Equinox knows by identity; modules keep them.
        return {
            **vars(self),
            "_structure": self._structure.unflatten(range(self._structure.num_leaves)),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_structure": jtu.tree_structure(state["_structure"])}.items():
            object.__setattr__(self, name, value)

    def _arrays(self, tree: Any) -> Any:
        """The arrays of ``tree``, in the structure for which the Optax state was made."""
        return self._structure.unflatten(jtu.tree_leaves(tree))

    def _names(self) -> list[str]:
        return [
            name
            for name, _ in named_leaves(
                self._structure.unflatten(range(self._structure.num_leaves))
            )
        ]


def as_transformation(optimiser: Any) -> optax.GradientTransformation:
    """``optimiser``, or the transformation inside an `optax.MultiSteps`, whose class is not one."""
    if isinstance(optimiser, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimiser.init, optimiser.update)
    return optimiser


def holds_state(state: Any, kind: type) -> bool:
    """Whether an Optax state contains one of ``kind``, however deep transformations are nested."""
    return any(
        isinstance(part, kind)
        for part in jtu.tree_leaves(state, is_leaf=lambda part: isinstance(part, kind))
    )


def setup(optimiser: optax.GradientTransformation, model: Any) -> OptimiserState:
    """The state that ``optimiser`` keeps for the trained arrays of ``model``.

    Args:
        optimiser: any Optax transformation, or `optax.MultiSteps`.
        model: a model, or a tuple, list or dict of models.

    Returns:
        An `OptimiserState`.

    Raises:
        TypeError: if ``optimiser`` is not an Optax transformation, for example when the arguments
            are swapped, or is `optax.lookahead`, which keeps two sets of parameters.
        ValueError: if nothing in ``model`` is trainable.

    As in Flux, the optimiser comes first. `optax.adamw` has a weight decay of 1e-4 by default,
    Flux's ``AdamW`` has 0, PyTorch's 1e-2.

    Examples:
        >>> import jax, optax, noria as nr
        >>> model = nr.GRU(2, 3, key=jax.random.key(0))
        >>> opt_state = nr.setup(optax.adam(1e-3), model)
    """
    optimiser = as_transformation(optimiser)
    if not isinstance(optimiser, optax.GradientTransformation):
        raise TypeError(
            f"setup(optimiser, model): optimiser is a {type(optimiser).__name__}; "
            "expected an Optax transformation such as optax.adam(1e-3), followed by the model."
        )
    trained, _ = partition(model)
    if not jtu.tree_leaves(trained):
        raise ValueError(
            f"setup(optimiser, model): the {type(model).__name__} holds nothing trainable; "
            "thaw a part."
        )
    state = optimiser.init(trained)
    if holds_state(state, optax.LookaheadState):
        raise TypeError(
            "setup(optimiser, model): optax.lookahead keeps two sets of parameters, "
            "but a model is one; expected another transformation."
        )
    return OptimiserState(optimiser, state, jtu.tree_structure(trained))


def _ascent(gradient: jax.Array) -> jax.Array:
    """The direction of steepest ascent; real arrays, the usual ones, cost no operation."""
    return jnp.conj(gradient) if jnp.iscomplexobj(gradient) else gradient


def update(
    opt_state: OptimiserState, model: M, gradient: Any, **extra: Any
) -> tuple[M, OptimiserState]:
    """One step of the optimiser: the new model and the new optimiser state.

    ::

        model' = model + optimiser(conj(gradient), state, model)

    Nothing is changed in place, unlike in Flux and PyTorch. The conjugate matters for complex
    parameters only. The gradient of ``u + i v`` is ``dL/du - i dL/dv`` in JAX. Optimisers expect
    the direction of steepest ascent, ``dL/du + i dL/dv``, which PyTorch calls the gradient.

    Args:
        opt_state: from `setup`, or from the update before.
        model: the model whose gradient was taken.
        gradient: from `grad` or `value_and_grad`.
        **extra: passed to the Optax transformation: ``value=loss`` for a transformation that uses
            the loss, and ``value_fn``, the loss as a function of the model, for line searches such
            as `optax.lbfgs`. With ``value_fn`` the gradient is passed as ``grad``, too.

    Returns:
        ``(model, opt_state)``, both with the structure, shapes and dtypes of the arguments.

    Raises:
        TypeError: if ``opt_state`` is not an `OptimiserState`, but an optimiser for example.
        ValueError: if ``gradient`` or ``model`` have other trained arrays than the model passed to
            `setup`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax, noria as nr
        >>> model = nr.Dense(1, 1, key=jax.random.key(0))
        >>> opt_state = nr.setup(optax.sgd(0.5), model)
        >>> g = nr.grad(lambda m: nr.mse(m(jnp.zeros(1)), jnp.ones(1)))(model)
        >>> model, opt_state = nr.update(opt_state, model, g)
        >>> float(model.b[0])
        1.0
    """
    if not isinstance(opt_state, OptimiserState):
        hint = (
            "; call setup(optimiser, model) first"
            if isinstance(opt_state, optax.GradientTransformation)
            else ""
        )
        raise TypeError(
            f"update(opt_state, model, gradient): opt_state is a {type(opt_state).__name__}; "
            f"expected what setup returned{hint}."
        )
    trained, rest = partition(model)
    expected = opt_state._names()
    for what, tree in (("model", trained), ("gradient", gradient)):
        names = [name for name, _ in named_leaves(tree)]
        if names != expected:
            odd = sorted(set(names) ^ set(expected))
            raise ValueError(
                f"update(opt_state, model, gradient): {what} and opt_state differ in their trained "
                f"arrays{', first in ' + odd[0] if odd else ''}; "
                "after freezing, thawing or rebuilding a part, call setup again, "
                "and take the gradient of the model that is updated."
            )
    old = opt_state._arrays(trained)
    optimiser, gradient = (
        optax.with_extra_args_support(opt_state.optimiser),
        jtu.tree_map(_ascent, opt_state._arrays(gradient)),
    )

    def as_model(arrays: Any) -> M:
        leaves = jtu.tree_leaves(arrays)
        whole: M = eqx.combine(jtu.tree_unflatten(jtu.tree_structure(trained), leaves), rest)
        return whole

    if (value_fn := extra.get("value_fn")) is not None:
        extra |= {"value_fn": lambda arrays: value_fn(as_model(arrays)), "grad": gradient}
    try:
        updates, state = optimiser.update(gradient, opt_state.state, old, **extra)
    except Exception as error:
        given = ", ".join(["gradient", "state", "parameters", *extra])
        error.add_note(
            f"noria.update: this came from the update of the optimiser, which was given {given}."
        )
        raise
    new = as_model(optax.apply_updates(old, updates))
    return new, OptimiserState(opt_state.optimiser, state, opt_state._structure)
