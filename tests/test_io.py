"""Saving and loading: round trips, and every way in which a file can be wrong."""

import enum
import functools
import json
import os
import re
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
import pytest
import safetensors
import safetensors.numpy
from models import assert_close

import noria as nr
from noria import _stored

KEYS = jax.random.split(jax.random.key(0), 8)


def model(n: int = 0, hidden: int = 4, activation=jnp.tanh, **options):
    return nr.Chain(
        nr.RNN(2, hidden, activation, key=KEYS[n], **options),
        nr.Dropout(0.2),
        nr.LSTM(hidden, 3, key=KEYS[n + 1], learn_initial_state=True),
    )


class Everything(nr.Module):
    rate: float
    name: str
    flag: bool
    key: jax.Array
    half: jax.Array
    whole: jax.Array
    numpy: np.ndarray
    nothing: jax.Array | None


def everything(shift):
    return Everything(
        0.5 + shift,
        f"m{shift}",
        bool(shift),
        jax.random.key(shift),
        jnp.full(3, shift + 0.5, jnp.bfloat16),
        jnp.arange(3) + shift,
        np.full((2, 0), shift, np.float64),
        None,
    )


def arrays(tree):
    return [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jtu.tree_leaves(tree)
        if eqx.is_array(x)
    ]


def test_round_trip(tmp_path):
    path = tmp_path / "m.safetensors"
    nr.save(path, model(0))
    loaded = nr.load(path, model(3))
    assert_close(jtu.tree_leaves(loaded), jtu.tree_leaves(model(0)), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert path.stat().st_mode & 0o444 == 0o444


def test_every_kind_of_leaf_comes_back(tmp_path):
    nr.save(tmp_path / "m", everything(1), extra={"classes": ["a", "b"]})
    loaded = nr.load(tmp_path / "m", everything(0))
    assert (loaded.rate, loaded.name, loaded.flag, loaded.nothing) == (1.5, "m1", True, None)
    for a, b in zip(arrays(loaded), arrays(everything(1)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert isinstance(loaded.numpy, np.ndarray)
    assert nr.describe(tmp_path / "m")["extra"] == {"classes": ["a", "b"]}


def test_modes_frozen_parts_and_backends_stay_those_of_the_model_built(tmp_path):
    nr.save(tmp_path / "m", nr.inference(nr.freeze(model(0), lambda m: m[0])))
    built = nr.with_backend(model(3), "reference")
    loaded = nr.load(tmp_path / "m", built)
    assert str(jtu.tree_structure(loaded)) == str(jtu.tree_structure(built))


@pytest.mark.versions
def test_model_and_optimiser_state_together(tmp_path, ordinary_promotion):
    net = model(0)
    opt_state = nr.setup(optax.adam(0.1), net)
    net, opt_state = nr.update(opt_state, net, net)
    nr.save(tmp_path / "run", (net, opt_state))
    fresh = model(3)
    net_, opt_state_ = nr.load(tmp_path / "run", (fresh, nr.setup(optax.adam(0.1), fresh)))
    for a, b in zip(
        jtu.tree_leaves(nr.update(opt_state_, net_, net_)),
        jtu.tree_leaves(nr.update(opt_state, net, net)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


WRONG = {
    "size": (
        lambda: model(0, hidden=5),
        r"layers\[0\].cell: hidden_size is 4 in the file, 5 in the model",
    ),
    "activation": (
        lambda: model(0, activation=jax.nn.relu),
        r"layers\[0\].cell: activation is 'tanh' in the file, 'relu' in the model",
    ),
    "direction": (
        lambda: model(0, reverse=True),
        r"layers\[0\]: reverse is False in the file, True in the model",
    ),
    "missing bias": (
        lambda: model(0, bias=False),
        r"the file has layers\[0\].cell.b, which the model lacks",
    ),
    "more biases": (
        lambda: model(0, recurrent_bias=True),
        r"only the model has layers\[0\].cell.b_h",
    ),
    "dtype": (
        lambda: nr.cast(model(0), jnp.float32),
        r"is float64 in the file, float32 in the model \(noria.cast",
    ),
    "kind": (
        lambda: nr.Chain(nr.GRU(2, 4, key=KEYS[0]), *model(0)[1:]),
        r"layers\[0\].cell is a RNNCell in the file, a GRUCell in the model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_does_not_fit_names_the_first_difference(tmp_path, name):
    build, text = WRONG[name]
    nr.save(tmp_path / "m", model(0))
    with pytest.raises(ValueError, match=text):
        nr.load(tmp_path / "m", build())


def test_an_array_of_another_shape(tmp_path):
    nr.save(tmp_path / "m", nr.Dense(2, 4, key=KEYS[0]))
    with pytest.raises(
        ValueError, match=r"W has shape \(4, 2\) in the file, \(5, 2\) in the model"
    ):
        nr.load(tmp_path / "m", nr.Dense(2, 5, key=KEYS[0]))


def test_numbers_without_axes_keep_their_shape(tmp_path):
    nr.save(tmp_path / "m", (jnp.ones(()), np.zeros((), np.int32)))
    loaded = nr.load(tmp_path / "m", (jnp.zeros(()), np.ones((), np.int32)))
    assert [leaf.shape for leaf in loaded] == [(), ()]
    nr.save(tmp_path / "again", loaded)


def test_layers_without_arrays_and_settings_of_functions_are_compared(tmp_path):
    def net(*more):
        return nr.Chain(nr.GRU(2, 3, key=KEYS[0]), *more)

    def leaky(slope):
        return nr.Dense(
            2, 1, functools.partial(jax.nn.leaky_relu, negative_slope=slope), key=KEYS[0]
        )

    for saved, built, text in (
        (net(jnp.tanh), net(), r"only the file has layers\[1\], a PerStep"),
        (net(), net(nr.Dropout(0.1)), r"only the model has layers\[1\], a Dropout"),
        (
            leaky(0.3),
            leaky(0.9),
            r"activation is 'leaky_relu\(negative_slope=0.3\)' in the file, .*0.9",
        ),
    ):
        nr.save(tmp_path / "m", saved)
        with pytest.raises(ValueError, match=text):
            nr.load(tmp_path / "m", built)


def test_a_truncated_file_at_every_length(tmp_path):
    nr.save(tmp_path / "m", model(0))
    data = (tmp_path / "m").read_bytes()
    built = model(3)
    before = [np.asarray(leaf).copy() for leaf in jtu.tree_leaves(built)]
    for size in (1, 7, 8, len(data) - 1, *range(0, len(data), 50)):
        (tmp_path / "t").write_bytes(data[:size])
        for read in (nr.describe, lambda path: nr.load(path, built)):
            with pytest.raises(ValueError, match="/t: no safetensors file, or a damaged one"):
                read(tmp_path / "t")
    for a, b in zip(before, jtu.tree_leaves(built), strict=True):
        np.testing.assert_array_equal(a, b)


def test_foreign_files(tmp_path):
    path = tmp_path / "f"
    path.write_text("weights")
    with pytest.raises(ValueError, match="no safetensors file"):
        nr.load(path, model())
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        nr.load(tmp_path / "none", model())
    with pytest.raises(ValueError, match="no safetensors file"):
        nr.load(tmp_path, model())

    def write(metadata):
        header = json.dumps({"__metadata__": metadata}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)

    for metadata in (
        {},
        {"format": "pt"},
        {"format": "noria 1"},
        {"format": "noria 1", "description": "{"},
    ):
        write(metadata)
        with pytest.raises(
            ValueError, match=r"not one that noria.save wrote|written in format 'pt'"
        ):
            nr.load(path, model())


def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(tmp_path):
    nr.save(tmp_path / "m", model(0))
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        nr.save(tmp_path / "m", model(0), extra={"when": object()})
    nr.load(tmp_path / "m", model(3))


# --- Headers that save does not write -------------------------------------------------------------


def rewrite(path, change):
    """Change the description of a file, or replace it if ``change`` is a text."""
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    description = json.loads(header["__metadata__"]["description"])
    if not isinstance(change, str):
        change = json.dumps({**description, **change})
    header["__metadata__"]["description"] = change
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[end:])


BAD = {
    "arrays 3": ({"arrays": 3}, "arrays in its description is a int; expected a dict"),
    "an array 3": ({"arrays": {"W": 3}}, "arrays has 3 for 'W'"),
    "an array without shape": ({"arrays": {"W": ["float64"]}}, r"arrays has \['float64'\] for 'W'"),
    "half a size": ({"arrays": {"W": ["float64", [2.0]]}}, "arrays has"),
    "a true size": ({"arrays": {"W": ["float64", [True]]}}, "arrays has"),
    "a negative size": ({"arrays": {"W": ["float64", [-2]]}}, "arrays has"),
    "no dtype": ({"arrays": {"W": ["float63", [2]]}}, "arrays has"),
    "objects": ({"arrays": {"W": ["object", [2]]}}, "arrays has"),
    "a structure": ({"arrays": {"W": ["f4,f4", [2]]}}, "arrays has"),
    "another dtype": (
        {"arrays": {"W": ["float32", [2]]}},
        r"W is described as float32\[2\], and there as F64\[2\]",
    ),
    "a key": ({"arrays": {"W": ["key<fry>", []]}}, r"described as key<fry>\[\], and there as F64"),
    "no arrays": ({"arrays": {}}, "W is there, but not described"),
    "more arrays": (
        {"arrays": {"V": ["float64", [2]], "W": ["float64", [2]]}},
        "V is described, but not there",
    ),
    "modules a list": ({"modules": [1]}, "modules in its description is a list"),
    "a module without settings": ({"modules": {"": ["Leaky"]}}, "modules has"),
    "settings a string": ({"modules": {"": ["Leaky", "x"]}}, "modules has"),
    "numbers null": ({"numbers": None}, "numbers in its description is a NoneType"),
    "numbers a list": ({"numbers": [1]}, "numbers in its description is a list"),
    "a number null": ({"numbers": {"leak": None}}, "numbers has None for 'leak'"),
    "a number a list": ({"numbers": {"leak": [1, 2]}}, "numbers has"),
    "a number a dict": ({"numbers": {"leak": {"a": 1}}}, "numbers has"),
    "no description": ("{}", "lacks arrays, numbers, modules or extra"),
    "a list": ("[]", "lacks arrays, numbers, modules or extra"),
    "deep": ("[" * 100_000 + "]" * 100_000, "no JSON that can be read"),
    "digits": ('{"extra":' + "9" * 5000 + "}", "no JSON that can be read"),
}


class Leaky(nr.Module):
    leak: float
    W: jax.Array


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_save_does_not_write(tmp_path, name):
    change, text = BAD[name]
    like = Leaky(0.3, jnp.ones(2))
    nr.save(tmp_path / "m", like)
    rewrite(tmp_path / "m", change)
    for read in (nr.describe, lambda path: nr.load(path, like)):
        with pytest.raises(
            ValueError, match=f"/m: a safetensors file, but not one that noria.save wrote.*{text}"
        ):
            read(tmp_path / "m")


@pytest.mark.parametrize("value", ["0.3; x", 1, True])
def test_a_number_of_another_type(tmp_path, value):
    like = Leaky(0.3, jnp.ones(2))
    nr.save(tmp_path / "m", like)
    rewrite(tmp_path / "m", {"numbers": {"leak": value}})
    text = re.escape(
        f"leak is {value!r}, a {type(value).__name__}, in the file, a float in the model"
    )
    with pytest.raises(ValueError, match=text):
        nr.load(tmp_path / "m", like)


def test_tensors_are_compared_not_their_description(tmp_path):
    nr.save(tmp_path / "m", Leaky(0.3, jnp.ones(2)))
    with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
        metadata = file.metadata()
    for tensors, text in (
        ({}, "W is described, but not there"),
        ({"W": np.ones(3)}, r"W is described as float64\[2\], and there as F64\[3\]"),
        ({"W": np.ones(2), "V": np.ones(2)}, "V is there, but not described"),
    ):
        safetensors.numpy.save_file(tensors, tmp_path / "t", metadata=metadata)
        for read in (nr.describe, lambda path: nr.load(path, Leaky(0.0, jnp.zeros(2)))):
            with pytest.raises(ValueError, match=text):
                read(tmp_path / "t")


def test_keys_of_another_shape(tmp_path):
    nr.save(tmp_path / "m", jax.random.key(0))
    safetensors.numpy.save_file(
        {"": np.zeros((3, 2), np.uint32)},
        tmp_path / "t",
        metadata=safetensors.safe_open(tmp_path / "m", framework="numpy").metadata(),
    )
    with pytest.raises(
        ValueError, match=r"keys of shape \(3, 2\) in the file, \(2,\) in the model"
    ):
        nr.load(tmp_path / "t", jax.random.key(0))


def test_a_save_during_a_load_is_not_mixed_in(tmp_path, monkeypatch):
    old, new = (Leaky(value, jnp.full(2, value)) for value in (0.25, 0.75))
    nr.save(tmp_path / "m", old)
    deserialize = safetensors.deserialize

    def slow(data):
        nr.save(tmp_path / "m", new)
        return deserialize(data)

    monkeypatch.setattr(safetensors, "deserialize", slow)
    loaded = nr.load(tmp_path / "m", Leaky(0.0, jnp.zeros(2)))
    assert (loaded.leak, loaded.W.tolist()) == (0.25, [0.25, 0.25])


# --- Leaves ---------------------------------------------------------------------------------------

DTYPES = (
    "bool int4 uint4 int8 uint8 int64 float16 bfloat16 float64 complex64 complex128 "
    "float8_e4m3fn float8_e5m2 float8_e4m3b11fnuz float8_e4m3 float4_e2m1fn"
).split()


@pytest.mark.parametrize("kind", [np, jnp])
def test_arrays_of_every_dtype_and_shape(tmp_path, kind):
    values = {
        f"{dtype}{shape}": kind.asarray(
            np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, dtype=dtype
        )
        for dtype in DTYPES
        for shape in ((), (0, 2), (2, 3))
    }
    nr.save(tmp_path / "m", values)
    loaded = nr.load(
        tmp_path / "m", {name: kind.zeros_like(value) for name, value in values.items()}
    )
    for name, value in values.items():
        assert type(loaded[name]) is type(value)
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        assert np.asarray(loaded[name]).tobytes() == np.asarray(value).tobytes()
    assert nr.describe(tmp_path / "m")["arrays"]["['complex128(2, 3)']"] == ["complex128", [2, 3]]


def test_complex_numbers_that_safetensors_stored_itself(tmp_path):
    array = np.array([1 + 2j, 3 - 4j], np.complex64)
    nr.save(tmp_path / "m", [array])
    with safetensors.safe_open(tmp_path / "m", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["format"] == "noria 2"
    try:
        safetensors.numpy.save_file(
            {"[0]": array}, tmp_path / "m", metadata={**metadata, "format": "noria 1"}
        )
    except safetensors.SafetensorError:
        pytest.skip("this version of safetensors has no complex numbers")
    np.testing.assert_array_equal(nr.load(tmp_path / "m", [np.zeros_like(array)])[0], array)


def test_nan_payloads_byte_orders_and_weak_dtypes_are_kept(tmp_path):
    nans = np.array([0x7FA00001, 0xFFC12345], np.uint32).view(np.float32)
    big = np.arange(3, dtype=">f8")
    weak = jnp.full(2, 0.5)
    nr.save(tmp_path / "m", (nans, jnp.asarray(nans), big, weak))
    loaded = nr.load(
        tmp_path / "m", (np.zeros_like(nans), jnp.zeros_like(nans), np.zeros_like(big), weak * 0)
    )
    assert [np.asarray(leaf).tobytes() for leaf in loaded[:2]] == [nans.tobytes()] * 2
    assert loaded[2].dtype.str == ">f8"
    assert (loaded[2].tolist(), loaded[3].tolist()) == ([0, 1, 2], [0.5, 0.5])
    assert loaded[3].weak_type
    loaded[0][:] = 0  # an array of NumPy's can be written to


class Kind(enum.IntEnum):
    one = 1
    two = 2


def test_subclasses_of_plain_numbers_are_kept(tmp_path):
    nr.save(tmp_path / "m", (Kind.two, np.float64(0.5), 10**30))
    loaded = nr.load(tmp_path / "m", (Kind.one, np.float64(0), 0))
    assert list(map(type, loaded)) == [Kind, np.float64, int]
    assert loaded == (2, 0.5, 10**30)
    nr.save(tmp_path / "m", 7)
    with pytest.raises(ValueError, match="7 in the file, which is no Kind"):
        nr.load(tmp_path / "m", Kind.one)


def deep(levels):
    inner: list = []
    for _ in range(levels):
        inner = [inner]
    return inner


class Same:
    """A key of a dict that looks like every other."""

    def __init__(self, order):
        self.order = order

    def __lt__(self, other):
        return self.order < other.order

    def __repr__(self):
        return "same"


@pytest.mark.parametrize(
    ("model", "extra", "error", "text"),
    [
        (np.array(["a"]), None, TypeError, "is an array of <U1; expected numbers or booleans"),
        (
            np.zeros(2, "M8[s]"),
            None,
            TypeError,
            r"is an array of datetime64\[s\]; expected numbers",
        ),
        (np.zeros(2, object), None, TypeError, "is an array of object; expected numbers"),
        (1j, None, TypeError, "cannot be written as JSON"),
        (10**5000, None, TypeError, "cannot be written as JSON"),
        ({}, deep(100_000), TypeError, "cannot be written as JSON"),
        (
            {Same(0): np.ones(1), Same(1): np.ones(1)},
            None,
            ValueError,
            r"'\[same\]' is the path of two leaves",
        ),
    ],
    ids=["text", "dates", "objects", "a complex number", "digits", "deep", "two leaves"],
)
def test_models_that_could_not_be_read_back(tmp_path, model, extra, error, text):
    with pytest.raises(error, match=text):
        nr.save(tmp_path / "m", model, extra=extra)
    assert not [*tmp_path.iterdir()]


def test_a_description_longer_than_the_format_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(_stored, "HEADER_LIMIT", 200)
    with pytest.raises(
        ValueError, match="the description is longer than a safetensors file can have"
    ):
        nr.save(tmp_path / "m", {}, extra="x" * 200)


def test_names_and_paths_of_every_kind(tmp_path):
    tree = {"n" * 100_000: jnp.ones(2), "ü\ud800\n": jnp.zeros(3)}
    for path in (
        tmp_path / "ü",
        os.fsencode(tmp_path / "b"),
        os.path.relpath(tmp_path / "r"),
        str(tmp_path / "a b"),
    ):
        nr.save(path, tree)
        assert nr.load(path, tree)["n" * 100_000].tolist() == [1, 1]
        assert len(nr.describe(path)["arrays"]) == 2
