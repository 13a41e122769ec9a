"""Sequences on disk: the same batches as lists, little memory, packing, prefetching."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import noria as nr

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(0, 30, 200)
LISTS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS]
LABELS = np.arange(200)
KEY = jax.random.key(0)


def same(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        for one, other in zip(a, b, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def stored(tmp_path):
    return nr.data.Ragged.write(tmp_path / "train", iter(LISTS))


def test_written_sequences_come_back(stored, tmp_path):
    assert len(stored) == 200
    assert stored.shape == (200, 3)
    assert stored.dtype == np.float32
    for read, given in zip(stored, LISTS, strict=True):
        np.testing.assert_array_equal(read, given)
    np.testing.assert_array_equal(stored[-1], LISTS[-1])
    np.testing.assert_array_equal(stored[3:9:2][1], LISTS[5])
    np.testing.assert_array_equal(stored[np.array([7, 1])][0], LISTS[7])
    assert {file.name for file in (tmp_path / "train").iterdir()} == {"values.npy", "offsets.npy"}
    with pytest.raises(IndexError):
        stored[200]


@pytest.mark.parametrize("name", ["values.npy", "offsets.npy"])
def test_a_store_that_cannot_be_replaced_is_whole_or_says_so(stored, tmp_path, monkeypatch, name):
    """A full disk leaves the old one; a crash between the two files leaves no offsets."""
    folder, real = tmp_path / "train", Path.replace

    def no_space(file, array):
        raise OSError(28, "No space left on device")

    def fails(self, target):
        if Path(target).name == name:
            raise OSError(5, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", no_space)
        with pytest.raises(OSError, match="No space"):
            nr.data.Ragged.write(folder, LISTS[:3])
    same([nr.data.pad(nr.data.Ragged.open(folder))], [nr.data.pad(LISTS)])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        with pytest.raises(OSError, match="Input/output"):
            nr.data.Ragged.write(folder, LISTS[:3])
    with pytest.raises(FileNotFoundError, match=r"there is no offsets.npy; expected a folder that"):
        nr.data.Ragged.open(folder)
    assert not [*folder.glob("*.part")]
    assert len(nr.data.Ragged.write(folder, LISTS[:3])) == 3


def test_batches_streams_and_rows_are_those_of_lists(stored):
    a, b = (nr.data.batches(x, LABELS, batch_size=16, key=KEY) for x in (stored, LISTS))
    same(a.epoch(KEY), b.epoch(KEY))
    same(a.epoch(KEY, 5), list(b.epoch(KEY))[5:])
    same(*(nr.data.streams(x, batch_size=4, size=20, key=KEY) for x in (stored, LISTS)))
    same(*(nr.data.packed(x, batch_size=4, size=40, key=KEY) for x in (stored, LISTS)))
    same([nr.data.pad(stored)], [nr.data.pad(LISTS)])


def test_the_share_of_padding_is_that_of_the_batches(stored):
    for buckets in (1, 4):
        data = nr.data.batches(stored, batch_size=16, buckets=buckets)
        steps = sum(xs.shape[0] * xs.shape[1] for xs, _ in data)
        assert data.padding == 1 - LENGTHS.sum() / steps
        assert f"{data.padding:.1%} padding" in repr(data)
    assert nr.data.batches(LABELS, batch_size=16).padding == 0


@pytest.mark.parametrize("count", [2, 3])
def test_processes_make_the_rows_of_one_process_between_them(stored, count):
    made: list[Any] = [
        nr.data.batches(stored, LABELS, batch_size=16, key=KEY),
        nr.data.batches(LABELS, batch_size=16, key=KEY),
        nr.data.streams(stored, batch_size=5, size=20, key=KEY),
        nr.data.packed(stored, batch_size=3, size=40, key=KEY),
    ]
    for data in [*made, nr.data.prefetch(made[0])]:
        rows = [nr.data.rows_of_process(n, count) for n in range(count)]
        parts = zip(*(data.epoch(KEY, 1, one) for one in rows), strict=True)
        joined = [tuple(map(np.concatenate, zip(*part, strict=True))) for part in parts]
        same(joined, data.epoch(KEY, 1))
        assert data.batch_size in (3, 5, 16)


def test_rows_are_asked_for_once_a_batch_and_may_be_none(stored):
    asked = []

    def rows(n):
        asked.append(n)
        return slice(0, 0)

    data = nr.data.batches(stored, LABELS, batch_size=16)
    for xs, labels, lengths in data.epoch(rows=rows):
        assert (len(xs), len(labels), len(lengths)) == (0, 0, 0)
        assert xs.shape[2:] == (3,)
    assert asked == [len(labels) for _, labels, _ in data]


# --- memory -------------------------------------------------------------------------------------

MEMORY = """
import sys, numpy as np, jax, noria as nr
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
store = nr.data.Ragged.open(sys.argv[1])
data = nr.data.batches(store, batch_size=32, key=jax.random.key(0))
next(iter(data))  # JAX and NumPy have loaded what they need
before = most = resident()
total = 0
for xs, lengths in data:
    total += int(lengths.sum())
    most = max(most, resident())
