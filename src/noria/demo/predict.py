"""Answers of a saved demonstration model on new sequences, from a CSV or an npz file."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from noria.demo import forecast, vowels
from noria.io import describe


class Table(NamedTuple):
    """What `predict` answers: column names, and rows of text."""

    columns: list[str]
    rows: list[list[str]]


def predict(model: Path, data: Path) -> Table:
    """Load ``model`` (a file that a demonstration saved, or its folder) and answer on the sequences of ``data``.

    Raises:
        ValueError: for a model of something else, or data that the model cannot read; the message says what it can.
        FileNotFoundError: if one of them does not exist.
    """
    path = model / "model.safetensors" if model.is_dir() else model
    extra = describe(path)["extra"]
    task = extra.get("task") if isinstance(extra, dict) else None
    if task not in ANSWERS:
        raise ValueError(f"{path}: not a model of a demonstration; expected one saved by `noria demo`.")
    if not data.exists():
        raise FileNotFoundError(f"{data}: there is no such file.")
    return ANSWERS[task](path, read(data))


def read(path: Path) -> dict[str, np.ndarray]:
    """Named sequences ``(time, channels)`` of a file.

    A CSV file has a header. A column ``sequence`` (or ``id``) tells whose step a row is, a column ``month``, ``date`` or
    ``time`` is passed over, all others are channels; without such a column the file is one sequence. An npz file holds
    one array for each sequence, ``(time, channels)`` or ``(time,)``, or ``xs`` (batch, time, channels) and ``lengths``.
    """
    readers = {".npz": _read_npz, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a .csv or .npz file.")
    sequences = readers[path.suffix.lower()](path)
    for name, steps in sequences.items():
        if steps.ndim not in (1, 2) or len(steps) == 0 or not np.isfinite(steps).all():
            raise ValueError(
                f"{path}: sequence {name} has shape {steps.shape}; expected (time, channels), finite, not empty."
            )
    return {name: steps.reshape(len(steps), -1) for name, steps in sequences.items()}


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array")
        with loaded as file:
            arrays = dict(file)
    except Exception as error:  # numpy raises half a dozen kinds for a file that is no npz
        raise ValueError(f"{path}: not a readable npz file: {error}.") from error
    if set(arrays) != {"xs", "lengths"}:
        return {name: np.atleast_1d(np.asarray(array, np.float64)) for name, array in arrays.items()}
    xs, lengths = arrays["xs"], arrays["lengths"]
    whole = np.issubdtype(lengths.dtype, np.integer) and lengths.shape == xs.shape[:1]
    if xs.ndim != 3 or not whole or lengths.min(initial=0) < 0 or lengths.max(initial=0) > xs.shape[1]:
        raise ValueError(
            f"{path}: xs {xs.shape} and lengths {lengths.shape}; expected (batch, time, channels) and (batch,)."
        )
    return {str(n): np.asarray(x[:length], np.float64) for n, (x, length) in enumerate(zip(xs, lengths, strict=True))}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a byte-order mark
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise ValueError(f"{path}: it has {len(rows)} lines; expected a header and at least one row.")
    header = [name.strip().lower() for name in rows[0]]
    whose = next((n for n, name in enumerate(header) if name in ("sequence", "id")), None)
    channels = [n for n, name in enumerate(header) if n != whose and name not in ("month", "date", "time")]
    sequences: dict[str, list[list[float]]] = {}
    for line, row in enumerate(rows[1:], start=2):
        try:
            step = [float(row[n]) for n in channels]
            name = "series" if whose is None else row[whose]
        except (ValueError, IndexError):
            raise ValueError(f"{path}, line {line}: expected {len(header)} columns, numbers in all channels.") from None
        sequences.setdefault(name, []).append(step)
    return {name: np.array(steps) for name, steps in sequences.items()}


def _speakers(path: Path, sequences: dict[str, np.ndarray]) -> Table:
    for name, steps in sequences.items():
        if steps.shape[1] != vowels.CHANNELS:
            raise ValueError(f"sequence {name} has shape {steps.shape}; expected (time, {vowels.CHANNELS}).")
    shares = vowels.probabilities(vowels.load(path), [steps.astype(np.float32) for steps in sequences.values()])
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


ANSWERS = {vowels.TASK: _speakers, forecast.TASK: _months}
