"""The commands, as a user types them."""

import csv
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch_file
from typer.testing import CliRunner

import noria as nr
from noria import _errors, plot
from noria.cells.catalogue import catalogue
from noria.demo import vowels as demo_vowels
from noria.demo.tables import read
from noria_cli import app

RUNNER = CliRunner()
PNG = b"\x89PNG\r\n"

pytestmark = pytest.mark.usefixtures("plain_jax")


def run(*words):
    result = RUNNER.invoke(
        app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"}
    )
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def vowels(tmp_path_factory):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        folder = tmp_path_factory.mktemp("vowels")
        return folder / "vowels", run("demo", "--out", folder, "--seed", "1")


@pytest.fixture(scope="module")
def forecast(tmp_path_factory):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        folder = tmp_path_factory.mktemp("forecast")
        return folder / "forecast", run("demo", "forecast", "--out", folder, "--seed", "1")


def numbers_of(output):
    """The tables' rows as name and number."""
    cells = [
        [c.strip() for c in line.strip("│").split("│")]
        for line in output.splitlines()
        if line.startswith("│")
    ]
    return {name: float(value.rstrip("%")) for name, value in cells}


@pytest.mark.full
def test_vowels_beat_the_majority_by_far(vowels):
    folder, (code, output) = vowels
    assert code == 0
    right = numbers_of(output)
    assert (
        right["bidirectional GRU"] >= 96.5
    )  # one seed; the median of five is in docs/demonstrations.md
    assert right["always the most frequent speaker"] == 23.8
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "model.safetensors",
        "learning_curve.png",
        "confusion_matrix.png",
        "new_utterances.csv",
    }
    assert all(
        (folder / name).read_bytes().startswith(PNG) for name in names if name.endswith("png")
    )


def test_forecast_beats_every_naive_one(forecast):
    folder, (code, output) = forecast
    assert code == 0
    errors = numbers_of(output)
    assert errors.pop("GRU") < min(errors.values())
    assert len(errors) == 3
    assert (folder / "forecast.png").read_bytes().startswith(PNG)


