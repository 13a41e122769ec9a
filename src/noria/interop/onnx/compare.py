"""An exported model beside its original, in onnxruntime."""

from importlib.util import find_spec
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria.interop.onnx.writer import Value
from noria.layers.base import Layer
from noria.layers.dense import Embedding
from noria.layers.windowed import WindowedLayer
from noria.module import iterate_modules

#: Sizes (batch, time) at which the two are compared.
SIZES = ((3, 7), (1, 1), (2, 12))

#: The same for models with windows, which need steps enough, and a multiple of their strides.
WIDE = ((3, 192), (1, 96))

#: The largest difference, relative to the largest output, of two correct computations. Rounding
#: gives 1e-6 or less for a few steps.
MOST = 1e-3


def largest_difference(
    call: str, proto: Any, model: Layer, x: Value, lengths: bool, states: bool, step: bool
) -> float | None:
    """The largest difference of outputs and final states; ``None`` without onnxruntime.

    Raises:
        RuntimeError: if it is larger than rounding explains.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng, worst = np.random.default_rng(0), 0.0
    run = model.step if step else model.scan
    windows = any(isinstance(part, WindowedLayer) for _, part in iterate_modules(model))
    for batch, time in WIDE if windows and not step else SIZES:
        of_step = (batch,) if model.stride == 1 else (batch, model.stride)
        axes = of_step if step else (batch, time)
        feeds: dict[str, Any] = {"x": _draw(rng, model, axes, x)}
        if lengths:
            feeds["lengths"] = np.minimum([time, 1, 0][:batch], time).astype(np.int32)
        options_ = {"lengths": jnp.asarray(feeds["lengths"])} if lengths else {}
        state = None
        if states:
            # One that the model reaches: those of a cell may have to be positive, or sum to one.
            state, _ = run(None, _as_input(_draw(rng, model, axes, x)), **options_)
            names = [one.name for one in session.get_inputs() if one.name.startswith("state")]
            feeds |= dict(zip(names, map(np.asarray, jtu.tree_leaves(state)), strict=True))
        after, ys = run(state, _as_input(feeds["x"]), **options_)
        wanted = [ys, *(jtu.tree_leaves(after) if states else [])]
        for got, want in zip(session.run(None, feeds), wanted, strict=True):
            got, want = (np.asarray(a, np.float64) for a in (got, want))  # also of booleans
            scale = max(1.0, float(np.abs(want).max(initial=0)))
            difference = float(np.abs(got - want).max(initial=0))
            worst = max(worst, difference)
            if not difference <= MOST * scale:
                raise RuntimeError(
                    f"{call}: onnxruntime differs by {difference:.1e} at batch {batch} and time "
                    f"{time}; nothing was written. Please report this model."
                )
    return worst


def _draw(rng: Any, model: Layer, axes: tuple[int, ...], x: Value) -> np.ndarray:
    if x.dtype.kind != "i":
        return rng.normal(size=(*axes, *x.shape)).astype(np.float32)
    tables = [m.table for _, m in iterate_modules(model) if isinstance(m, Embedding)]
    return rng.integers(0, min((len(t) for t in tables), default=2), axes).astype(np.int64)


def _as_input(xs: np.ndarray) -> Any:
    return jnp.asarray(xs.astype(np.int32) if xs.dtype.kind == "i" else xs)
