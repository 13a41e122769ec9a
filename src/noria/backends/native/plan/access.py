"""Affine maps: which element of a value each point of a domain reads or writes.

A stage on matrices goes over a *domain*, a few dimensions of which the last is the features. All
points of it are numbered in row-major order. An `AffineMap` leads from these numbers to the
elements of a value. Each view of JAX (a broadcast, a transpose, a slice) is one, and so is each
place of a result. A map through several views is one `Access` again: an offset, and one stride for
each dimension::

    v[:, None] in the domain (3, 4)   offset 0, strides (1, 0)
    w[None, :]                        offset 0, strides (0, 1)
    a.T for a of shape (4, 3)         offset 0, strides (1, 3)
"""

import functools
import math
from itertools import pairwise
from typing import NamedTuple

#: The calls of which results are remembered: the stages of a step are made again for each value
#: that is stored, and ask the same.
_REMEMBERED = 2**14

#: The sizes of the dimensions, all above one.
Domain = tuple[int, ...]


class Access(NamedTuple):
    """Element ``offset + Σ strides[j] i[j]`` of a value at the indices ``i`` of a domain."""

    offset: int
    strides: tuple[int, ...]


class AffineMap(NamedTuple):
    """A map from the elements of one array, by axes, to the elements of another.

    Attributes:
        offset: the element that the first one is mapped to.
        axes: for each axis its size, and how far a step along it goes in the other array.
    """

    offset: int
    axes: tuple[tuple[int, int], ...]


class Misaligned(Exception):
    """Dimension ``number`` of a domain must be cut into two, the inner one of size ``inner``."""

    def __init__(self, number: int, inner: int):
        self.number, self.inner = number, inner


class Unreachable(Exception):
    """A value is not an affine function of the indices of a domain."""


@functools.lru_cache(maxsize=_REMEMBERED)
def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The distances between neighbours along each axis, in row-major order."""
    return tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))


def identity(domain: Domain) -> Access:
    """Each point reads the element of its own number."""
    return Access(0, strides_of(domain) if domain != (1,) else (0,))


def cut(domain: Domain, where: Misaligned) -> Domain:
    """The domain with one dimension cut into two."""
    n, inner = where.number, where.inner
    return (*domain[:n], domain[n] // inner, inner, *domain[n + 1 :])


def merged(one: Domain, other: Domain) -> Domain | None:
    """The coarsest domain that refines both, if there is one."""
    steps = sorted({*strides_of(one), *strides_of(other)}, reverse=True)
    pairs = list(pairwise([math.prod(one), *steps]))
    if math.prod(one) != math.prod(other) or any(a % b for a, b in pairs):
        return None
    return tuple(a // b for a, b in pairs)


def affine(offset: int, *axes: tuple[int, int]) -> AffineMap:
    """A map, without axes of one element; neighbours that are contiguous are one axis."""
    found: list[tuple[int, int]] = []
    for count, stride in axes:
        if count == 1:
            continue
        if found and found[-1][1] == count * stride:
            count *= found.pop()[0]
        found.append((count, stride))
    return AffineMap(offset, tuple(found))


@functools.lru_cache(maxsize=_REMEMBERED)
def composed(domain: Domain, access: Access, step: AffineMap) -> Access:
    """An access to the source of ``step`` as an access to its target.

    Raises:
        Misaligned: if the domain must be cut first.
        Unreachable: if no cut helps.
    """
    sizes = tuple(count for count, _ in step.axes)
    units = strides_of(sizes)
    start = [access.offset // unit % count for unit, count in zip(units, sizes, strict=True)]
    strides, along = [0] * len(domain), [[] for _ in sizes]  # type: list[int], list[list[int]]
    factors = [0] * len(domain)
    for j, (count, stride) in enumerate(zip(domain, access.strides, strict=True)):
        if stride and count > 1:
            axis = next((i for i, unit in enumerate(units) if unit <= abs(stride)), None)
            if axis is None or stride % units[axis] or abs(stride) >= units[axis] * sizes[axis]:
                raise Unreachable
            factors[j] = stride // units[axis]
            strides[j] = factors[j] * step.axes[axis][1]
            along[axis].append(j)
    for axis, some in enumerate(along):
        reach = [factors[j] * (domain[j] - 1) for j in some]
        low, high = (start[axis] + sum(f(0, r) for r in reach) for f in (min, max))
        if low < 0 or high >= sizes[axis]:
            j = max(some, key=lambda j: abs(factors[j]))
            inner, left = divmod(sizes[axis], abs(factors[j]))
            if left or inner < 2 or inner >= domain[j] or domain[j] % inner:
                raise Unreachable
            raise Misaligned(j, inner)
    pairs = zip(start, step.axes, strict=True)
    return Access(step.offset + sum(x * stride for x, (_, stride) in pairs), tuple(strides))
