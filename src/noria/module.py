"""Models: ``Module`` and what of it is trainable, ``freeze`` and ``thaw``, modes, counts and casts.

A model is a plain structure. Its class line says what is trainable; ``freeze`` and ``thaw`` override that for one
instance. `noria.optimise` differentiates and updates exactly those arrays.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._functions import Function, Place, place_of

M = TypeVar("M")


class Module(eqx.Module):
    """A model or a part of one: an `equinox.Module` whose class line may say what is trainable.

    Fields are declared as in a dataclass and the instance is a JAX pytree. With ``trainable=("cell", "dense")`` only
    the floating arrays inside those fields are trained; all others are kept, moved and saved, but have no gradient.
    Without ``trainable=`` every floating (or complex) array is trained. Integers, booleans, Python numbers and
    functions never are. A subclass inherits the declaration unless it gives its own.

    Raises:
        TypeError: when the class is defined, if ``trainable`` is not a tuple of the class's own field names.

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> class Model(nr.Module, trainable=("rnn",)):
    ...     rnn: nr.Recurrence
    ...     mean: jax.Array
    ...
    ...     def __call__(self, xs):
    ...         return self.rnn(xs - self.mean)
    >>> model = Model(nr.GRU(2, 3, key=jax.random.key(0)), jnp.zeros(2))
    >>> nr.grad(lambda m: m(jnp.ones((4, 2))).sum())(model).mean is None
    True
    """

    # Per-instance overrides, written by `freeze` and `thaw`: (path of an array below this module, trainable or not).
    _overrides: tuple[tuple[str, bool], ...] = eqx.field(
        static=True, init=False, repr=False, default=()
    )
    _trainable: ClassVar[tuple[str, ...] | None] = None

    def __init_subclass__(cls, trainable: tuple[str, ...] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if trainable is None:
            return
        if isinstance(trainable, str) or not all(isinstance(name, str) for name in trainable):
            raise TypeError(
                f"class {cls.__name__}(trainable={trainable!r}): expected a tuple of field names, "
                f'such as trainable=("cell", "dense").'
            )
        known = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
        if unknown := [name for name in trainable if name not in known]:
            public = sorted(name for name in known if not name.startswith("_"))
            raise TypeError(
                f"class {cls.__name__}(trainable={trainable!r}): {unknown[0]!r} is not a field of "
                f"this class; its fields are {', '.join(public)}."
            )
        cls._trainable = tuple(trainable)

    def __hash__(self) -> int:
        # By identity: `jax.jit(model)` and `jax.jit(model.step)` ask for a hash, and arrays have none.
        return id(self)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Module":
        self = super().__new__(cls, *args, **kwargs)
        object.__setattr__(self, "_overrides", ())
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Users' and Equinox's modules hold functions such as jax.nn.relu. Pickle cannot store these.
        return jtu.tree_map(lambda leaf: place_of(leaf) or leaf, vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        functions = jtu.tree_map(
            lambda leaf: leaf.function() if isinstance(leaf, Place) else leaf, state
        )
        for name, value in functions.items():
            object.__setattr__(self, name, value)


# --- Walking a model ------------------------------------------------------------------------------------------------


def _children(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """The children of one node as (key, child) pairs, and what puts them back together."""
    paths, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda n: n is not node)
    return [(path[0] if path else None, child) for path, child in paths], treedef


def _is_leaf(node: Any) -> bool:
    return jtu.all_leaves([node])


def map_modules(
    change: Callable[[eqx.Module, str], dict[str, Any]], node: Any, path: str = ""
) -> Any:
    """A copy of ``node`` in which every module, Equinox's too, has the fields that ``change(module, path)`` gives it."""
    if node is None or _is_leaf(node):
        return node
    pairs, treedef = _children(node)
    copy = treedef.unflatten(
        [map_modules(change, child, path + jtu.keystr((key,))) for key, child in pairs]
    )
    if isinstance(node, eqx.Module):
        for name, value in change(node, path).items():
            object.__setattr__(copy, name, value)
    return copy


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf with its path, written as in Python: ``layers[0].cell.W``."""
    return [
        (jtu.keystr(path).removeprefix("."), leaf) for path, leaf in jtu.tree_leaves_with_path(tree)
    ]


def is_inexact(leaf: Any) -> bool:
    """Whether ``leaf`` is a JAX or NumPy array of floating or complex numbers."""
    return isinstance(leaf, jax.Array | np.ndarray) and bool(
        jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def trainable_mask(model: Any) -> Any:
    """``model`` with ``True`` in the place of each array that is trained and ``False`` in the place of all else."""

    def walk(node: Any, allowed: bool, overrides: dict[str, bool], path: str) -> Any:
        if node is None:
            return None
        if _is_leaf(node):
            return is_inexact(node) and overrides.get(path, allowed)
        declared = None
        if isinstance(node, Module):
            declared, overrides, path = node._trainable, dict(node._overrides), ""
        pairs, treedef = _children(node)
        masks = [
            walk(
                child,
                allowed and (declared is None or key.name in declared),
                overrides,
                path + jtu.keystr((key,)),
            )
            for key, child in pairs
        ]
        return treedef.unflatten(masks)

    return walk(model, True, {}, "")


def partition(model: M) -> tuple[M, M]:
    """``(trained, rest)``: two copies of ``model`` with ``None`` in each other's place; `equinox.combine` joins them."""
    return typing.cast(tuple[M, M], eqx.partition(model, trainable_mask(model)))


