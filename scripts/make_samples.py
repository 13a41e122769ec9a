"""Write the sample data of the package from the packages that contain the original files.

    pip install --no-deps aeon statsmodels
    python scripts/make_samples.py

The script reads the text files of both packages and imports neither. It writes
``src/noria/data/samples/{japanese_vowels,co2}.npz``. The README of that folder gives sources and
licences.
"""

import csv
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = Path(__file__).parent.parent / "src" / "noria" / "data" / "samples"


def locate(package: str, name: str) -> Path:
    return Path(str(next(f for f in files(package) or [] if f.name == name).locate()))


def utterances(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences (time, 12) and speakers 0 to 8 from a ``.ts`` file.

    In each line ``:`` separates the channels, and the last field is the label.
    """
    lines = locate("aeon", name).read_text().splitlines()
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    sequences = [np.array([row.split(",") for row in fields[:-1]], np.float32).T for fields in rows]
    return sequences, np.array([int(fields[-1]) - 1 for fields in rows], np.int32)


def japanese_vowels() -> None:
    arrays: dict[str, Any] = {}
    for part, name in (("train", "JapaneseVowels_TRAIN.ts"), ("test", "JapaneseVowels_TEST.ts")):
        sequences, speakers = utterances(name)
        arrays[f"{part}_steps"] = np.concatenate(sequences)
        arrays[f"{part}_lengths"] = np.array([len(s) for s in sequences], np.int32)
        arrays[f"{part}_speakers"] = speakers
    np.savez_compressed(SAMPLES / "japanese_vowels.npz", **arrays)


def co2() -> None:
    """Monthly means of the weekly values; the five months without a value are interpolated."""
    with locate("statsmodels", "co2.csv").open() as file:
        rows = [(row["date"], row["co2"]) for row in csv.DictReader(file)]
    weekly = [
        (int(date[:4]) * 12 + int(date[4:6]) - 1, float(value)) for date, value in rows if value
    ]
    months = np.array([month for month, _ in weekly])
    values = np.array([value for _, value in weekly])
    span = np.arange(months[0], months[-1] + 1)
    present = np.isin(span, months)
    means = np.array([values[months == month].mean() for month in span[present]])
    filled = np.interp(span, span[present], means).astype(np.float32)
    np.savez_compressed(
        SAMPLES / "co2.npz", ppm=filled, first=np.array([span[0] // 12, span[0] % 12 + 1], np.int32)
    )
    print(
        f"co2: {len(span)} months, filled {[f'{m // 12}-{m % 12 + 1:02}' for m in span[~present]]}"
    )


if __name__ == "__main__":
    SAMPLES.mkdir(parents=True, exist_ok=True)
    japanese_vowels()
    co2()
