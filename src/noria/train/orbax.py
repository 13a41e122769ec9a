"""Checkpoints by Orbax: of arrays that are cut over processes, and in remote storage."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.tree_util as jtu

from noria._description import compare, description_of, is_array
from noria.module import named_leaves


class OrbaxFolder:
    """Checkpoints that all processes write together, each its part.

    Orbax cannot save a model as it is, with functions among its leaves. It gets the arrays by name.

    Raises:
        ImportError: if Orbax is not installed.
    """

    by_one = False

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(
                f"fit(checkpoint={os.fspath(folder)!r}): arrays that are cut over processes, and "
                "remote folders, need Orbax; install it with: pip install 'noria[orbax]'."
            ) from error
        path = os.fspath(folder)
        self._ocp: Any = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        where = path if "://" in path else os.path.abspath(path)
        self._manager = ocp.CheckpointManager(where, options=options)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def write(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        args = self._ocp.args
        # The description goes through JSON: Orbax has no tuples.
        description = json.loads(json.dumps({**description_of(tree), "extra": record}))
        parts = {"state": args.StandardSave(_arrays(tree)), "about": args.JsonSave(description)}
        self._manager.save(step, args=args.Composite(**parts), force=True)
        self._manager.wait_until_finished()

    def _about(self, step: int) -> Any:
        args = self._ocp.args
        return self._manager.restore(step, args=args.Composite(about=args.JsonRestore())).about

    def record(self, step: int) -> Any:
        return self._about(step)["extra"]

    def read(self, step: int, like: Any) -> Any:
        args, built = self._ocp.args, description_of(like)
        compare(f"step {step}", self._about(step), json.loads(json.dumps(built)))
        wanted = jtu.tree_map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), _arrays(like)
        )
        parts = args.Composite(state=args.StandardRestore(wanted))
        found = self._manager.restore(step, args=parts).state
        leaves = [found.get(name, leaf) for name, leaf in named_leaves(like)]
        return jtu.tree_unflatten(jtu.tree_structure(like), leaves)


def holds_checkpoints(folder: str | os.PathLike[str]) -> bool:
    """Whether Orbax has saved steps in a local folder: each is a folder named by its number."""
    return any(path.parent.name.isdigit() for path in Path(folder).glob("*/_CHECKPOINT_METADATA"))


def _arrays(tree: Any) -> dict[str, Any]:
    return {name: leaf for name, leaf in named_leaves(tree) if is_array(leaf)}
