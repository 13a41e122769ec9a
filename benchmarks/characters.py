"""Compare the training of ``noria demo characters`` with PyTorch: python benchmarks/characters.py

Both train the same LSTM on the same windows with Adam, gradients clipped to a norm of 1 and the
state carried on, PyTorch on one thread and on all. An epoch that is not measured comes first.
``--part 0.1`` takes so much of the text.
"""

import argparse
import os
import time
from functools import partial

import jax
import numpy as np
import optax

# Waiting threads of PyTorch would keep the cores busy: a step took a hundred times as long beside
# other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

import noria as nr
from noria.demo import characters


def ours(count: int, windows: nr.data.Streams, epochs: int) -> list[float]:
    key = jax.random.key(0)
    _, history = nr.fit(
        characters.model_of(count, key),
        characters.loss,
        windows,
        optimiser=optax.adam(characters.LEARNING_RATE),
        epochs=1 + epochs,
        key=key,
        clip_norm=1.0,
        carry=True,
        progress=False,
    )
    return history.seconds[1:]


class Model(torch.nn.Module):
    def __init__(self, count: int):
        super().__init__()
        self.embedding = torch.nn.Embedding(count, characters.FEATURES)
        self.lstm = torch.nn.LSTM(characters.FEATURES, characters.HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(characters.HIDDEN, count)

    def forward(self, state, xs):
        ys, state = self.lstm(self.embedding(xs), state)
        return state, self.head(ys)


def theirs(threads: int, count: int, windows: nr.data.Streams, epochs: int) -> list[float]:
    torch.set_num_threads(threads)
    model = Model(count)
    optimiser = torch.optim.Adam(model.parameters(), characters.LEARNING_RATE)
    seconds = []
    for _ in range(1 + epochs):
        started, state = time.perf_counter(), None
        for xs, ys, _ in windows:
            optimiser.zero_grad()
            state, logits = model(state, torch.from_numpy(xs))
            state = tuple(part.detach() for part in state)
            value = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(ys.astype(np.int64)).flatten()
            )
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--part", type=float, default=1.0)
    arguments = parser.parse_args()
    whole = characters.text()
    known = "".join(sorted(set(whole)))
    numbers = characters.encode(whole, known)
    past = numbers[: int(arguments.part * (1 - characters.TEST_SHARE) * len(numbers))]
    windows = nr.data.streams(past, batch_size=characters.BATCH_SIZE, size=characters.SIZE)
    print("| | seconds an epoch, least | ms a step |\n|---|---|---|")
    runs = {"Noria": ours}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        runs[f"PyTorch, threads: {threads}"] = partial(theirs, threads)
    for name, run in runs.items():
        least = min(run(len(known), windows, arguments.epochs))
        print(f"| {name} | {least:.2f} | {1e3 * least / len(windows):.1f} |", flush=True)


if __name__ == "__main__":
    main()