# --- Freezing -------------------------------------------------------------------------------------------------------


class _Mark:
    """Stands in the place of a leaf while `freeze` and `thaw` find out which leaves ``where`` chooses."""

    def __init__(self, index: int):
        self.index = index


def _chosen(verb: str, model: Any, where: Callable[[Any], Any]) -> list[int]:
    """The indices of the leaves that ``where`` chooses and that could be trained."""
    leaves, treedef = jtu.tree_flatten(model)
    marked = jtu.tree_unflatten(treedef, [_Mark(i) for i in range(len(leaves))])
    try:
        marks = [leaf for leaf in jtu.tree_leaves(where(marked)) if isinstance(leaf, _Mark)]
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{verb}(model, where): where(model) failed with {error!r}; expected a part of it."
        ) from error
    chosen = [mark.index for mark in marks if is_inexact(leaves[mark.index])]
    if not chosen:
        raise ValueError(
            f"{verb}(model, where): where chose nothing that could be trained; "
            f"expected a part of the model, such as {verb}(model, lambda m: m.cell)."
        )
    return chosen


def _owners(model: Any) -> list[tuple[str | None, str]]:
    """For each leaf, the path of the innermost `Module` around it and the leaf's own path below that module."""
    owners: list[tuple[str | None, str]] = []

    def walk(node: Any, owner: str | None, path: str) -> None:
        if _is_leaf(node):
            owners.append((owner, path.removeprefix(owner or "")))
        elif node is not None:
            for key, child in _children(node)[0]:
                walk(child, path if isinstance(node, Module) else owner, path + jtu.keystr((key,)))

    walk(model, None, "")
    return owners


def _set_trainable(verb: str, model: M, where: Callable[[M], Any], value: bool) -> M:
    """Override the chosen arrays, each at the module that owns it, where that says something new."""
    chosen, owners = _chosen(verb, model, where), _owners(model)
    for index in chosen:
        if owners[index][0] is None:
            raise ValueError(
                f"{verb}(model, where): {owners[index][1] or 'the array'} is not part of a "
                "noria.Module."
            )

    def override(model: M, marks: dict[tuple[str | None, str], bool]) -> M:
        def overrides(module: eqx.Module, path: str) -> dict[str, Any]:
            if not isinstance(module, Module):
                return {}
            kept = [(name, was) for name, was in module._overrides if (path, name) not in touched]
            new = [(name, value) for (owner, name), value in marks.items() if owner == path]
            return {"_overrides": tuple(sorted(kept + new))}

        return typing.cast(M, map_modules(overrides, model))

    touched = {owners[index] for index in chosen}
    plain = override(model, {})  # as its class lines have it
    trained = jtu.tree_leaves(trainable_mask(plain))
    return override(plain, {owners[index]: value for index in chosen if trained[index] != value})


def freeze(model: M, where: Callable[[M], Any] = lambda model: model) -> M:
    """A copy of ``model`` in which the part that ``where`` chooses is not trained.

    Its gradient is ``None`` and `update` leaves it alone, weight decay included. The mark belongs to the part and
    travels with it into other models. An optimiser state made before no longer fits: call `setup` again.

    Args:
        model: a `Module`, or a tuple, list or dict of them.
        where: gives the part, or a tuple of parts: ``lambda m: m.encoder``, ``lambda m: (m.cell.W, m.dense)``.

    Raises:
        ValueError: if ``where`` chooses nothing that could be trained.

    >>> import jax, noria as nr
    >>> model = nr.Chain(nr.GRU(2, 3, key=jax.random.key(0)), nr.Dense(3, 1, key=jax.random.key(1)))
    >>> model = nr.freeze(model, lambda m: m[0])
    >>> nr.count_parameters(model, trainable=True)
    4
    """
    return _set_trainable("freeze", model, where, value=False)


def thaw(model: M, where: Callable[[M], Any] = lambda model: model) -> M:
    """A copy of ``model`` in which the part that ``where`` chooses is trained; undoes `freeze`.

    Overrides a class line too: ``thaw(model, lambda m: m.h0)`` trains ``h0`` although ``trainable=`` leaves it out.
    Arguments and errors as for `freeze`.

    >>> import jax, noria as nr
    >>> model = nr.freeze(nr.Dense(3, 1, key=jax.random.key(1)))
    >>> nr.count_parameters(nr.thaw(model, lambda m: m.b), trainable=True)
    1
    """
    return _set_trainable("thaw", model, where, value=True)


# --- Modes, counts, casts -------------------------------------------------------------------------------------------


def _set_mode(model: M, inference: bool) -> M:
    def mode(module: eqx.Module, _: str) -> dict[str, Any]:
        return (
            {"inference": inference} if any(f.name == "inference" for f in fields(module)) else {}
        )

    return typing.cast(M, map_modules(mode, model))


def inference(model: M) -> M:
    """A copy of ``model`` for use: dropout does nothing and needs no key.

    >>> import jax.numpy as jnp, noria as nr
    >>> nr.inference(nr.Dropout(0.5))(jnp.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    return _set_mode(model, True)


def training(model: M) -> M:
    """A copy of ``model`` for training: dropout drops, and asks for a key. Models start in this mode."""
    return _set_mode(model, False)


def count_parameters(model: Any, *, trainable: bool | None = None) -> int:
    """The number of floating and complex numbers that ``model`` holds.

    Args:
        model: any pytree.
        trainable: ``True`` counts only what is trained, ``False`` only what is not, ``None`` both.

    >>> import jax, noria as nr
    >>> nr.count_parameters(nr.RNN(4, 6, key=jax.random.key(0)))
    66
    """
    pairs = zip(jtu.tree_leaves(model), jtu.tree_leaves(trainable_mask(model)), strict=True)
    return sum(
        leaf.size for leaf, trained in pairs if is_inexact(leaf) and trainable in (None, trained)
    )


def cast(model: M, dtype: Any) -> M:
    """A copy of ``model`` whose floating arrays have ``dtype`` (complex, integer and boolean arrays stay).

    >>> import jax, jax.numpy as jnp, noria as nr
    >>> nr.cast(nr.Dense(2, 1, key=jax.random.key(0)), jnp.bfloat16).W.dtype.name
    'bfloat16'
    """

    def convert(leaf: Any) -> Any:
        floating = is_inexact(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return typing.cast(M, jtu.tree_map(convert, model))


def iterate_modules(model: Any) -> Iterator[tuple[str, Module]]:
    """Every `Module` in ``model`` with its path, outermost first."""
    found: list[tuple[str, Module]] = []

    def visit(node: Any, path: str) -> None:
        if node is None or _is_leaf(node):
            return
        if isinstance(node, Module):
            found.append((path.removeprefix("."), node))
        for key, child in _children(node)[0]:
            visit(child, path + jtu.keystr((key,)))

    visit(model, "")
    return iter(found)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a pytree, so that a model which holds it can be passed through `jax.jit`.

    A module stays as it is, and so does a `jax.tree_util.Partial`, whose arguments are leaves. Of a
    plain function only what it closes over is fixed.
    """
    return (
        function
        if isinstance(function, eqx.Module | jtu.Partial | Function)
        else Function(function)
    )
