"""HTML for notebooks: of models, summaries, histories and explanations."""

import itertools
import subprocess
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest

import noria as nr
from noria import display
from noria.train import curve

KEY = jax.random.key(0)
VOID = {"br", "hr", "img"}


class Text(HTMLParser):
    """The text of a page, and a check that every tag is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def net():
    return nr.Chain(nr.LSTM(3, 4, key=KEY), jnp.tanh, nr.Dense(4, 1, key=KEY))


def test_a_model_is_a_tree_with_shapes_and_counts():
    page = Text(nr.freeze(net(), lambda m: m[2].b)._repr_html_())
    for words in ("Chain", "133 parameters", "LSTM(in_size=3)", "16 × 3", "layers[2]", "float64"):
        assert words in page.text
    trained = [page.words[n - 1 : n + 5] for n, word in enumerate(page.words) if word == "b"]
    assert [row[-1] for row in trained] == ["yes", "no"]
    assert sum(tag == "details" for tag, _ in page.tags) == 4  # the cell is one level below


def test_a_model_of_anything_is_shown():
    class Model(nr.Module):
        parts: dict
        shift: jax.Array
        none: None
        name: str

    model = Model({"<a>": [nr.Dropout(0.5), jnp.ones(2)]}, jnp.array(1), None, "<b>")
    page = Text(model._repr_html_())
    assert "parts['<a>'][1]" in page.text
    assert ("shift", "1") in zip(page.words, page.words[1:], strict=False)
    assert "2 parameters" in page.text  # whole numbers are none
    assert "a" not in {tag for tag, _ in page.tags}


def test_a_model_is_shown_while_it_is_traced():
    shown = []

    @jax.jit
    def run(model):
        shown.append(model._repr_html_())
        return model[0](jnp.ones((2, 3)))

    run(net())
    assert "133 parameters" in Text(shown[0]).text


def test_a_summary_is_a_table():
    page = Text(nr.summary(net())._repr_html_())
    assert "133 trainable, 0 not, 1,064 bytes" in page.text
    assert page.text.count("LSTM(in_size=3)") == 1
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + 5


@pytest.fixture
def history():
    metrics = {"a<b": [0.1, 0.2], "valid_a<b": [0.3]}
    return nr.History([1.0, 0.5], [1.1, 0.7], metrics, 1, "<stopped>", [1.0, 2.0])


def test_a_history_is_a_plot(history):
    page = Text(history._repr_html_())
    assert "2 epochs in 3 s. Stopped: <stopped>." in page.text
    [source] = [str(attrs["src"]) for tag, attrs in page.tags if tag == "img"]
    assert source.startswith("data:image/svg+xml;base64,")


def test_a_history_is_a_table_without_matplotlib(history, monkeypatch):
    monkeypatch.setattr(curve, "find_spec", lambda name: None)
    page = Text(history._repr_html_())
    assert "Install matplotlib for a plot: pip install 'noria[plot]'." in page.text
    assert page.words[-9:] == ["1", "1", "1.1", "0.1", "0.3", "2", "0.5", "0.7", "0.2"]


def test_an_empty_history_is_a_sentence():
    assert Text(nr.History(stopped="interrupted in epoch 0")._repr_html_()).text == (
        "No epoch was completed. Stopped: interrupted in epoch 0."
    )


def test_an_explanation_is_a_diagram_of_its_parts():
    found = nr.explain(nr.LSTM(3, 4, key=KEY), jnp.zeros((2, 5, 3)))
    page = Text(found._repr_html_())
    boxes = [attrs for tag, attrs in page.tags if attrs.get("class") == "box"]
    parts = ("constant", "before", "loop", "after", "reverse", "gradients")
    assert len(boxes) == sum(bool(getattr(found, part)) for part in parts) >= 4
    for words in ("LSTM(in_size=3)", "2 examples, 5 steps", found.backend, found.reason):
        assert words in page.text
    for line in found.loop:
        assert line.name in page.text
        assert line.code in page.text
    titles = {attrs.get("title") for tag, attrs in page.tags}
    assert {line.shapes for line in found.loop} <= titles


def test_the_page_and_the_text_of_an_explanation_have_the_same_titles_and_sentences():
    """For a context, a linear recurrence, and a state of matrices."""

    def attend(h, x, *, context):
        return jnp.tanh(h + x + context.sum())

    def associate(state, x):
        S = 0.9 * state[1] + x[:, None] * x[None, :]
        return S @ x, S

    layer = nr.Recurrence(attend, initial_state=jnp.zeros(3))
    pages = [nr.explain(layer, jnp.zeros((2, 5, 3)), context=jnp.zeros((2, 4)))]
    for backend in ("auto", "associative", "chunkwise"):
        layer = nr.Recurrence(associate, (jnp.zeros(3), jnp.zeros((3, 3))), backend=backend)
        pages.append(nr.explain(layer, jnp.zeros((5, 3))))
    assert pages[0].context
    for found in pages:
        page = Text(found._repr_html_()).text
        assert all(words in page for words in display.sentences(found))
        for part in itertools.chain(*display.parts_of(found.backend)):
            assert (part.title in page) == bool(getattr(found, part.name))
            assert part.title in str(found) or part.name == "context"
    assert "Its matrices have a chunkwise form." in page
    assert "loop: chunk by chunk" in page


def test_a_backend_that_takes_nothing_apart_is_one_sentence():
    layer = nr.with_backend(nr.GRU(3, 4, key=KEY), "plain")
    page = Text(nr.explain(layer, jnp.zeros((5, 3)))._repr_html_())
    assert "GRU(in_size=3) : 5 steps, backend  plain" in page.text
    assert not any(attrs.get("class") == "box" for _, attrs in page.tags)


def test_the_explanations_of_a_model_are_one_page():
    found = nr.explain(nr.Chain(nr.GRU(3, 3, key=KEY), nr.LSTM(3, 4, key=KEY)), jnp.zeros((5, 3)))
    page = Text(found._repr_html_())
    assert sum(tag == "style" for tag, _ in page.tags) == 1
    assert sum(tag == "hr" for tag, _ in page.tags) == 1


def test_tables_escape_text_and_align_numbers():
    html = display.table(["<a>"], [["<b>"], [1234], [True]])
    assert "&lt;a&gt;" in html
    assert "&lt;b&gt;" in html
    assert '<td class="number">1,234</td>' in html
    assert "<td>True</td>" in html


def test_importing_noria_loads_no_library_for_display():
    libraries = {"matplotlib", "rich", "typer"}
    code = f"import sys, noria; print({libraries} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
