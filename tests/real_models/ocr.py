"""Ddddocr: the LSTM of both directions and the classes, behind the convolutions of an image."""

import numpy as np
from real_models.parts import Part, between, file

import noria as nr

#: The node, and the values before it and behind the classes.
LSTM, FEATURES, CLASSES = "LSTM_79", "227", "387"


def parts() -> list[Part]:
    import onnx

    path = file("ddddocr", "ddddocr/common.onnx")
    model = onnx.load(path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    head = nr.Dense.from_arrays(*(tensors[name] for name in gemm.input[1:]))
    images = np.random.default_rng(0).normal(size=(8, 1, 1, 64, 200)).astype(np.float32)
    convolutions = between(model, ["input1"], [FEATURES])
    (features,) = zip(*(convolutions.run(None, {"input1": x}) for x in images), strict=True)
    session = between(model, [FEATURES], [CLASSES])

    def whole(xs: np.ndarray) -> np.ndarray:
        batch = xs.reshape(-1, *xs.shape[-2:]).swapaxes(0, 1)
        ys = session.run(None, {FEATURES: batch})[0].swapaxes(0, 1)
        return ys.reshape(*xs.shape[:-1], -1)

    chain = nr.Chain(nr.from_onnx(path, node=LSTM), head)
    xs = np.stack(features)[:, :, 0]
    label = "ddddocr, LSTM and classes"
    return [Part(label, "onnxruntime", chain, x, whole, streams=False) for x in (xs[0], xs)]