assert total == store.lengths.sum()
print(most - before)
"""


@pytest.mark.parametrize(
    "megabytes", [50, pytest.param(500, marks=pytest.mark.full)], ids=lambda n: f"{n} MB"
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_epoch_from_disk_takes_little_memory(tmp_path, megabytes):
    """Sequences of 3 kB to 30 kB; the whole store is read in a random order."""
    lengths = np.random.default_rng(0).integers(50, 500, megabytes * 64)
    nr.data.Ragged.write(tmp_path / "s", (np.full((n, 16), n, np.float32) for n in lengths))
    size = (tmp_path / "s" / "values.npy").stat().st_size
    assert size > megabytes * 10**6
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < min(50, 0.5 * megabytes)


# --- packing ------------------------------------------------------------------------------------


def test_packed_rows_hold_each_sequence_once_and_waste_little(stored):
    data = nr.data.packed(stored, LISTS, batch_size=8, size=64)
    found = []
    for xs, ys, resets, lengths in data:
        np.testing.assert_array_equal(xs, ys)
        assert xs.shape[1:] == (64, 3)
        for row, marks, length in zip(xs, resets, lengths, strict=True):
            assert not marks[length:].any()
            assert not row[length:].any()
            begins = np.flatnonzero(marks)
            found += np.split(row[:length], begins)[1:]
    wanted = [one for one in LISTS if len(one)]
    assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in wanted)
    assert data.padding < 0.03
    assert data.padding < nr.data.batches(LISTS, batch_size=8).padding


def test_a_layer_reads_packed_sequences_as_single_ones():
    lists = [one.astype(np.float32) for one in LISTS[:20]]
    layer = nr.GRU(3, 4, key=KEY, dtype=np.float32)
    marked = [np.full(len(one), n) for n, one in enumerate(lists)]
    for xs, numbers, resets, lengths in nr.data.packed(lists, marked, batch_size=3, size=40):
        ys = np.asarray(layer(xs, resets=resets, lengths=lengths))
        for row in range(len(xs)):
            for n in set(numbers[row, : lengths[row]].tolist()):
                at = (numbers[row] == n) & (np.arange(40) < lengths[row])
                np.testing.assert_allclose(ys[row, at], layer(lists[n]), atol=1e-6)


# --- prefetching --------------------------------------------------------------------------------


def test_prefetched_batches_are_the_same():
    data = nr.data.batches(LISTS, LABELS, batch_size=16, key=KEY)
    ahead = nr.data.prefetch(data, 3)
    assert ahead.shuffled
    assert len(ahead) == len(data)
    same(ahead.epoch(KEY, 2), data.epoch(KEY, 2))
    same(nr.data.prefetch([(LABELS,)] * 3).epoch(start=1), [(LABELS,)] * 2)
    same(ahead, nr.data.batches(LISTS, LABELS, batch_size=16, key=KEY))


def test_prefetching_works_ahead_in_one_thread_that_ends():
    made = []

    def source():
        for n in range(10):
            made.append((n, threading.current_thread().name))
            yield n
        raise OSError("the disk is gone")

    batches = iter(nr.data.prefetch(source(), 3))
    assert next(batches) == 0
    assert [next(batches) for _ in range(9)] == list(range(1, 10))
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert {name for _, name in made} == {"noria-prefetch_0"}
    early: Any = iter(nr.data.prefetch(iter(range(100)), 3))
    next(early)
    early.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("noria-prefetch")]


def test_a_reader_that_stops_early_waits_for_one_batch_only():
    made, begun, go = [], threading.Event(), threading.Event()

    def source():
        for n in range(9):
            made.append(n)
            if n:
                begun.set()
                go.wait()
            yield n

    batches: Any = iter(nr.data.prefetch(source(), 5))
    assert next(batches) == 0
    assert begun.wait(60)
    threading.Timer(0.05, go.set).start()
    batches.close()
    assert made == [0, 1]


# --- Arrow --------------------------------------------------------------------------------------


def test_arrow_columns_are_read_without_a_copy(tmp_path):
    pa = pytest.importorskip("pyarrow")
    flat = [one[:, 0] for one in LISTS]
    column = pa.array(flat)
    store = nr.data.Ragged.from_arrow(column)
    address = column.values.buffers()[1].address
    assert store[0].__array_interface__["data"][0] == address
    same(*(nr.data.batches(x, batch_size=16, key=KEY) for x in (store, flat)))
    features = pa.array([one.tolist() for one in LISTS], pa.list_(pa.list_(pa.float32(), 3)))
    for part in (features, pa.chunked_array([features[:70], features[70:]]), features[10:50]):
        numbers = range(10, 50) if len(part) == 40 else range(200)
        store = nr.data.Ragged.from_arrow(part)
        assert store.shape == (len(numbers), 3)
        for n, one in zip(numbers, store, strict=True):
            np.testing.assert_array_equal(one, LISTS[n])
    equal = nr.data.Ragged.from_arrow(pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)))
    assert [one.tolist() for one in equal[1:]] == [[3, 4], [5, 6]]


def test_parquet_and_arrow_files_and_polars(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"x": [one[:, 0] for one in LISTS]})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=64)
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=64)
    mapped = pa.ipc.open_file(pa.memory_map(str(tmp_path / "x.arrow"))).read_all()
    columns = [parquet.read_table(tmp_path / "x.parquet")["x"], mapped["x"]]
    polars = pytest.importorskip("polars")
    columns.append(polars.from_arrow(table)["x"])
    for column in columns:
        store = nr.data.Ragged.from_arrow(column)
        assert len(store) == 200
        for one, given in zip(store, LISTS, strict=True):
            np.testing.assert_array_equal(one, given[:, 0])


def test_arrow_columns_that_need_a_copy_are_refused():
    pa = pytest.importorskip("pyarrow")
    cases = [
        (pa.array([[1.0], None]), ValueError, "1 lists are missing; expected none"),
        (pa.array([[1.0, None]]), ValueError, "1 values are missing; expected none"),
        (pa.array([[True]]), TypeError, "the lists hold bool; expected integers or floats"),
        (pa.array(["a"]), TypeError, "the column is string; expected lists of numbers"),
        (pa.array([], pa.list_(pa.int8())), ValueError, "the column is empty"),
        ([[1.0]], TypeError, "it is a list; expected a column of lists"),
    ]
    for column, kind, text in cases:
        with pytest.raises(kind, match=text):
            nr.data.Ragged.from_arrow(column)


def test_without_pyarrow_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow; install it with: pip install pyarrow"):
        nr.data.Ragged.from_arrow([])


# --- messages -----------------------------------------------------------------------------------

WRONG = {
    "offsets that decrease": (
        lambda _: nr.data.Ragged(np.arange(5), [0, 3, 2]),
        ValueError,
        "offsets go from 0 to 3; expected numbers that do not decrease, from 0 to 5",
    ),
    "offsets past the end": (
        lambda _: nr.data.Ragged(np.arange(5), [0, 6]),
        ValueError,
        "offsets go from 0 to 6",
    ),
    "offsets with a fraction": (
        lambda _: nr.data.Ragged(np.arange(5), [0, 2.5]),
        TypeError,
        "offsets is float64; expected whole numbers",
    ),
    "one offset": (
        lambda _: nr.data.Ragged(np.arange(5), [0]),
        ValueError,
        r"offsets has shape \(1,\); expected \(sequences \+ 1,\)",
    ),
    "a number": (lambda _: nr.data.Ragged(3, [0, 1]), ValueError, "values is the number 3"),
    "text": (lambda _: nr.data.Ragged(["a"], [0, 1]), TypeError, "expected numbers"),
    "no folder": (
        lambda folder: nr.data.Ragged.open(folder),
        FileNotFoundError,
        "there is no values.npy; expected a folder that Ragged.write made",
    ),
    "nothing": (
        lambda folder: nr.data.Ragged.write(folder, []),
        ValueError,
        "there are no sequences; expected at least one",
    ),
    "other features": (
        lambda folder: nr.data.Ragged.write(folder, [np.ones((2, 3)), np.ones((2, 4))]),
        ValueError,
        r"sequence 1 has shape \(2, 4\); expected \(time, 3\)",
    ),
    "another dtype": (
        lambda folder: nr.data.Ragged.write(folder, [np.ones(2), np.ones(2, int)]),
        TypeError,
        "sequence 1 is int64, sequence 0 float64; expected one dtype",
    ),
    "bfloat16": (
        lambda folder: nr.data.Ragged.write(folder, [np.ones(2, jax.numpy.bfloat16)]),
        TypeError,
        "sequence 0 is bfloat16, which .npy files do not hold",
    ),
    "no column to pack": (
        lambda _: nr.data.packed(batch_size=1, size=1),
        ValueError,
        r"packed\(\): there are no columns",
    ),
    "nothing to pack": (
        lambda _: nr.data.packed(nr.data.Ragged([1], [0, 1])[1:], batch_size=1, size=1),
        ValueError,
        "packed: there are no sequences; expected at least one",
    ),
    "a sequence that is too long": (
        lambda _: nr.data.packed([np.ones(3)], batch_size=1, size=2),
        ValueError,
        r"packed\(size=2\): sequence 0 has 3 steps; expected at most",
    ),
    "columns of two lengths": (
        lambda _: nr.data.packed([np.ones(3)], [np.ones(2)], batch_size=1, size=3),
        ValueError,
        "column 1 has sequences of other lengths than column 0",
    ),
    "rows of batches that are whole": (
        lambda _: nr.data.prefetch([(LABELS,)]).epoch(rows=slice),
        TypeError,
        "prefetch: data is a list, which makes whole batches; expected noria.data.batches",
    ),
    "a process too many": (
        lambda _: nr.data.rows_of_process(2, 2),
        ValueError,
        r"rows_of_process\(index=2, count=2\): expected an index from 0 to count - 1",
    ),
    "nothing to prefetch": (
        lambda _: nr.data.prefetch(3),
        TypeError,
        "prefetch: data is a int; expected something to iterate over",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_have_their_message(name, tmp_path):
    call, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        call(tmp_path)
    assert not [*tmp_path.glob("*.part")]
