"""``freeze`` and ``thaw``: overrides, for one model, of the arrays that its classes train."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.tree_util as jtu

from noria.module import (
    M,
    Module,
    children_of,
    is_inexact,
    is_leaf,
    map_modules,
    trainable_mask,
)


class _Mark:
    """Replaces a leaf while `freeze` and `thaw` find out which leaves ``where`` chooses."""

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
    """For each leaf, the path of the innermost `Module` around it, and its path below it."""
    owners: list[tuple[str | None, str]] = []

    def walk(node: Any, owner: str | None, path: str) -> None:
        if is_leaf(node):
            owners.append((owner, path.removeprefix(owner or "")))
        elif node is not None:
            for key, child in children_of(node)[0]:
                walk(child, path if isinstance(node, Module) else owner, path + jtu.keystr((key,)))

    walk(model, None, "")
    return owners


def _set_trainable(verb: str, model: M, where: Callable[[M], Any], value: bool) -> M:
    """Override the chosen arrays, each at the module that owns it, where the value is new."""
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

        return map_modules(overrides, model)

    touched = {owners[index] for index in chosen}
    plain = override(model, {})  # as its class lines have it
    trained = jtu.tree_leaves(trainable_mask(plain))
    return override(plain, {owners[index]: value for index in chosen if trained[index] != value})


def freeze(model: M, where: Callable[[M], Any] = lambda model: model) -> M:
    """A copy of ``model`` in which the part that ``where`` chooses is not trained.

    Its gradient is ``None``, and `update` does not change it, not even by weight decay. The mark
    belongs to the part and moves with it into other models. An optimiser state made before does not
    fit any more: call `setup` again.

    Args:
        model: a `Module`, or a tuple, list or dict of them.
        where: returns the part, or a tuple of parts: ``lambda m: m.encoder``,
            ``lambda m: (m.cell.W, m.dense)``. By default the whole model.

    Returns:
        The copy; it shares its arrays with ``model``.

    Raises:
        ValueError: if ``where`` chooses nothing that could be trained, or a part outside of a
            `Module`.

    Flux's ``freeze!`` changes the optimiser state, PyTorch's ``requires_grad_(False)`` the
    parameter in place, Keras' ``trainable = False`` the layer in place.

    Examples:
        >>> import jax, noria as nr
        >>> k1, k2 = jax.random.split(jax.random.key(0))
        >>> model = nr.Chain(nr.GRU(2, 3, key=k1), nr.Dense(3, 1, key=k2))
        >>> model = nr.freeze(model, lambda m: m[0])
        >>> nr.count_parameters(model, trainable=True)
        4
    """
    return _set_trainable("freeze", model, where, value=False)


def thaw(model: M, where: Callable[[M], Any] = lambda model: model) -> M:
    """A copy of ``model`` in which the part that ``where`` chooses is trained; undoes `freeze`.

    It overrides a class line too: ``thaw(model, lambda m: m.h0)`` trains ``h0`` even if
    ``trainable=`` omits it.

    Args:
        model: a `Module`, or a tuple, list or dict of them.
        where: returns the part, or a tuple of parts. By default the whole model.

    Returns:
        The copy; it shares its arrays with ``model``.

    Raises:
        ValueError: if ``where`` chooses nothing that could be trained, or a part outside of a
            `Module`.

    Examples:
        >>> import jax, noria as nr
        >>> model = nr.freeze(nr.Dense(3, 1, key=jax.random.key(1)))
        >>> nr.count_parameters(nr.thaw(model, lambda m: m.b), trainable=True)
        1
    """
    return _set_trainable("thaw", model, where, value=True)