def test_predict_answers_on_csv_and_npz_alike(vowels, tmp_path):
    folder, _ = vowels
    code, output = run(
        "predict", folder, folder / "new_utterances.csv", "--out", tmp_path / "answers.csv"
    )
    assert code == 0
    _, test = nr.data.japanese_vowels()
    with (tmp_path / "answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    chosen = [int(row["sequence"]) for row in rows]
    assert [int(row["steps"]) for row in rows] == [len(test.sequences[n]) for n in chosen]
    assert [int(row["speaker"]) - 1 for row in rows] == [test.speakers[n] for n in chosen]
    named: dict[str, Any] = {str(n): test.sequences[n] for n in chosen}
    np.savez(tmp_path / "named.npz", **named)
    xs, lengths = nr.data.pad([test.sequences[n] for n in chosen])
    np.savez(tmp_path / "padded.npz", xs=xs, lengths=lengths)
    for name in ("named", "padded"):
        code, output = run("predict", folder / "model.safetensors", tmp_path / f"{name}.npz")
        assert code == 0
        assert all(row["probability"] in output for row in rows)


def test_predict_continues_a_series(forecast):
    folder, _ = forecast
    code, output = run("predict", folder, folder / "new_series.csv")
    assert code == 0
    values = [float(line.split("│")[3]) for line in output.splitlines() if "│ +" in line]
    assert len(values) == 12
    assert all(368 < value < 378 for value in values)


def test_predict_says_what_is_wrong(vowels, forecast, tmp_path):
    vowels_folder, forecast_folder = vowels[0], forecast[0]

    def complaint(*words):
        code, output = run("predict", *words)
        assert code == 1
        assert "Traceback" not in output
        return " ".join(output.split())

    series = forecast_folder / "new_series.csv"
    assert "expected (time, 12)" in complaint(vowels_folder, series)
    assert "with more than 36 months" in complaint(
        forecast_folder, vowels_folder / "new_utterances.csv"
    )
    assert "there is no such file" in complaint(vowels_folder, tmp_path / "none.csv")
    assert "there is no such file" in complaint(tmp_path / "none", series)
    (tmp_path / "bad.csv").write_text("month,ppm\n2000-01,370\n2000-02,many\n")
    assert "line 3: 'many' is no number; expected numbers in all" in complaint(
        forecast_folder, tmp_path / "bad.csv"
    )
    (tmp_path / "empty.csv").write_text("")
    assert "expected a header and at least one row" in complaint(
        forecast_folder, tmp_path / "empty.csv"
    )
    (tmp_path / "bad.npz").write_text("no")
    assert "not a readable npz file" in complaint(vowels_folder, tmp_path / "bad.npz")
    (tmp_path / "data.txt").write_text("1")
    assert "expected a .csv or .npz file" in complaint(vowels_folder, tmp_path / "data.txt")
    (tmp_path / "nan.csv").write_text("ppm\n" + "370\n" * 40 + "nan\n")
    assert "expected (time, channels), finite, not empty" in complaint(
        forecast_folder, tmp_path / "nan.csv"
    )
    np.savez(tmp_path / "long.npz", xs=np.ones((1, 5, 12)), lengths=np.array([9]))
    assert "expected (batch, time, channels) and (batch,)" in complaint(
        vowels_folder, tmp_path / "long.npz"
    )
    assert "directory" in complaint(
        forecast_folder, series, "--out", tmp_path / "nowhere" / "x.csv"
    )
    nr.save(tmp_path / "other", nr.Dense(1, 1, key=jax.random.key(0)))
    assert "not a model of a demonstration" in complaint(tmp_path / "other", series)


def test_predict_reads_what_spreadsheets_write(forecast, tmp_path):
    """A byte-order mark, an empty last line, an ending in capitals, names that look like markup."""
    folder, _ = forecast
    rows = "".join(f"[/b],{360 + n % 12}\n" for n in range(40))
    (tmp_path / "S.CSV").write_text("\ufeffid,ppm\n" + rows + "\n", encoding="utf-8")
    code, output = run("predict", folder, tmp_path / "S.CSV")
    assert code == 0
    assert output.count("[/b]") == 12


def test_predict_takes_columns_by_their_names(vowels, tmp_path):
    """Columns in another order give the same answers. Older files do not name channels."""
    folder, _ = vowels
    rows = [line.split(",") for line in (folder / "new_utterances.csv").read_text().splitlines()]
    (tmp_path / "turned.csv").write_text("\n".join(",".join(reversed(row)) for row in rows))
    model = tmp_path / "model.safetensors"
    nr.save(model, demo_vowels.load(folder / "model.safetensors"), extra={"task": "vowels"})
    expected = run("predict", folder, folder / "new_utterances.csv")
    assert expected[0] == 0
    assert run("predict", folder, tmp_path / "turned.csv") == expected
    assert run("predict", model, tmp_path / "turned.csv") == expected


MISREAD = {
    "a decimal comma": (
        "month,ppm\n2001-01,370,5\n",
        "line 2: it has 3 columns; expected 2 columns, as the header has",
    ),
    "a quoted decimal comma": (
        'ppm\n"370,5"\n',
        "line 2: '370,5' is no number; expected numbers in all channels",
    ),
    "thousands": ("ppm\n1_370\n", "line 2: '1_370' is no number"),
    "semicolons": (
        "month;ppm\n2001-01;370.5\n",
        "has semicolons or tabs; expected commas between columns, points",
    ),
    "tabs": ("month\tppm\n2001-01\t370.5\n", "has semicolons or tabs"),
    "no header": (
        "370.5\n371\n",
        "line 1: the header is ['370.5']; expected a name for each column, such as month,ppm",
    ),
    "no header, with months": (
        "2001-01,370.5\n2001-02,371\n",
        "line 1: the header is ['2001-01', '370.5']",
    ),
    "an unnamed column": (",ppm\n0,370.5\n", "line 1: the header is ['', 'ppm']"),
    "a name twice": (
        "ppm,ppm\n1,2\n",
        "line 1: two columns are called ppm; expected different names",
    ),
    "no channel": ("month\n2001-01\n", "the columns are month; expected a channel besides them"),
    "a channel besides": (
        "ppm,ppb\n1,2\n",
        "the channels are ppm, ppb; expected ppm in any order, or 1 columns",
    ),
    "a row too short": ("a,b\n1\n", "line 2: it has 1 columns; expected 2"),
    "an empty cell": ("a,b\n1,\n", "line 2: '' is no number"),
    "an empty line": ("ppm\n1\n\n2\n", "line 3: it is empty; expected a step in each line"),
    "months in no order": (
        "month,ppm\n2001-02,1\n2001-01,2\n",
        "line 3: month 2001-01 comes after 2001-02; expected a later one, in order of time",
    ),
    "a time twice": (
        "time,ppm\n1,1\n1.0,2\n",
        "line 3: time 1.0 comes after 1; expected a later one",
    ),
    "a month left out": (
        "month,ppm\n2001-12,1\n2002-02,2\n",
        "month 2002-02 comes after 2001-12; expected the next month",
    ),
    "two kinds of time": ("time,ppm\n1,1\n2001-01,2\n", "line 3: time 2001-01 comes after 1"),
    "a date of some country": (
        "date,ppm\n01/02/2001,1\n",
        "date is '01/02/2001'; expected a number or a date such as",
    ),
    "a thirteenth month": (
        "month,ppm\n2001-13,1\n",
        "month is '2001-13'; expected a number or a date",
    ),
    "more than float32": ("ppm\n1e300\n", "expected (time, channels), finite, not empty"),
    "an open quote": ('ppm\n"1\n2\n', "not a CSV file in UTF-8: unexpected end of data"),
}


@pytest.mark.parametrize("name", MISREAD)
def test_a_table_that_could_be_misread_is_refused(name, tmp_path):
    text, message = MISREAD[name]
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path / "x.csv", ["ppm"])


