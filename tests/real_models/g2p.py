"""G2p-en: phonemes of a word. A GRU reads letters, another one writes phonemes."""

import importlib
import sys
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
from real_models.parts import Function, Part, file

import noria as nr

WORDS = "noria recurrent xylophone kernel jabberwocky a squeezing thoroughly".split()


def original() -> Any:
    """The class of the wheel, without the libraries of language that its network does not use."""
    file("g2p-en", "g2p_en/checkpoint20.npz")
    absent = ("nltk", "nltk.corpus", "nltk.tokenize", "inflect", "distance")
    with patch.dict(sys.modules, {name: MagicMock() for name in absent}):
        module = importlib.import_module("g2p_en.g2p")
        with patch.object(module, "construct_homograph_dictionary"):  # leaves a file open
            return module.G2p()


def gru(arrays: Any, prefix: str) -> nr.Recurrence:
    names = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih"}
    names["bias_hh_l0"] = "b_hh"
    return nr.from_torch({torch: arrays[f"{prefix}_{own}"] for torch, own in names.items()})


def read() -> tuple[nr.Chain, nr.Chain]:
    """The encoder and the decoder."""
    with np.load(file("g2p-en", "g2p_en/checkpoint20.npz")) as arrays:
        encoder, decoder = (
            (nr.Embedding.from_arrays(arrays[f"{name}_emb"]), gru(arrays, name))
            for name in ("enc", "dec")
        )
        head = nr.Dense.from_arrays(arrays["fc_w"], arrays["fc_b"])
    return nr.Chain(*encoder), nr.Chain(*decoder, head)


def letters(g2p: Any, word: str) -> np.ndarray:
    return np.array([g2p.g2idx[letter] for letter in [*word, "</s>"]], np.int32)


def phonemes(g2p: Any, models: tuple[nr.Chain, nr.Chain], word: str) -> list[str]:
    """The likeliest phoneme each time, until the end."""
    encoder, decoder = models
    (_, h), _ = encoder.scan(None, letters(g2p, word))
    stream = nr.stream(decoder, state=(None, h, None))
    found, index = list[str](), np.int32(2)
    while len(found) < 20:
        index = np.argmax(stream(index)).astype(np.int32)
        if index == 3:
            break
        found.append(g2p.idx2p[int(index)])
    return found


def parts() -> list[Part]:
    g2p, (encoder, decoder) = original(), read()
    enc, dec = (
        [getattr(g2p, f"{name}_{array}") for array in ("w_ih", "w_hh", "b_ih", "b_hh")]
        for name in ("enc", "dec")
    )

    def encoded(xs: np.ndarray) -> np.ndarray:
        return g2p.gru(g2p.enc_emb[xs][None], len(xs), *enc)[0]

    def decoded(xs: np.ndarray) -> np.ndarray:
        return g2p.gru(g2p.dec_emb[xs][None], len(xs), *dec)[0] @ g2p.fc_w.T + g2p.fc_b

    def begin(embedding: np.ndarray, weights: Any, head: Function) -> Function:
        h = np.zeros((1, 256), np.float32)

        def step(x: np.ndarray) -> np.ndarray:
            nonlocal h
            h = g2p.grucell(embedding[x][None], h, *weights)
            return head(h)[0]

        return step

    def logits(h: np.ndarray) -> np.ndarray:
        return h @ g2p.fc_w.T + g2p.fc_b

    xs = letters(g2p, "xylophonethoroughly")
    return [
        Part(
            "g2p-en, letters",
            "its NumPy",
            encoder,
            xs,
            encoded,
            lambda: begin(g2p.enc_emb, enc, lambda h: h),
        ),
        Part(
            "g2p-en, phonemes",
            "its NumPy",
            decoder,
            xs,
            decoded,
            lambda: begin(g2p.dec_emb, dec, logits),
        ),
    ]
