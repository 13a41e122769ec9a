"""The demonstration on characters: its baseline, a short run, and its continuation."""

import collections
import math

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from noria.demo import characters
from noria_cli import app

pytestmark = pytest.mark.usefixtures("plain_jax")


def test_the_text_is_python_s_and_has_no_paragraph_twice():
    whole = characters.text()
    assert len(whole) > 200_000
    paragraphs = whole.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert "coroutine" in whole


def test_counts_give_the_bits_of_a_loop_over_all_characters():
    rng = np.random.default_rng(0)
    past, test = rng.integers(0, 3, 60), rng.integers(0, 3, 20)

    def probability(context, c):
        shorter = probability(context[1:], c) if len(context) else 1 / 3
        after = collections.Counter(
            past[n + len(context)]
            for n in range(len(past) - len(context))
            if (past[n : n + len(context)] == context).all()
        )
        total = sum(after.values())
        return (after[c] + len(after) * shorter) / (total + len(after)) if total else shorter

    logs = [math.log2(probability(test[n - 2 : n], test[n])) for n in range(2, len(test))]
    assert characters.bits_of_counts(past, test, 3, 2) == pytest.approx(-np.mean(logs), rel=1e-12)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Two epochs of a small model by the command, and its answers."""
    folder = tmp_path_factory.mktemp("characters")
    whole = "the cat sat on the mat. " * 400
    plain = jax.enable_x64(False), jax.numpy_dtype_promotion("standard")
    with pytest.MonkeyPatch.context() as patch, plain[0], plain[1]:
        patch.setattr(characters, "HIDDEN", 16)
        patch.setattr(characters, "text", lambda: whole)
        command = ["demo", "characters", "--out", str(folder), "--epochs", "2"]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "120", "NO_COLOR": "1"})
        files = {path.name for path in (folder / "characters").iterdir()}
        start = folder / "start.txt"
        start.write_text("the cat ")
        asked = [["predict", str(folder / "characters"), str(start)]]
        start = folder / "other.txt"
        start.write_text("Ω")
        asked.append([*asked[0][:2], str(start)])
        answers = [CliRunner().invoke(app, one, env={"COLUMNS": "400"}) for one in asked]
    return result, files, answers


def test_the_command_trains_saves_and_writes(short):
    result, files, _ = short
    assert result.exit_code == 0, result.output
    assert files == {"model.safetensors", "learning_curve.png", "bits.png", "sample.txt"}
    assert "bits per character" in result.output
    assert "It writes:" in result.output


def test_predict_continues_a_text_or_says_why_not(short):
    good, bad = short[2]
    assert good.exit_code == 0, good.output
    assert "the cat " in good.output
    assert bad.exit_code == 1
    assert "the text has the character 'Ω', which the model has never read" in bad.output


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_model_beats_the_counts():
    result = characters.train(progress=False)
    bits = result.bits
    assert bits["LSTM"] < bits["counts of 5 characters"] - 0.1
    assert bits["counts of 5 characters"] < bits["counts of 1 character"] < 6
