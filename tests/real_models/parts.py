"""A real model in Noria, beside its own runtime."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

import noria as nr

Function = Callable[[Any], Any]

#: The modules of this folder that read a model, and how many parts each gives.
COUNTS = {
    "silero": 1,
    "dtln": 1,
    "resemblyzer": 2,
    "deepfilternet": 5,
    "rnnoise": 1,
    "g2p": 2,
    "ocr": 2,
    "chars2vec": 2,
    "textgen": 1,
}


class NotInstalledError(Exception):
    """A model whose wheel is not installed."""


def file(wheel: str, path: str) -> Path:
    """A file of a wheel, which is not imported."""
    try:
        found = Path(str(distribution(wheel).locate_file(path)))
    except PackageNotFoundError as error:
        raise NotInstalledError(f"{wheel} is not installed; make test-models does it") from error
    if not found.exists():
        raise NotInstalledError(f"{wheel} has no file {path} on this machine")
    return found


@dataclass(frozen=True)
class Part:
    """A model, or the recurrent part of one.

    Attributes:
        name: its name in the table.
        runtime: what runs the original.
        model: the model in Noria.
        xs: one sequence, or a batch of them.
        whole: the original on ``xs``: the outputs of all steps.
        begin: makes a function of one step of the original, which keeps its state; ``None`` for an
            original that needs whole sequences.
        streams: whether the model in Noria has steps.
        tolerance: the largest difference, in units of the largest output.
    """

    name: str
    runtime: str
    model: Any
    xs: np.ndarray
    whole: Function
    begin: Callable[[], Function] | None = None
    streams: bool = True
    tolerance: float = 1e-5

    @property
    def steps(self) -> Iterator[np.ndarray]:
        """The inputs of the steps."""
        return iter(self.xs.swapaxes(0, 1) if self.batch else self.xs)

    @property
    def batch(self) -> int | None:
        """The number of sequences, or ``None`` for one without an axis."""
        indices = np.issubdtype(self.xs.dtype, np.integer)
        return len(self.xs) if self.xs.ndim == (2 if indices else 3) else None

    def stream(self) -> Function:
        """The steps in Noria."""
        return nr.stream(self.model, self.batch)


def session(model: Any) -> Any:
    """A session of onnxruntime with one thread, for a path or the bytes of a model."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # a file may give a wrong shape of its outputs
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, settings, ["CPUExecutionProvider"])


def between(model: Any, inputs: list[str], outputs: list[str]) -> Any:
    """The session of a part of a graph."""
    import onnx.utils

    known = onnx.shape_inference.infer_shapes(model)
    part = onnx.utils.Extractor(known).extract_model(inputs, outputs)
    return session(part.SerializeToString())


def difference(found: Any, expected: Any) -> float:
    """The largest difference, in units of the largest expected number."""
    import jax

    return max(
        float(np.abs(np.asarray(a, float) - b).max() / np.abs(b).max())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )
