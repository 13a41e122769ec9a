"""Answers of a saved demonstration model: on sequences of a CSV or npz file, or on a text."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from noria.demo import characters, forecast, vowels
from noria.demo.tables import read
from noria.io import describe


class Table(NamedTuple):
    """The result of `predict`: column names, and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def predict(model: Path, data: Path) -> Table:
    """Load a model that a demonstration saved, and predict on the sequences of ``data``.

    Args:
        model: the file, or its folder.
        data: a CSV or an npz file; for a model of characters a text in UTF-8, which it continues.

    Raises:
        ValueError: for another model, or data that the model cannot read; the message gives the
            form that it reads.
        FileNotFoundError: if one of them does not exist.
    """
    path = model / "model.safetensors" if model.is_dir() else model
    extra = describe(path)["extra"]
    task = extra.get("task") if isinstance(extra, dict) else None
    if task not in (*ANSWERS, characters.TASK):
        raise ValueError(
            f"{path}: not a model of a demonstration; expected one saved by `noria demo`."
        )
    if not data.exists():
        raise FileNotFoundError(f"{data}: there is no such file.")
    if task == characters.TASK:
        return _continued(path, data)
    answer, channels = ANSWERS[task]
    # A file of an earlier version names no channels.
    return answer(path, read(data, extra.get("channels", channels)))


def _speakers(path: Path, sequences: dict[str, np.ndarray]) -> Table:
    for name, steps in sequences.items():
        if steps.shape[1] != vowels.CHANNELS:
            raise ValueError(
                f"sequence {name} has shape {steps.shape}; expected (time, {vowels.CHANNELS})."
            )
    shares = vowels.probabilities(
        vowels.load(path), [steps.astype(np.float32) for steps in sequences.values()]
    )
    rows = [
        [name, str(len(steps)), str(share.argmax() + 1), f"{share.max():.3f}"]
        for (name, steps), share in zip(sequences.items(), shares, strict=True)
    ]
    return Table(["sequence", "steps", "speaker", "probability"], rows)


def _months(path: Path, sequences: dict[str, np.ndarray]) -> Table:
    rows = []
    model = forecast.load(path)
    for name, steps in sequences.items():
        if steps.shape[1] != 1 or len(steps) <= forecast.WINDOW:
            wanted = f"(time, 1) with more than {forecast.WINDOW} months"
            raise ValueError(f"sequence {name} has shape {steps.shape}; expected {wanted}.")
        values = forecast.predict(model, steps[None, :, 0])[0]
        rows += [[name, f"+{n + 1}", f"{value:.2f}"] for n, value in enumerate(values)]
    return Table(["sequence", "month", "ppm"], rows)


def _continued(path: Path, data: Path, count: int = 300) -> Table:
    try:
        start = data.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{data}: not a text in UTF-8: {error}.") from error
    model, known = characters.load(path)
    try:
        if not start:
            raise ValueError("the text is empty; expected at least one character.")
        text = characters.generate(model, known, start, count, key=jax.random.key(0))
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from error
    return Table(["text"], [[text]])


#: The function that predicts for each task, and its channels.
ANSWERS = {vowels.TASK: (_speakers, vowels.NAMES), forecast.TASK: (_months, forecast.NAMES)}
