"""Models: ``Module`` and its trained fields, modes, counts and casts.

A model is a plain structure. Its class line says which fields are trained; ``freeze`` and ``thaw``
override that for one instance. `noria.optimise` differentiates and updates exactly these arrays.
"""

import inspect
import types
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
from noria._parameters import complex_dtype
from noria.display import Array, Node, page, tree

M = TypeVar("M")


class Module(eqx.Module):
    """A model or a part of one: an `equinox.Module` whose class line may name the trained fields.

    Fields are declared as in a dataclass, and the instance is a JAX pytree. With
    ``trainable=("cell", "dense")`` only the floating arrays inside these fields are trained; all
    others are kept, moved and saved, but have no gradient. Without ``trainable=`` every floating or
    complex array is trained. Integers, booleans, Python numbers and functions never are. A subclass
    inherits the declaration unless it makes its own.

    Raises:
        TypeError: when the class is defined, if ``trainable`` is not a tuple of names of its
            fields.

    Equinox and Flax train every array or leave the choice to a filter at each call. PyTorch has
    buffers for arrays that are not trained; here these are ordinary fields.

    Examples:
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

    # Overrides of one instance, from `freeze` and `thaw`: (path of an array below it, trainable).
    _overrides: tuple[tuple[str, bool], ...] = eqx.field(
        static=True, init=False, repr=False, default=()
    )
    _trainable: ClassVar[tuple[str, ...] | None] = None
    # Whether the arrays of a module are not part of the pytree.
    _hides_arrays: ClassVar[bool] = False

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

    if not typing.TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            # As Equinox's, which takes 20 microseconds to make a bound method; this takes one
            # (`benchmarks/packing.py step`).
            found = object.__getattribute__(self, name)
            if (
                type(found) is types.MethodType
                and found.__self__ is self
                and not name.startswith("__")
            ):
                return _bound(found.__func__, self)
            return found

    def __hash__(self) -> int:
        # By identity: `jax.jit(model)` and `jax.jit(model.step)` need a hash; arrays have none.
        return id(self)

    def __new__(cls, *args: Any, **kwargs: Any) -> "Module":
        self = super().__new__(cls, *args, **kwargs)
        object.__setattr__(self, "_overrides", ())
        return self

    def _repr_html_(self) -> str:
        return page(tree(_node(self, trainable_mask(self), "")))

    def __getstate__(self) -> dict[str, Any]:
        # Modules of users and of Equinox hold functions such as jax.nn.relu, which pickle rejects.
        state: dict[str, Any] = jtu.tree_map(lambda leaf: place_of(leaf) or leaf, vars(self))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        functions = jtu.tree_map(
            lambda leaf: leaf.function() if isinstance(leaf, Place) else leaf, state
        )
        for name, value in functions.items():
            object.__setattr__(self, name, value)


class _Probe(eqx.Module):
    def method(self) -> None: ...


#: Equinox's class of bound methods, which are pytrees.
_Bound: Any = type(_Probe().method)

_NAMES = "__module__", "__name__", "__qualname__", "__doc__", "__annotations__"


def _bound(function: Any, module: Module) -> Any:
    """The method ``function`` of a module, as a pytree."""
    bound = object.__new__(_Bound)
    fields = bound.__dict__
    fields["__func__"], fields["__self__"] = function, module
    for name in _NAMES:
        fields[name] = getattr(function, name)
    return bound


def made(cls: type[M], **fields: Any) -> M:
    """An instance with these fields, made without a constructor."""
    module = cls.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module


# --- Walking a model ----------------------------------------------------------------------------


def children_of(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """The children of one node as (key, child) pairs, and the tree structure that joins them."""
    paths, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda n: n is not node)
    return [(path[0] if path else None, child) for path, child in paths], treedef


def is_leaf(node: Any) -> bool:
    return jtu.all_leaves([node])


def map_modules(change: Callable[[eqx.Module, str], dict[str, Any]], node: M, path: str = "") -> M:
    """A copy of ``node`` in which ``change(module, path)`` sets fields of every module.

    Modules of Equinox are included.
    """
    if node is None or is_leaf(node):
        return node
    pairs, treedef = children_of(node)
    copy: M = treedef.unflatten(
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
    """``model`` with ``True`` for each array that is trained, and ``False`` for everything else."""

    def walk(node: Any, allowed: bool, overrides: dict[str, bool], path: str) -> Any:
        if node is None:
            return None
        if is_leaf(node):
            return is_inexact(node) and overrides.get(path, allowed)
        declared = None
        if isinstance(node, Module):
            declared, overrides, path = node._trainable, dict(node._overrides), ""
        pairs, treedef = children_of(node)
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
    """``(trained, rest)``: two copies of ``model``, each with ``None`` for the leaves of the other.

    `equinox.combine` joins them.
    """
    return typing.cast(tuple[M, M], eqx.partition(model, trainable_mask(model)))


# --- Modes, counts, casts -----------------------------------------------------------------------


def check_has_arrays(call: str, model: Any) -> None:
    """Raise a `TypeError` for a part of the model that is prepared: nothing of it can change."""
    for name, module in iterate_modules(model):
        if module._hides_arrays:
            raise TypeError(
                f"{call}: {name or 'the model'} is a prepared layer, which holds no arrays; "
                "expected the model that it was prepared from."
            )


def _set_mode(model: M, inference: bool) -> M:
    def mode(module: eqx.Module, _: str) -> dict[str, Any]:
        return (
            {"inference": inference} if any(f.name == "inference" for f in fields(module)) else {}
        )

    return map_modules(mode, model)


def inference(model: M) -> M:
    """A copy of ``model`` for inference: dropout does nothing and needs no key.

    Args:
        model: any pytree of modules.

    Returns:
        The copy. Every module with a field ``inference`` has it set to ``True``,
        modules of Equinox too.

    PyTorch calls this ``eval()``, Flux ``testmode!``, Keras ``training=False``; the first two
    change the model in place.

    Examples:
        >>> import jax.numpy as jnp, noria as nr
        >>> nr.inference(nr.Dropout(0.5))(jnp.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    return _set_mode(model, True)


def training(model: M) -> M:
    """A copy of ``model`` for training: dropout is active and needs a key.

    New models are in this mode.

    Args:
        model: any pytree of modules.

    Returns:
        The copy. Every module with a field ``inference`` has it set to ``False``,
        modules of Equinox too.

    Raises:
        TypeError: for a prepared layer.

    Examples:
        >>> import noria as nr
        >>> nr.training(nr.inference(nr.Dropout(0.5))).inference
        False
    """
    check_has_arrays("training(model)", model)
    return _set_mode(model, False)


def count_parameters(model: Any, *, trainable: bool | None = None) -> int:
    """The number of floating and complex numbers in ``model``.

    Args:
        model: any pytree.
        trainable: ``True`` counts trained numbers only, ``False`` the others only, ``None`` both.

    Returns:
        The number, an ``int``; a complex number counts once.

    Examples:
        >>> import jax, noria as nr
        >>> nr.count_parameters(nr.RNN(4, 6, key=jax.random.key(0)))
        66
    """
    pairs = zip(jtu.tree_leaves(model), jtu.tree_leaves(trainable_mask(model)), strict=True)
    return sum(
        leaf.size for leaf, trained in pairs if is_inexact(leaf) and trainable in (None, trained)
    )


def cast(model: M, dtype: Any) -> M:
    """A copy of ``model`` whose floating and complex arrays have another dtype.

    Args:
        model: any pytree.
        dtype: a floating dtype, such as ``jnp.bfloat16``.

    Returns:
        The copy. Complex arrays get the complex dtype of the same precision: complex64 for float32
        and narrower dtypes, complex128 for float64. Integer and boolean arrays are unchanged.

    Raises:
        TypeError: for a prepared layer.

    Examples:
        >>> import jax, jax.numpy as jnp, noria as nr
        >>> nr.cast(nr.Dense(2, 1, key=jax.random.key(0)), jnp.bfloat16).W.dtype.name
        'bfloat16'
    """
    check_has_arrays("cast(model, dtype)", model)

    def convert(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        wide = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
        return jnp.asarray(leaf, complex_dtype(dtype) if wide else dtype)

    return typing.cast(M, jtu.tree_map(convert, model))


def iterate_modules(model: Any) -> Iterator[tuple[str, Module]]:
    """Every `Module` in ``model`` with its path, outermost first."""
    found: list[tuple[str, Module]] = []

    def visit(node: Any, path: str) -> None:
        if node is None or is_leaf(node):
            return
        if isinstance(node, Module):
            found.append((path.removeprefix("."), node))
        for key, child in children_of(node)[0]:
            visit(child, path + jtu.keystr((key,)))

    visit(model, "")
    return iter(found)


def _node(module: eqx.Module, mask: Any, name: str) -> Node:
    """A record of ``module`` for a notebook; ``mask`` is its `trainable_mask`."""
    arrays: list[Array] = []
    modules: list[Node] = []

    def visit(node: Any, mask: Any, path: str) -> None:
        children, masks = children_of(node)[0], children_of(mask)[0]
        for (key, child), (_, trained) in zip(children, masks, strict=True):
            place = f"{path}{jtu.keystr((key,))}".removeprefix(".")
            if isinstance(child, eqx.Module):
                modules.append(_node(child, trained, place))
            elif hasattr(child, "shape") and hasattr(child, "dtype"):
                size = int(child.size) if is_inexact(child) else 0
                arrays.append(Array(place, child.shape, str(child.dtype), size, trained))
            elif child is not None and not is_leaf(child):
                visit(child, trained, place)

    visit(module, mask, "")
    label = getattr(module, "label", None)
    label = label if isinstance(label, str) else type(module).__name__
    return Node(name, label, tuple(arrays), tuple(modules))


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as a pytree, so that a model that holds it can be passed through `jax.jit`.

    A module is unchanged, and so is a `jax.tree_util.Partial`, whose arguments are leaves. The
    variables that a plain function closes over are constants.
    """
    return (
        function
        if isinstance(function, eqx.Module | jtu.Partial | Function)
        else Function(function)
    )
