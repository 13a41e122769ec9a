"""Values, equations and graphs: the intermediate representation of one traced step.

They mirror JAX's variables, equations and jaxprs. Binding the equations in order evaluates a graph.
"""

import math
from abc import ABCMeta
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from noria._jax import Literal, ShapedArray, Var, bind

if TYPE_CHECKING:  # in `typing` from Python 3.13 on
    from typing_extensions import TypeIs


class Value(metaclass=ABCMeta):  # noqa: B024 - for `register`
    """An output of an equation, compared by identity. JAX's variables are values too."""

    __slots__ = ("aval",)

    def __init__(self, aval: ShapedArray):
        self.aval = aval


Value.register(Var)

#: A value, or a constant in the equation (`jax.extend.core.Literal`).
Atom: TypeAlias = Value | Literal


@dataclass(frozen=True, eq=False)
class Equation:
    """One primitive applied to values; ``source`` is the traceback of its line in the cell."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]
    params: dict[str, Any]
    source: Any

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, *arrays: Any) -> list[Any]:
        """Bind the primitive under the current JAX trace, with ``source`` as source location."""
        return bind(self.primitive, arrays, self.params, self.source)


@dataclass(frozen=True, eq=False)
class Graph:
    """Equations in topological order, from ``inputs`` to ``outputs``."""

    inputs: tuple[Value, ...]
    outputs: tuple[Atom, ...]
    equations: tuple[Equation, ...]

    def __call__(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs, evaluated on one array for each input."""
        known = dict(zip(self.inputs, arrays, strict=True))
        for equation in self.equations:
            outputs = equation.bind(*(read(known, atom) for atom in equation.inputs))
            known.update(zip(equation.outputs, outputs, strict=True))
        return [read(known, atom) for atom in self.outputs]


EMPTY = Graph((), (), ())

#: An environment: the array bound to each value.
Env: TypeAlias = dict[Any, Any]


def env_of(names: Iterable[Any], arrays: Iterable[Any]) -> Env:
    return dict(zip(names, arrays, strict=True))


def is_literal(atom: Atom) -> "TypeIs[Literal]":
    return isinstance(atom, Literal)


def values_in(atoms: Iterable[Atom]) -> tuple[Value, ...]:
    """``atoms`` as values, where no atom can be a literal."""
    return cast(tuple[Value, ...], tuple(atoms))


def changes(state: Sequence[Value], outputs: Sequence[Atom]) -> list[bool]:
    """Of each value of a state, whether another one replaces it: the first of ``outputs``."""
    return [after is not v for v, after in zip(state, outputs, strict=False)]


def read(known: Env, atom: Atom) -> Any:
    return atom.val if is_literal(atom) else known[atom]


def struct(atom: Atom) -> jax.ShapeDtypeStruct:
    """The shape, dtype and weak type of a value, for tracing."""
    aval = atom.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def size(atom: Atom) -> int:
    """The number of elements of a value."""
    return math.prod(atom.aval.shape)


def size_in_bytes(atom: Atom) -> int:
    """The size of a value in bytes; a random key counts as 8 bytes."""
    aval = atom.aval
    if jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 8 * int(np.prod(aval.shape))
    return int(np.prod(aval.shape)) * aval.dtype.itemsize


def bytes_of_matrices(values: Iterable[Value]) -> int:
    """Bytes of the values that are no vectors or numbers."""
    return sum(size_in_bytes(v) for v in values if v.aval.ndim > 1)


def is_inexact(atom: Atom) -> bool:
    """Whether a value is floating or complex, and so can have a derivative."""
    return bool(jnp.issubdtype(atom.aval.dtype, np.inexact))


def values_of(atoms: Iterable[Atom]) -> Iterator[Value]:
    """The values among ``atoms`` in order, without literals and duplicates."""
    return iter(dict.fromkeys(atom for atom in atoms if not is_literal(atom)))
