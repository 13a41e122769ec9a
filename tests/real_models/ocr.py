"""Ddddocr: the LSTM of both directions and the classes, behind the convolutions of an image."""

import numpy as np

import noria as nr
from real_models.parts import Part, between, file

#: The node, and the values before it and behind the classes.
LSTM, FEATURES, CLASSES = "LSTM_79", "227", "387"


def parts() -> list[Part]:
    import onnx

    path = file("ddddocr", "ddddocr/common.onnx")
    model = onnx.load(path)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    head = nr.Dense.from_arrays(*(tensors[name] for name in gemm.input[1:]))
    image = np.random.default_rng(0).normal(size=(1, 1, 64, 200)).astype(np.float32)
    (features,) = between(model, ["input1"], [FEATURES]).run(None, {"input1": image})
    session = between(model, [FEATURES], [CLASSES])

    def whole(xs: np.ndarray) -> np.ndarray:
        return session.run(None, {FEATURES: xs[:, None]})[0][:, 0]

    chain = nr.Chain(nr.from_onnx(path, node=LSTM), head)
    label = "ddddocr, LSTM and classes"
    return [Part(label, "onnxruntime", chain, features[:, 0], whole, streams=False)]
