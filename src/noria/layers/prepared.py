"""``prepare``: a model for inference, whose arrays are constants of its compiled programs."""

import typing
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.tree_util as jtu

from noria._jax import Tracer
from noria._types import Key, State
from noria.backends.environment import Environment, environment
from noria.compiler.select import is_listening
from noria.layers.base import Layer
from noria.layers.packed_dense import packed
from noria.layers.states import with_batch
from noria.module import inference


class _Verb:
    """``scan`` or ``step`` of a layer, compiled once for each environment."""

    def __init__(self, verb: Callable[..., tuple[State, Any]]):
        self.verb = verb
        self.programs: dict[Environment, Callable[..., tuple[State, Any]]] = {}

    def __call__(self, state: State, x: Any, /, **keywords: Any) -> tuple[State, Any]:
        """The fewer keywords, the shorter the call."""
        now = environment()
        program = self.programs.get(now)
        if program is None:
            program = self.programs.setdefault(now, self._program())
        return program(state, x, **keywords)

    def _program(self) -> Callable[..., tuple[State, Any]]:
        verb = self.verb

        # A function of its own: programs of equal functions are one for JAX.
        def run(state: State, x: Any, /, **keywords: Any) -> tuple[State, Any]:
            return verb(state, x, **keywords)

        return jax.jit(run)


class _Held:
    """A layer, equal to nothing else, and its programs. It is no pytree: its arrays are hidden."""

    def __init__(self, layer: Layer):
        self.layer, self.fast = layer, packed(layer)
        self.scan, self.step = _Verb(self.fast.scan), _Verb(self.fast.step)

    def __reduce__(self) -> Any:
        return _Held, (self.layer,)

    def __repr__(self) -> str:
        return repr(self.layer)


class Prepared(Layer):
    """A layer without trainable arrays, from `prepare`."""

    held: _Held = eqx.field(static=True)

    _hides_arrays: ClassVar = True

    if not typing.TYPE_CHECKING:
        # A bound method of Equinox is a pytree of the arrays of the module. Here there are none,
        # and the attribute of a short call should cost nothing.
        __getattribute__ = object.__getattribute__

    def scan(
        self,
        state: State,
        xs: Any,
        *,
        lengths: Any = None,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> tuple[State, Any]:
        if is_listening():
            keywords = {"lengths": lengths, "resets": resets, "key": key, **inputs}
            return self.held.layer.scan(state, xs, **keywords)
        if lengths is None and resets is None and key is None and not inputs:
            return self.held.scan(state, xs)
        return self.held.scan(state, xs, lengths=lengths, resets=resets, key=key, **inputs)

    def step(
        self,
        state: State,
        x: Any,
        *,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> tuple[State, Any]:
        if resets is None and key is None and not inputs:
            return self.held.step(state, x)
        return self.held.step(state, x, resets=resets, key=key, **inputs)

    def initial_state(self, batch: int | None = None) -> State:
        return with_batch(self.label, self.held.layer.initial_state(), batch)

    @property
    def stride(self) -> int:
        return self.held.layer.stride

    def output_lengths(self, lengths: Any) -> Any:
        return self.held.layer.output_lengths(lengths)

    def output_resets(self, resets: Any) -> Any:
        return self.held.layer.output_resets(resets)

    def takes(self) -> frozenset[str]:
        return self.held.layer.takes()

    def _check_streams(self) -> None:
        self.held.layer._check_streams()

    @property
    def label(self) -> str:
        return f"prepare({self.held.layer.label})"


def prepare(model: Layer) -> Prepared:
    """A copy of ``model`` for inference with the least time for each call.

    Its arrays are constants of compiled programs, one for each shape of the arguments. Native code
    packs weights when a program is compiled, and not in each call. `Layer.step` from Python passes
    the state and the input only. Results are equal to the bit, except that a `Dense` of up to 128
    rows, and a step of up to 16, sum in another order.

    The copy has no arrays to train, cast, freeze or save: change the model, and prepare it again.
    Derivatives with respect to its input exist. Otherwise a call is like one under `jax.jit`. The
    lengths, tokens and steps of a call are not checked against their range. A cell reads values
    from outside when a program is compiled.

    Args:
        model: a layer, or a model of layers.

    Returns:
        A `Layer` with the methods of ``model``, in the mode of `inference`. It can be pickled; it
        packs its weights anew on the machine where it is loaded, or if ``NORIA_NATIVE_ISA``
        changes.

    Raises:
        TypeError: if ``model`` is not a layer, or its arrays are traced.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> layer = nr.LSTM(3, 4, key=jax.random.key(0))
        >>> fast = nr.prepare(layer)
        >>> state, y = fast.step(None, jnp.ones(3))
        >>> bool((y == layer.step(None, jnp.ones(3))[1]).all()), nr.count_parameters(fast)
        (True, 0)
    """
    check_can_be_constant("prepare", model)
    return Prepared(_Held(inference(model)))


def check_can_be_constant(call: str, model: Any) -> None:
    """Check that a model is a layer whose arrays have values."""
    if not isinstance(model, Layer):
        raise TypeError(
            f"{call}(model): model is a {type(model).__name__}; expected a layer or a model of "
            "layers. For other functions, weights that jax.jit finds outside of its arguments are "
            "packed once too."
        )
    if any(isinstance(leaf, Tracer) for leaf in jtu.tree_leaves(model)):
        raise TypeError(
            f"{call}({model.label}): its arrays are traced, so they have no values yet; "
            f"{call} it outside of jax.jit and jax.grad."
        )
