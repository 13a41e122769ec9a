"""Compare the training of ``noria demo characters`` with PyTorch: python benchmarks/characters.py

Both train the same LSTM on the same windows with Adam, gradients clipped to a norm of 1 and the
state carried on. ``--epochs`` (default 1) epochs follow one that is not measured.
"""

import argparse
import time

import jax
import numpy as np
import optax
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


def theirs(count: int, windows: nr.data.Streams, epochs: int) -> list[float]:
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
    epochs = parser.parse_args().epochs
    whole = characters.text()
    known = "".join(sorted(set(whole)))
    past, _, _ = nr.data.split(characters.encode(whole, known), test=characters.TEST_SHARE)
    windows = nr.data.streams(past, batch_size=characters.BATCH_SIZE, size=characters.SIZE)
    print("| | seconds an epoch, least | ms a step |\n|---|---|---|")
    for name, run in (("Noria", ours), ("PyTorch", theirs)):
        least = min(run(len(known), windows, epochs))
        print(f"| {name} | {least:.2f} | {1e3 * least / len(windows):.1f} |", flush=True)


if __name__ == "__main__":
    main()
