"""What the constructors of `named` share: their options, ``num_layers``, and ``from_arrays``."""

import inspect
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, cast, overload

import jax

from noria._errors import check_key, check_sizes
from noria._types import Initializer, Key, State
from noria.cells.stacked import Activation
from noria.layers.chain import Chain
from noria.layers.recurrence import Recurrence

C = TypeVar("C")


class CellOptions(TypedDict, total=False):
    """Options that every gated cell has."""

    init: Initializer | None
    recurrent_init: Initializer | None
    bias: bool | Initializer
    recurrent_bias: bool | Initializer
    clip: float | None
    dtype: Any


class LayerOptions(TypedDict, total=False):
    """Options of a `Recurrence`."""

    initial_state: State
    reverse: bool
    learn_initial_state: bool
    backend: str
    save: str
    checkpoint: int | str | None


class RNNOptions(CellOptions, LayerOptions, total=False):
    """Options of an `RNNCell` and of the layer that runs it."""


class GRUOptions(RNNOptions, total=False):
    """Options of a `GRUCell` and of the layer that runs it."""

    activation: Activation
    gate_activation: Activation


class LSTMOptions(GRUOptions, total=False):
    """Options of an `LSTMCell` and of the layer that runs it."""

    forget_bias: float
    peepholes: bool | Initializer
    output_activation: Activation | None
    coupled_gates: bool
    proj_size: int | None


class OfArrays(Protocol):
    """A constructor that also takes arrays."""

    __name__: str

    def __call__(self, *args: Any, **options: Any) -> Any: ...

    def from_arrays(self, *arrays: Any, **options: Any) -> Recurrence:
        """The layer with these arrays: ``Recurrence(Cell.from_arrays(...))``.

        Args:
            *arrays: see ``from_arrays`` of the cell.
            **options: arrays by name, settings of the cell, and options of `Recurrence`.

        Returns:
            A layer that holds these arrays.

        Raises:
            TypeError: see ``from_arrays`` of the cell.
            ValueError: see ``from_arrays`` of the cell.
        """
        ...


class RNNConstructor(OfArrays, Protocol):
    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        activation: Activation = ...,
        *,
        key: Key,
        num_layers: None = None,
        **options: Unpack[RNNOptions],
    ) -> Recurrence: ...

    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        activation: Activation = ...,
        *,
        key: Key,
        num_layers: int,
        **options: Unpack[RNNOptions],
    ) -> Chain: ...


class GRUConstructor(OfArrays, Protocol):
    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        num_layers: None = None,
        **options: Unpack[GRUOptions],
    ) -> Recurrence: ...

    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        num_layers: int,
        **options: Unpack[GRUOptions],
    ) -> Chain: ...


class LSTMConstructor(OfArrays, Protocol):
    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        num_layers: None = None,
        **options: Unpack[LSTMOptions],
    ) -> Recurrence: ...

    @overload
    def __call__(
        self,
        in_size: int,
        hidden_size: int,
        *,
        key: Key,
        num_layers: int,
        **options: Unpack[LSTMOptions],
    ) -> Chain: ...


class constructor_of(Generic[C]):
    """Give a constructor the signature of its cell, followed by the options of `Recurrence`.

    Type checkers read ``C``; `help`, notebooks and `inspect.signature` read the signature.
    """

    def __init__(self, cell: Any):
        self.cell = cell

    def __call__(self, constructor: Callable[..., Any]) -> C:
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            p.replace(default=p.empty) if p.name == "key" else p
            for p in inspect.signature(self.cell).parameters.values()
        ]
        layer = inspect.signature(Recurrence).parameters
        parameters.append(inspect.Parameter("num_layers", keyword, default=None))
        parameters += [layer[name].replace(kind=keyword) for name in LayerOptions.__annotations__]
        function: Any = constructor
        function.__signature__ = inspect.Signature(parameters)
        function.from_arrays = self._from_arrays
        return cast(C, constructor)

    def _from_arrays(self, *arrays: Any, **options: Any) -> Recurrence:
        of_layer = _options_of_layer(options)
        return Recurrence(self.cell.from_arrays(*arrays, **options), **of_layer)


def layers(
    cell: Callable[..., Any],
    in_size: int,
    hidden_size: int,
    *args: Any,
    key: Key,
    num_layers: int | None,
    **options: Any,
) -> Recurrence | Chain:
    """One layer, or a `Chain` of ``num_layers``."""
    of_layer = _options_of_layer(options)
    if num_layers is None:
        return Recurrence(cell(in_size, hidden_size, *args, key=key, **options), **of_layer)
    call = f"{getattr(cell, '__name__', '').removesuffix('Cell')}(num_layers={num_layers})"
    check_sizes(call, num_layers=num_layers)
    check_key(call, key)
    states = of_layer.pop("initial_state", None)
    if states is None:
        states = (None,) * num_layers
    elif not isinstance(states, tuple) or len(states) != num_layers:
        raise ValueError(
            f"{call}: initial_state is a {type(states).__name__}; "
            f"expected a tuple of {num_layers} states, one a layer."
        )
    made: list[Recurrence] = []
    for k, state in zip(jax.random.split(key, num_layers), states, strict=True):
        size = made[-1].cell.out_size if made else in_size
        one = cell(size, hidden_size, *args, key=k, **options)
        made.append(Recurrence(one, initial_state=state, **of_layer))
    return Chain(*made)


def _options_of_layer(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `Recurrence`, taken out of ``options``."""
    return {name: options.pop(name) for name in LayerOptions.__annotations__ if name in options}
