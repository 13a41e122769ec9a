"""Checkpoints as safetensors files in a folder, one a step."""

import os
import re
from pathlib import Path
from typing import Any

from noria import io

_NAME = re.compile(r"step-(\d{9,})\.safetensors")


class Files:
    """A folder of checkpoints, of which the newest ``keep`` stay.

    A file is written under another name first, so a crash leaves the old files or all of them.
    """

    #: Whether the first process writes for all.
    by_one = True

    def __init__(self, folder: str | os.PathLike[str], keep: int):
        self._folder, self._keep = Path(folder), keep

    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        return sorted(self._paths())

    def _paths(self) -> dict[int, Path]:
        if not self._folder.is_dir():
            return {}
        matches = ((_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return {int(match[1]): path for match, path in matches if match}

    def write(self, step: int, tree: Any, record: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        io.save(self._folder / f"step-{step:09}.safetensors", tree, extra=record)
        for _, old in sorted(self._paths().items())[: -self._keep]:
            old.unlink(missing_ok=True)

    def record(self, step: int) -> Any:
        return io.describe(self._paths()[step])["extra"]

    def read(self, step: int, like: Any) -> Any:
        return io.load(self._paths()[step], like)
