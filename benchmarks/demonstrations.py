"""Measure both demonstrations with several seeds: python benchmarks/demonstrations.py

Prints the tables of docs/demonstrations.md. ``--compare`` compares settings of the classifier by
five-fold cross-validation on the training utterances. The test utterances are used once for each
seed, with the settings of the demonstration.
"""

import argparse
import time
from typing import Any

import numpy as np

import noria as nr
from noria.data.samples import Utterances
from noria.demo import forecast, vowels

SETTINGS: dict[str, dict[str, Any]] = {
    "demonstration": {},
    "hidden 32": {"HIDDEN": 32},
    "no dropout": {"DROPOUT": 0.0},
    "rate 0.002": {"LEARNING_RATE": 2e-3},
}


def part(data: Utterances, chosen: np.ndarray) -> Utterances:
    return Utterances([data.sequences[n] for n in np.flatnonzero(chosen)], data.speakers[chosen])


def cross_validation() -> None:
    """Cross-validate with five folds of six consecutive utterances per speaker."""
    data, _ = nr.data.japanese_vowels()
    fold = np.empty(len(data.speakers), int)
    for speaker in range(vowels.SPEAKERS):
        fold[data.speakers == speaker] = np.arange(30) // 6
    print("| settings | accuracy of five folds | mean |\n|---|---|---|")
    for name, settings in SETTINGS.items():
        before = {key: getattr(vowels, key) for key in settings}
        vars(vowels).update(settings)
        scores = [
            vowels.train(
                seed=n, progress=False, data=(part(data, fold != n), part(data, fold == n))
            ).accuracy
            for n in range(5)
        ]
        vars(vowels).update(before)
        print(
            f"| {name} | {' '.join(f'{s:.1%}' for s in scores)} | {np.mean(scores):.1%} |",
            flush=True,
        )


def seeds(count: int) -> None:
    print(
        "\n| seed | test accuracy | seconds | forecast error, ppm | seconds |\n"
        "|---|---|---|---|---|"
    )
    accuracies, errors = [], []
    for seed in range(count):
        times = [time.perf_counter()]
        speakers = vowels.train(seed=seed, progress=False)
        times.append(time.perf_counter())
        series = forecast.train(seed=seed, progress=False)
        times.append(time.perf_counter())
        accuracies.append(speakers.accuracy)
        errors.append(series.errors["GRU"])
        took = np.diff(times)
        print(
            f"| {seed} | {accuracies[-1]:.2%} | {took[0]:.0f} | {errors[-1]:.3f} | {took[1]:.0f} |",
            flush=True,
        )
    print(f"| median | {np.median(accuracies):.2%} | | {np.median(errors):.3f} | |")
    print(
        f"| spread | {min(accuracies):.2%} to {max(accuracies):.2%} | "
        f"| {min(errors):.3f} to {max(errors):.3f} | |\n"
    )
    print(
        f"Majority: {speakers.majority:.2%}. "
        + ", ".join(f"{name}: {error:.3f} ppm" for name, error in series.errors.items())
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--compare", action="store_true", help="cross-validate the settings first (minutes)"
    )
    arguments = parser.parse_args()
    if arguments.compare:
        cross_validation()
    seeds(arguments.seeds)
