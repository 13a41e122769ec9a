"""Sequences from CSV and npz files.

A file that is not clearly a table of numbers is rejected: a prediction on it would be wrong.
"""

import contextlib
import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

OWNERS, TIMES = ("sequence", "id"), ("month", "date", "time")
DATE = re.compile(r"\d{4}-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?)?")


def read(path: Path, channels: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Named sequences ``(time, channels)`` of a file.

    A CSV file is text in UTF-8 with a header, commas between columns and points in numbers. A
    column ``sequence`` (or ``id``) names the sequence of each row; without it the file is one
    sequence. A column ``month``, ``date`` or ``time`` has to increase. All other columns are
    channels. If their names are ``channels`` in any order, they are sorted like it; otherwise their
    order is kept. An npz file holds one array for each sequence, ``(time, channels)`` or
    ``(time,)``, or ``xs`` (batch, time, channels) and ``lengths``.

    Raises:
        ValueError: for a file of another kind, or one that could be misread; the message says
            where.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".npz"):
        raise ValueError(f"{path}: expected a .csv or .npz file.")
    sequences = _read_npz(path) if suffix == ".npz" else _read_csv(path, channels)
    for name, steps in sequences.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(steps.astype(np.float32)).all()  # as the models take them
        if steps.ndim not in (1, 2) or len(steps) == 0 or not finite:
            raise ValueError(
                f"{path}: sequence {name} has shape {steps.shape}; "
                "expected (time, channels), finite, not empty."
            )
    return {name: steps.reshape(len(steps), -1) for name, steps in sequences.items()}


# --- npz ----------------------------------------------------------------------------------------


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(path)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds a single array")
        with loaded as file:
            arrays = dict(file)
    except Exception as error:  # numpy raises half a dozen kinds for a file that is no npz
        raise ValueError(f"{path}: not a readable npz file: {error}.") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf":  # NumPy would drop the imaginary part, and read text
            raise ValueError(f"{path}: {name} is an array of {array.dtype}; expected real numbers.")
    if set(arrays) != {"xs", "lengths"}:
        return {
            name: np.atleast_1d(np.asarray(array, np.float64)) for name, array in arrays.items()
        }
    xs, lengths = arrays["xs"], arrays["lengths"]
    whole = np.issubdtype(lengths.dtype, np.integer) and lengths.shape == xs.shape[:1]
    if (
        xs.ndim != 3
        or not whole
        or lengths.min(initial=0) < 0
        or lengths.max(initial=0) > xs.shape[1]
    ):
        raise ValueError(
            f"{path}: xs {xs.shape} and lengths {lengths.shape}; "
            "expected (batch, time, channels) and (batch,)."
        )
    return {
        str(n): np.asarray(x[:length], np.float64)
        for n, (x, length) in enumerate(zip(xs, lengths, strict=True))
    }


# --- CSV ----------------------------------------------------------------------------------------


def _read_csv(path: Path, channels: Sequence[str]) -> dict[str, np.ndarray]:
    rows = _rows(path)
    header = _header(path, rows[0][1])
    whose = next((n for n, name in enumerate(header) if name in OWNERS), None)
    times = [n for n, name in enumerate(header) if name in TIMES]
    numbers = [n for n in range(len(header)) if n != whose and n not in times]
    if not numbers:
        raise ValueError(
            f"{path}, line 1: the columns are {', '.join(header)}; expected a channel besides them."
        )
    wanted = _in_order(path, [header[n] for n in numbers], [name.lower() for name in channels])
    sequences: dict[str, list[list[float]]] = {}
    before: dict[tuple[str, int], str] = {}
    for line, row in rows[1:]:
        place = f"{path}, line {line}"
        if len(row) != len(header):
            raise ValueError(
                f"{place}: it has {len(row)} columns; expected {len(header)} columns, "
                "as the header has. Numbers are written with a point, "
                "without separators of thousands."
            )
        name = "series" if whose is None else row[whose].strip()
        for n in times:
            _check_time(place, header[n], before.get((name, n)), row[n].strip())
            before[name, n] = row[n].strip()
        sequences.setdefault(name, []).append([_number(place, row[numbers[n]]) for n in wanted])
    return {name: np.array(steps) for name, steps in sequences.items()}


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Lines by number, those without content at the end left out."""
    try:
        with path.open(
            newline="", encoding="utf-8-sig"
        ) as file:  # spreadsheets begin with a byte-order mark
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}.") from error
    blank = [not any(cell.strip() for cell in row) for _, row in rows]
    while blank and blank[-1]:
        blank.pop()
    rows = rows[: len(blank)]
    if len(rows) < 2:
        raise ValueError(
            f"{path}: it has {len(rows)} lines; expected a header and at least one row."
        )
    if True in blank:
        raise ValueError(
            f"{path}, line {rows[blank.index(True)][0]}: it is empty; expected a step in each line."
        )
    return rows


def _header(path: Path, row: list[str]) -> list[str]:
    header, place = [name.strip().lower() for name in row], f"{path}, line 1"
    if any(mark in name for name in header for mark in ";\t"):
        raise ValueError(
            f"{place}: {row} has semicolons or tabs; expected commas between columns, "
            "points in numbers."
        )
    if "" in header or any(map(_is_number, header)):
        raise ValueError(
            f"{place}: the header is {row}; expected a name for each column, such as month,ppm."
        )
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{place}: two columns are called {twice[0]}; expected different names.")
    return header


def _in_order(path: Path, names: list[str], channels: list[str]) -> list[int]:
    """The column of each channel: by name if the names match, else by position."""
    if sorted(names) == sorted(channels):
        return [names.index(name) for name in channels]
    if set(names) & set(channels):
        raise ValueError(
            f"{path}, line 1: the channels are {', '.join(names)}; "
            f"expected {', '.join(channels)} in any order, or {len(channels)} columns with other "
            "names in this order."
        )
    return list(range(len(names)))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # the separator of thousands in Python


def _number(place: str, cell: str) -> float:
    if not _is_number(cell):
        raise ValueError(
            f"{place}: {cell!r} is no number; expected numbers in all channels, with a point."
        )
    return float(cell)


def _check_time(place: str, name: str, before: str | None, now: str) -> None:
    """Steps come in order. Months follow each other, too, since the forecast counts them."""
    time: Any = _time(place, name, now)
    if before is None:
        return
    last: Any = _time(place, name, before)
    if type(time) is not type(last) or not time > last:
        raise ValueError(
            f"{place}: {name} {now} comes after {before}; expected a later one, in order of time."
        )
    if (
        name == "month"
        and isinstance(time, np.datetime64)
        and time.astype("M8[M]") - last.astype("M8[M]") != 1
    ):
        raise ValueError(
            f"{place}: month {now} comes after {before}; expected the next month, without a gap."
        )


def _time(place: str, name: str, cell: str) -> float | np.datetime64:
    if DATE.fullmatch(cell):
        with contextlib.suppress(ValueError):  # a thirteenth month
            return np.datetime64(cell, "us")
    elif _is_number(cell) and np.isfinite(float(cell)):
        return float(cell)
    raise ValueError(
        f"{place}: {name} is {cell!r}; expected a number or a date such as 2001-03 or 2001-03-31."
    )