def test_a_table_is_read_as_it_is_meant(tmp_path):
    """Windows line ends, quotes, a byte-order mark, empty lines, two sequences in turns, times."""
    rows = (
        '"b","A","time",id',
        "1,2,2001-01-01 09:00,x",
        '3,"4.5",2001-01-01 09:00,y',
        "5,6,2001-01-01 10:00,x",
        ",,,",
    )
    text = "\ufeff" + "".join(f"{row}\r\n" for row in rows)
    (tmp_path / "x.csv").write_bytes(text.encode())
    got = {name: steps.tolist() for name, steps in read(tmp_path / "x.csv", ["a", "b"]).items()}
    assert got == {"x": [[2, 1], [6, 5]], "y": [[4.5, 3]]}
    other = {name: steps.tolist() for name, steps in read(tmp_path / "x.csv", ["c1", "c2"]).items()}
    assert other == {"x": [[1, 2], [5, 6]], "y": [[3, 4.5]]}


def test_arrays_of_other_types_are_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes("ppm\n1\n".encode("utf-16"))
    with pytest.raises(ValueError, match="not a CSV file in UTF-8"):
        read(tmp_path / "x.csv")
    for array in (np.ones(3, complex), np.array(["1"]), np.ones(3, bool)):
        np.savez(tmp_path / "x.npz", a=array)
        with pytest.raises(ValueError, match=r"a is an array of .*; expected real numbers"):
            read(tmp_path / "x.npz")


def test_help_names_the_commands():
    code, output = run("--help")
    assert code == 0
    assert "demo" in output
    assert "predict" in output


def test_the_version_is_written_once():
    assert run("--version") == (0, f"noria {nr.__version__}\n")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/noria/__init__.py"


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_imports_no_jax(word):
    """Which takes a second. The console script calls ``noria_cli.app`` alone."""
    program = (
        "import sys, noria_cli, atexit; "
        "atexit.register(lambda: print(*sys.modules)); noria_cli.app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, word], capture_output=True, text=True, check=True
    )
    modules = done.stdout.splitlines()[-1].split()
    assert "noria_cli" in modules
    assert not {"noria", "jax", "numpy"} & set(modules)


def test_the_package_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "noria", "predict", "no model", "x.csv"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "noria: no model: there is no such file.\n",
    )


@pytest.mark.parametrize(
    "words", [["frobnicate"], ["predict", "--foo"], ["demo", "nothing"], ["demo", "--epochs", "0"]]
)
def test_an_unknown_word_is_told_once(words):
    code, output = run(*words)
    assert code == 2
    assert (
        output.count("Error")
        == output.count(words[-1].strip("-") if words[-1] != "0" else "epochs")
        == 1
    )


