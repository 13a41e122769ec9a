"""The commands, as a user types them."""

import csv
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import noria as nr
from noria.cli import app

RUNNER = CliRunner()
PNG = b"\x89PNG\r\n"

pytestmark = pytest.mark.usefixtures("plain_jax")


def run(*words):
    result = RUNNER.invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "NO_COLOR": "1"})
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
    cells = [[c.strip() for c in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│")]
    return {name: float(value.rstrip("%")) for name, value in cells}


def test_vowels_beat_the_majority_by_far(vowels):
    folder, (code, output) = vowels
    assert code == 0
    right = numbers_of(output)
    assert right["bidirectional GRU"] >= 96.5  # one seed; the median of five is in docs/demonstrations.md
    assert right["always the most frequent speaker"] == 23.8
    names = {file.name for file in folder.iterdir()}
    assert names == {"model.safetensors", "learning_curve.png", "confusion_matrix.png", "new_utterances.csv"}
    assert all((folder / name).read_bytes().startswith(PNG) for name in names if name.endswith("png"))


def test_forecast_beats_every_naive_one(forecast):
    folder, (code, output) = forecast
    assert code == 0
    errors = numbers_of(output)
    assert errors.pop("GRU") < min(errors.values())
    assert len(errors) == 3
    assert (folder / "forecast.png").read_bytes().startswith(PNG)


def test_predict_answers_on_csv_and_npz_alike(vowels, tmp_path):
    folder, _ = vowels
    code, output = run("predict", folder, folder / "new_utterances.csv", "--out", tmp_path / "answers.csv")
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
    assert "with more than 36 months" in complaint(forecast_folder, vowels_folder / "new_utterances.csv")
    assert "there is no such file" in complaint(vowels_folder, tmp_path / "none.csv")
    assert "there is no such file" in complaint(tmp_path / "none", series)
    (tmp_path / "bad.csv").write_text("month,ppm\n2000-01,370\n2000-02,many\n")
    assert "line 3: expected 2 columns, numbers in all channels" in complaint(forecast_folder, tmp_path / "bad.csv")
    (tmp_path / "empty.csv").write_text("")
    assert "expected a header and at least one row" in complaint(forecast_folder, tmp_path / "empty.csv")
    (tmp_path / "bad.npz").write_text("no")
    assert "not a readable npz file" in complaint(vowels_folder, tmp_path / "bad.npz")
    (tmp_path / "data.txt").write_text("1")
    assert "expected a .csv or .npz file" in complaint(vowels_folder, tmp_path / "data.txt")
    (tmp_path / "nan.csv").write_text("ppm\n" + "370\n" * 40 + "nan\n")
    assert "expected (time, channels), finite, not empty" in complaint(forecast_folder, tmp_path / "nan.csv")
    np.savez(tmp_path / "long.npz", xs=np.ones((1, 5, 12)), lengths=np.array([9]))
    assert "expected (batch, time, channels) and (batch,)" in complaint(vowels_folder, tmp_path / "long.npz")
    assert "directory" in complaint(forecast_folder, series, "--out", tmp_path / "nowhere" / "x.csv")
    nr.save(tmp_path / "other", nr.Dense(1, 1, key=jax.random.key(0)))
    assert "not a model of a demonstration" in complaint(tmp_path / "other", series)


def test_predict_reads_what_spreadsheets_write(forecast, tmp_path):
    """A byte-order mark, an empty last line, capitals in the ending, names that look like markup."""
    folder, _ = forecast
    rows = "".join(f"[/b],{360 + n % 12}\n" for n in range(40))
    (tmp_path / "S.CSV").write_text("\ufeffid,ppm\n" + rows + "\n", encoding="utf-8")
    code, output = run("predict", folder, tmp_path / "S.CSV")
    assert code == 0
    assert output.count("[/b]") == 12


def test_help_names_the_commands():
    code, output = run("--help")
    assert code == 0
    assert "demo" in output
    assert "predict" in output
