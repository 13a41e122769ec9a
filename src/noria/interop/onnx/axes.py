"""Names for the axes of the values of a graph: batch, time, direction and features."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from noria.interop.onnx.node import Unreadable

BATCH, TIME, DIRECTION, FEATURES = "batch", "time", "direction", "features"

#: Sizes that stand for any batch and any time where a shape is computed.
PROBES = {BATCH: 1013, TIME: 1019}


@dataclass(frozen=True)
class Axes:
    """The axes of a value, each a product of named ones, and the sizes that are known.

    ``"?0"`` and ``"?1"`` are batch and time as long as nothing has told which is which.
    """

    names: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def flat(self) -> tuple[str, ...]:
        return tuple(name for axis in self.names for name in axis)

    def single(self) -> tuple[str, ...]:
        """One name for each axis.

        Raises:
            Unreadable: if an axis is a product of several.
        """
        if any(len(axis) != 1 for axis in self.names):
            raise Unreadable(f"axes are joined: {self}")
        return tuple(axis[0] for axis in self.names)

    def size(self, name: str) -> int:
        return self.sizes.get(name, PROBES.get(name, 1021 if name == "?0" else 1031))

    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(map(self.size, axis)) for axis in self.names)

    def bound(self, *expected: str) -> "Axes":
        """The same axes, where those expected are the ones that are there.

        Raises:
            Unreadable: if they are not.
        """
        names = self.single()
        if len(names) != len(expected):
            raise Unreadable(f"the axes are {self}; expected {', '.join(expected)}")
        for name, want in zip(names, expected, strict=True):
            if name != want and not (name.startswith("?") and want in (BATCH, TIME)):
                raise Unreadable(f"the axes are {self}; expected {', '.join(expected)}")
        return replace(self, names=tuple((name,) for name in expected))

    def transposed(self, order: Sequence[int]) -> "Axes":
        return replace(self, names=tuple(self.names[n] for n in order))

    def without(self, place: int) -> "Axes":
        """Without an axis of size 1."""
        if any(self.size(name) != 1 for name in self.names[place]):
            raise Unreadable(f"the axis {'*'.join(self.names[place])} is removed")
        kept = [axis for n, axis in enumerate(self.names) if n != place % len(self.names)]
        return replace(self, names=tuple(kept))

    def with_one(self, place: int) -> "Axes":
        """With a further axis of size 1."""
        place %= len(self.names) + 1
        return replace(self, names=(*self.names[:place], (), *self.names[place:]))

    def features(self, size: int) -> "Axes":
        """With another number of features."""
        return replace(self, sizes={**self.sizes, FEATURES: size})

    def reshaped(self, shape: Sequence[int]) -> "Axes":
        """The axes in another grouping.

        Raises:
            Unreadable: if a named axis is cut into pieces.
        """
        left = [name for name in self.flat if self.size(name) != 1]
        groups: list[tuple[str, ...]] = []
        for size in shape:
            group: list[str] = []
            while math.prod(map(self.size, group)) < size and left:
                group.append(left.pop(0))
            if math.prod(map(self.size, group)) != size:
                raise Unreadable(f"the axes {self} become an array of the shape {tuple(shape)}")
            groups.append(tuple(group))
        return replace(self, names=tuple(groups)).joined()

    def joined(self) -> "Axes":
        """With directions and features that lie together as one axis of features."""
        names, features = [], self.size(FEATURES)
        for axis in self.names:
            if axis == (DIRECTION, FEATURES):
                axis, features = (FEATURES,), features * self.size(DIRECTION)
            names.append(axis)
        return Axes(tuple(names), {**self.sizes, FEATURES: features})

    def __str__(self) -> str:
        return ", ".join("*".join(axis) or "1" for axis in self.names)