def test_a_demonstration_that_is_interrupted_saves_what_it_has(monkeypatch, tmp_path):
    fit = nr.fit

    # A shell that starts the tests in the background has SIGINT ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*args, **options):
        return fit(*args, **options, on_epoch=lambda *_: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(nr, "fit", interrupted)
    try:
        code, output = run("demo", "forecast", "--out", tmp_path)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 0
    assert (
        output.count("Training was interrupted in epoch 0; this is the model that it had reached.")
        == 1
    )
    assert (tmp_path / "forecast" / "model.safetensors").exists()


def test_a_missing_matplotlib_is_told_before_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(_errors, "find_spec", lambda name: None)
    code, output = run("demo", "--out", tmp_path)
    assert (code, output) == (
        1,
        "noria: noria demo needs matplotlib; install it with: pip install 'noria[plot]'.\n",
    )
    with pytest.raises(
        ImportError,
        match=r"noria.plot needs matplotlib; install it with: pip install 'noria\[plot\]'",
    ):
        plot.learning_curve(nr.History(), tmp_path / "x.png")


def test_cells_are_listed_and_told_about():
    code, text = run("cells")
    assert code == 0
    assert all(f"\n{key} " in text for key in ("lru", "mgu"))
    assert f"{len(catalogue())} cells" in text
    lines = text.splitlines()
    assert any(
        line.startswith("attending_fast_weights ") and "ba2016fast" in line for line in lines
    )
    assert run("cells", "MGUCell") == run("cells", "mgu")
    code, text = run("cells", "mgu")
    assert code == 0
    assert "``" not in text
    for part in ("h' = (1 - f) * h + f * n", "nr.cells.MGUCell(3, 4", "@article{zhou2016"):
        assert part in text


def test_a_cell_that_is_not_there():
    code, text = run("cells", "mgv")
    assert code == 1
    assert "did you mean mgu" in text
    assert run("cells", "xyzzy")[1].count("`noria cells` lists them") == 1


def test_the_list_of_cells_loads_no_jax():
    """So it takes a fifth of a second."""
    script = (
        "import sys; from noria_cli import _catalogue; _catalogue(); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


# --- convert and show ----------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """A file of PyTorch with an RNN, whose activation it does not tell, and a head."""
    ones = np.ones((4, 3), np.float32)
    arrays = {
        "rnn.weight_ih_l0": ones,
        "rnn.weight_hh_l0": np.eye(4, dtype=np.float32),
        "head.weight": np.ones((2, 4), np.float32),
        "head.bias": np.zeros(2, np.float32),
    }
    path = tmp_path / "model.pt"
    path.write_bytes(torch_file.zipped(torch_file.state_dict(arrays), arrays))
    return path


def test_convert_writes_what_load_reads(checkpoint, tmp_path):
    target = tmp_path / "rnn.safetensors"
    words = ("convert", checkpoint, target, "--part", "rnn", "--set", "nonlinearity=relu")
    code, output = run(*words)
    assert code == 0, output
    assert "rnn.weight_ih_l0  float32[4, 3]" in output
    assert "not asked for: head.weight, head.bias" in output
    assert "note: read as RNN(nonlinearity='relu')" in output
    like = nr.RNN(3, 4, jax.nn.relu, key=jax.random.key(0), bias=False)
    np.testing.assert_array_equal(nr.load(target, like).cell.W, np.ones((4, 3)))
    assert nr.describe(target)["extra"] == {"converted from": "model.pt"}
    code, output = run("show", target)
    assert code == 0
    assert re.search(r"cell.W +float32\[4, 3\] +RNNCell", output)


def test_convert_to_the_names_of_another_framework(checkpoint, tmp_path):
    target = tmp_path / "head.safetensors"
    assert run("convert", checkpoint, target, "--part", "head", "--to", "flax")[0] == 0
    assert sorted(safetensors.numpy.load_file(target)) == ["bias", "kernel"]


def test_show_lists_arrays_and_their_classes(checkpoint):
    code, output = run("show", checkpoint)
    assert code == 0
    assert re.search(r"rnn.weight_ih_l0 +float32\[4, 3\] +RNN", output)
    assert re.search(r"head.bias +float32\[2\] +Linear", output)


def test_show_sorts_the_names_of_a_file_that_has_no_order(tmp_path):
    path = tmp_path / "model.safetensors"
    names = [f"{n}.{part}" for n in (0, 2, 10) for part in ("bias", "weight")]
    sizes = {"bias": (2,), "weight": (2, 2)}
    arrays = {name: np.zeros(sizes[name.partition(".")[2]], np.float32) for name in names[::-1]}
    safetensors.numpy.save_file(arrays, path)
    rows = run("show", path)[1].splitlines()[1:]
    assert [row.split()[0] for row in rows] == names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.pt", "out.safetensors"), "it holds several parts"),
        (("model.pt", "out.safetensors", "--part", "rnn"), "pass nonlinearity="),
        (("model.pt", "out.txt"), "out.txt: the ending is not known; expected .safetensors or"),
        (("model.pt", "out.safetensors", "--to", "caffe"), "--to caffe: expected noria, torch"),
        (("model.pt", "out.safetensors", "--set", "eps"), "--set eps: expected name=value"),
        (("model.pt", "out.safetensors", "--part", "head", "--set", "eps=1"), "Linear takes none"),
        (("model.txt", "out.safetensors"), "model.txt: the ending is not known; expected .bin"),
        (("model.jld2", "out.safetensors"), "model.jld2: pass --from flux or lux."),
        (("none.pt", "out.safetensors"), "none.pt"),
    ],
)
def test_convert_says_what_is_wrong(words, message, checkpoint, tmp_path):
    (source, target, *options) = words
    code, output = run("convert", tmp_path / source, tmp_path / target, *options)
    assert code == 1
    assert output.startswith("noria: ")
    assert message in output
