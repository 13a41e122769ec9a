"""Malformed and hostile files: a clear error, nothing is executed, and memory stays bounded."""

import contextlib
import io
import json
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_file as tf

import noria as nr

ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float32)}
STATE = tf.state_dict(ARRAYS)

#: Enough for a small file, and far below what the files of these tests declare.
BYTES = 8 * 2**20


@pytest.fixture
def bounded():
    """At most `BYTES` are allocated."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BYTES


def refused(path, message, read=nr.from_torch, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)


# --- PyTorch -------------------------------------------------------------------------------------

COMMAND = b"X\x0b\x00\x00\x00touch owned"

#: Pickles that would run a command in an ordinary reader.
CODE = {
    "reduce": b"cos\nsystem\n" + tf.tuple_of(COMMAND) + b"R",
    "stack global": b"\x8c\x02os\x8c\x06system\x93" + tf.tuple_of(COMMAND) + b"R",
    "inst": b"(" + COMMAND + b"ios\nsystem\n",
    "obj": b"(cos\nsystem\n" + COMMAND + b"o",
    "newobj": b"csubprocess\nPopen\n" + tf.tuple_of(COMMAND) + b"\x81",
    "eval": b"cbuiltins\neval\n" + tf.tuple_of(COMMAND) + b"R",
    "build": tf.ORDERED + b"}" + tf.text("__setstate__") + b"cos\nsystem\nsb",
    "submodule": b"ctorch._utils\nos.system\n" + tf.tuple_of(COMMAND) + b"R",
    "extension": b"\x82\x01",
    "a whole module": b"ctorch.nn.modules.rnn\nLSTM\n)\x81",
}


@pytest.mark.parametrize("make", [tf.zipped, tf.older])
@pytest.mark.parametrize("name", CODE)
def test_code_in_a_pickle_is_not_run(make, name, tmp_path, monkeypatch, bounded):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pt"
    path.write_bytes(make(tf.dict_of(weight=CODE[name]), ARRAYS))
    refused(path, "which is code and is never run|which no file of tensors needs|is damaged")
    assert os.listdir(tmp_path) == ["m.pt"]


def doubled(depth):
    """A list of two references to such a list, and so on."""
    return b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(depth))


HOSTILE = {
    "no storage": (tf.dict_of(weight=b"(X\x01\x00\x00\x00aNtQ"), "is damaged: ValueError"),
    "a call of a tensor": (b"}" + tf.tuple_of() + b"R", "calls what is no function"),
    "more numbers": (tf.tensor("0", ARRAYS["weight"], count=2**31 - 1), "a storage holds 24 bytes"),
    "a larger shape": (tf.tensor("0", ARRAYS["weight"], shape=(2**30, 3)), "larger than its stor"),
    "no stride": (
        tf.tensor("0", ARRAYS["weight"], shape=(2**20, 2**20), stride=(0, 0)),
        "larger than its storage",
    ),
    "an offset": (tf.tensor("0", ARRAYS["weight"], offset=5), "larger than its storage"),
    "negative": (tf.tensor("0", ARRAYS["weight"], offset=-1), "no whole numbers"),
    "a missing part": (tf.tensor("7", ARRAYS["weight"]), "its part model/data/7 is missing"),
    "doubled": (doubled(60), "nested too deeply, or has too many parts"),
    "a tuple as a key": (b"}" + b"))\x86" * 1 + b"Ns", "a key of a dict is a tuple"),
    "itself": (b"]q\x00h\x00a", "nested too deeply"),
    "an empty stack": (b"\x85", "is damaged: ValueError"),
    "no mark": (b"Nt", "is damaged: IndexError"),
    "no memo": (b"h\x09", "is damaged: KeyError"),
    "a large number": (b"\x8b\xff\xff\xff\x7f", "is damaged: ValueError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name, tmp_path, bounded):
    value, message = HOSTILE[name]
    path = tmp_path / "m.pt"
    inner = value if name in ("itself", "doubled") else tf.dict_of(weight=value)
    path.write_bytes(tf.zipped(inner, ARRAYS))
    refused(path, message, kind="Linear")


@pytest.mark.parametrize("make", [tf.zipped, tf.older])
def test_truncated_and_changed_files(make, tmp_path):
    """Each part of a file, and files with wrong bytes, give `ValueError` or a layer."""
    data, path, rng = make(STATE, ARRAYS), tmp_path / "m.pt", np.random.default_rng(0)
    for end in range(0, len(data) - 1, 5):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="from_torch"):
            nr.from_torch(path)
    for _ in range(150):
        wrong = bytearray(data)
        for place in rng.integers(len(data), size=3):
            wrong[place] = rng.integers(256)
        path.write_bytes(wrong)
        with contextlib.suppress(ValueError, TypeError):  # and nothing else
            nr.from_torch(path)


def test_a_zip_bomb(tmp_path, bounded):
    path = tmp_path / "m.pt"
    zeros = b"\0" * (4 * 2**20)
    path.write_bytes(tf.zipped(STATE, ARRAYS, compress=True, data_9=zeros))
    refused(path, "its parts are compressed or overlap")


def test_an_older_file_that_declares_too_much(tmp_path, bounded):
    path = tmp_path / "m.pt"
    value = tf.dict_of(weight=tf.tensor("0", ARRAYS["weight"], count=2**31 - 1))
    path.write_bytes(tf.older(value, ARRAYS))
    refused(path, "truncated: a storage reaches beyond its end")
    path.write_bytes(tf.older(STATE, ARRAYS, counts={1: 5}))
    refused(path, "a storage has another length")


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(b"hello")
    refused(path, "neither a zip nor a pickle")
    path.write_bytes(tf.pickled(tf.number(3)))
    refused(path, "a pickle, but not one of torch.save")
    path.write_bytes(tf.zipped(STATE, ARRAYS, constants_pkl=b"."))
    refused(path, "TorchScript program; pass the module")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")
    refused(path, "a zip without data.pkl")
    with pytest.raises(FileNotFoundError):
        nr.from_torch(tmp_path / "none.pt")
    wrong = tmp_path / "m.safetensors"
    wrong.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="no safetensors file, or a damaged one"):
        nr.from_torch(wrong)
    nr.save(wrong, nr.LayerNorm(3))
    refused(wrong, r"noria.save wrote this file; noria.load\(path, like\) reads it")


# --- HDF5 ----------------------------------------------------------------------------------------

h5py = pytest.importorskip("h5py")
import keras_file as kf  # noqa: E402

LAYERS = {"d": {"d/kernel:0": np.ones((2, 1)), "d/bias:0": np.ones(1)}}
CONFIG = kf.sequential(kf.layer("Dense", "d", units=1, activation="linear"))


def changed(path, change):
    with h5py.File(path, "r+") as file:
        change(file["model_weights/d"])
    return path


def external(group):
    group["d/extra"] = h5py.ExternalLink("/etc/passwd", "/")


def outside(group):
    del group["d/kernel:0"]
    group["d"].create_dataset("kernel:0", (2, 1), "f8", external=[("/etc/passwd", 0, 16)])


def virtual(group):
    del group["d/kernel:0"]
    layout = h5py.VirtualLayout((2, 1), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 1))
    group["d"].create_virtual_dataset("kernel:0", layout)


def unwritten(group):
    del group["d/kernel:0"]
    group["d"].create_dataset("kernel:0", (2**40, 2**10), "f8", chunks=(1024, 1024))


def compressed(group):
    del group["d/kernel:0"]
    group["d"].create_dataset("kernel:0", (2**13, 2**13), "f8", compression="gzip", fillvalue=1)


def soft(group):
    group["d/other"] = h5py.SoftLink("/model_weights")


def ring(group):
    group["d/again"] = group


def missing(group):
    group.attrs["weight_names"] = [b"d/kernel:0", b"d/nothing:0"]


def text(group):
    del group["d/kernel:0"]
    group["d/kernel:0"] = "text"


FILES = {
    external: "d/extra is a link to another place, which is not followed",
    soft: "d/other is a link to another place",
    outside: "the numbers of d/kernel:0 are in another file, which is not read",
    virtual: "the numbers of d/kernel:0 are in another file",
    unwritten: r"d/kernel:0 has shape \(1099511627776, 1024\), but stores 0 bytes",
    compressed: r"d/kernel:0 has shape \(8192, 8192\), but stores 0 bytes",
    ring: "nested too deeply, or are too many",
    missing: "the layer d has no array d/nothing:0; the file is damaged",
    text: "d.kernel:0 is a .*; expected an array",
}


@pytest.mark.parametrize("change", FILES, ids=lambda change: change.__name__)
def test_hostile_hdf5(change, tmp_path, bounded):
    path = changed(kf.legacy(tmp_path / "m.h5", LAYERS, CONFIG), change)
    refused(path, FILES[change], nr.from_keras)


def test_damaged_hdf5(tmp_path):
    path = kf.legacy(tmp_path / "m.h5", LAYERS, CONFIG)
    data = path.read_bytes()
    for end in range(0, len(data) - 1, len(data) // 25):
        path.write_bytes(data[:end])
        refused(path, "it is no HDF5 file, or a damaged one", nr.from_keras)


def test_damaged_keras_files(tmp_path, bounded):
    weights = kf.weights_3({"dense": ("d", {"vars/0": np.ones((2, 1)), "vars/1": np.ones(1)})})
    path = kf.keras_3(tmp_path / "m.keras", CONFIG, weights)
    data = path.read_bytes()
    assert isinstance(nr.from_keras(path), nr.Dense)
    for end in range(0, len(data) - 1, len(data) // 25):
        path.write_bytes(data[:end])
        refused(path, "it is no .keras file, or a damaged one", nr.from_keras)
    refused(kf.keras_3(path, CONFIG, b"no hdf5"), "it is no HDF5 file", nr.from_keras)
    refused(kf.keras_3(path, [1, 2], weights), "the configuration is not one of", nr.from_keras)
    refused(kf.keras_3(path, {"class_name": "Sequential", "config": {}}, weights), "lacks a part",
            nr.from_keras)  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "[" * 500_000)
        archive.writestr("metadata.json", json.dumps({}))
        archive.writestr("model.weights.h5", weights)
    refused(path, "the configuration is no JSON", nr.from_keras)


def test_a_keras_file_that_is_a_zip_bomb(tmp_path, bounded):
    """It declares a gigabyte; the zeros are written in parts."""
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("config.json", json.dumps(CONFIG))
        archive.writestr("metadata.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(2**20))
    refused(path, "its parts are far larger than the file", nr.from_keras)


def test_julia_records_are_told_apart_from_arrays(tmp_path):
    path = tmp_path / "m.jld2"
    with h5py.File(path, "w") as file:
        file["model"] = np.zeros((), [("Wi", "f4"), ("Wh", "f4")])
    refused(path, 'model is a record of Julia.*file."rnn/cell/Wi". =', nr.from_flux)
    refused(path, "model is a record of Julia", nr.from_lux)
    path.write_bytes(io.BytesIO(b"nothing").read())
    refused(path, "it is no HDF5 file", nr.from_lux)
