"""Sample data inside the package; README.md in this folder gives sources and licences."""

from importlib.resources import files
from typing import NamedTuple

import numpy as np


class Utterances(NamedTuple):
    """Sequences of different lengths, and the speaker of each.

    Attributes:
        sequences: arrays ``(time, 12)`` of floats, LPC cepstrum coefficients.
        speakers: integers ``(utterances,)`` from 0 to 8.
    """

    sequences: list[np.ndarray]
    speakers: np.ndarray


class MonthlySeries(NamedTuple):
    """A monthly series.

    Attributes:
        values: floats ``(time,)``.
        months: ``(time,)``, the month of each value, as ``datetime64[M]``.
    """

    values: np.ndarray
    months: np.ndarray


def _read(name: str) -> dict[str, np.ndarray]:
    with files("noria.data.samples").joinpath(name).open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def japanese_vowels() -> tuple[Utterances, Utterances]:
    """Training and test utterances of the vowels /ae/ by nine male speakers.

    Returns:
        ``(train, test)``, with 270 and 370 utterances. The ``sequences`` are float32 arrays of 7 to
        29 steps and 12 channels; the ``speakers`` are integers from 0 to 8.

    Source: Kudo, Toyama and Shimbo 1999; UCI Machine Learning Repository, doi 10.24432/C5NS47, CC
    BY 4.0.

    Examples:
        >>> import noria as nr
        >>> train, test = nr.data.japanese_vowels()
        >>> len(train.sequences), len(test.sequences), train.sequences[0].shape
        (270, 370, (20, 12))
    """
    arrays = _read("japanese_vowels.npz")

    def part(name: str) -> Utterances:
        ends = np.cumsum(arrays[f"{name}_lengths"])
        return Utterances(np.split(arrays[f"{name}_steps"], ends[:-1]), arrays[f"{name}_speakers"])

    return part("train"), part("test")


def co2() -> MonthlySeries:
    """Monthly mean CO2 at Mauna Loa in parts per million, March 1958 to December 2001.

    Returns:
        ``(values, months)``: 526 float32 values in ppm, and the month of each.

    Source: Keeling and Whorf 2004, public domain.

    Examples:
        >>> import noria as nr
        >>> series = nr.data.co2()
        >>> series.values.shape, str(series.months[0]), str(series.months[-1])
        ((526,), '1958-03', '2001-12')
    """
    arrays = _read("co2.npz")
    year, month = arrays["first"]
    first = np.datetime64(f"{year:04}-{month:02}", "M")
    return MonthlySeries(arrays["ppm"], first + np.arange(len(arrays["ppm"])))
