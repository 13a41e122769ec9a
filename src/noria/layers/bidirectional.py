"""Two recurrences in opposite directions."""

from collections.abc import Callable
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp

from noria._errors import check_choice, check_key
from noria._types import Key, State
from noria.layers.base import Layer, check_inputs, taken
from noria.layers.recurrence import Recurrence
from noria.module import map_modules

MERGES: dict[str, Callable[[jax.Array, jax.Array], Any]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
    "mean": lambda forward, backward: (forward + backward) / 2,
    "product": jnp.multiply,
    "pair": lambda forward, backward: (forward, backward),
}


class Bidirectional(Layer):
    """Runs one recurrence forward and one backward, and merges their outputs step by step.

    ::

        y_t = merge(f_t, b_t),    f = forward(xs),    b = backward(xs), which starts at the end

    The state is the pair ``(forward, backward)``. The backward recurrence starts at the end of each
    example, which is ``lengths`` where they are given; its final state belongs to step 0.

    Args:
        forward: a cell or a `Recurrence` that is not reversed.
        backward: another one, of any kind; it is reversed here. Without it, ``forward`` runs in
            both directions and its parameters are shared.
        merge: ``"concat"`` (default), ``"sum"``, ``"mean"``, ``"product"``, or ``"pair"`` for both
            outputs as a tuple.

    Attributes:
        forward: the recurrence from the start.
        backward: the reversed recurrence, or ``None`` if the parameters are shared.
        merge: as passed.

    Shapes:
        ``(time, in)`` or ``(batch, time, in)`` to the same with ``out`` features, or ``2 * out`` if
        concatenated. Dtypes as in `Recurrence`.

    Raises:
        ValueError: if ``forward`` is reversed, or ``merge`` is unknown.

    Keras names the modes ``concat, sum, ave, mul, None``; PyTorch and Flux concatenate.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> layer = nr.Bidirectional(nr.GRU(2, 3, key=k1), nr.GRU(2, 3, key=k2))
        >>> layer(jnp.ones((4, 5, 2)), lengths=jnp.array([5, 1, 0, 2])).shape
        (4, 5, 6)
    """

    forward: Recurrence
    backward: Recurrence | None
    merge: str = eqx.field(static=True)

    def __init__(self, forward: Any, backward: Any = None, merge: str = "concat"):
        check_choice("Bidirectional", "merge", merge, tuple(MERGES))
        self.forward = _recurrence(forward)
        if self.forward.reverse:
            raise ValueError(
                "Bidirectional(forward, backward): forward is reversed; give both unreversed."
            )
        self.backward = None if backward is None else _reversed(_recurrence(backward))
        self.merge = merge

    @property
    def _directions(self) -> tuple[Recurrence, Recurrence]:
        return self.forward, _reversed(self.forward) if self.backward is None else self.backward

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
        """The final state and the outputs of whole sequences; see `Layer.scan`.

        Args:
            state: see `Layer.scan`.
            xs: see `Layer.scan`.
            lengths: see `Layer.scan`.
            resets: see `Layer.scan`.
            key: see `Layer.scan`.
            **inputs: ``t``, ``dt`` and ``context``; see `Recurrence.scan`. Each
                direction gets the arguments that its cell takes.

        Returns:
            As `Layer.scan`.

        Raises:
            ValueError: see `Layer.scan`.
            TypeError: see `Layer.scan`; if one of ``inputs`` is missing, or no cell takes it.
        """
        states = (None, None) if state is None else state
        if not isinstance(states, tuple) or len(states) != 2:
            raise ValueError(
                f"{self.label}: the state is a {type(state).__name__}; "
                "expected the pair (forward, backward). The state comes first: layer(state, xs)."
            )
        check_inputs(self, inputs)
        if key is not None:
            check_key(self.label, key)
        keys = (None, None) if key is None else jax.random.split(key)
        (forward, f), (backward, b) = (
            layer.scan(
                state,
                xs,
                lengths=lengths,
                resets=resets,
                key=key,
                **taken(layer, inputs),
            )
            for layer, state, key in zip(self._directions, states, keys, strict=True)
        )
        if self.merge not in ("concat", "pair") and f.shape != b.shape:
            raise ValueError(
                f"{self.label}: the directions give {f.shape} and {b.shape}; "
                f"merge={self.merge!r} needs equal sizes, "
                'merge="concat" does not.'
            )
        return (forward, backward), MERGES[self.merge](f, b)

    def step(
        self,
        state: State,
        x: Any,
        *,
        resets: Any = None,
        key: Key | None = None,
        **inputs: Any,
    ) -> tuple[State, Any]:
        """Not available: the backward recurrence needs whole sequences.

        Args:
            state: ignored.
            x: ignored.
            resets: ignored.
            key: ignored.
            **inputs: ignored.

        Returns:
            Nothing.

        Raises:
            ValueError: always.
        """
        self._check_streams()

    def _check_streams(self) -> NoReturn:
        raise ValueError(
            f"{self.label}.step: its backward direction needs the end first; "
            "call scan with whole sequences."
        )

    def initial_state(self, batch: int | None = None) -> State:
        """The initial states of both directions.

        Args:
            batch: see `Layer.initial_state`.

        Returns:
            The pair ``(forward, backward)``.
        """
        return tuple(layer.initial_state(batch) for layer in self._directions)

    def takes(self) -> frozenset[str]:
        forward, backward = self._directions
        return forward.takes() | backward.takes()

    @property
    def label(self) -> str:
        return f"Bidirectional({self.forward.label})"


def _recurrence(layer: Any) -> Recurrence:
    return layer if isinstance(layer, Recurrence) else Recurrence(layer)


def _reversed(layer: Recurrence) -> Recurrence:
    return map_modules(lambda module, path: {"reverse": True} if path == "" else {}, layer)
