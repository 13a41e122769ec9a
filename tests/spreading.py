"""The program of `test_spread`, on four devices: prints the results of cases, as JSON.

python tests/spreading.py NAME ...
"""

import json
import sys
import traceback
from typing import Any

import jax
import jax.tree_util as jtu
import numpy as np
import optax
import sharding
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import noria as nr
import noria.train.fit as module
from noria.train import steps

KEYS = jax.random.split(jax.random.key(0), 3)
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(128, 6, 8)).astype(np.float32)
MESH = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
EXPLICIT = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
SQUARE = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
ROWS_OF_BOTH = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


class Step(steps.Step):
    """Notes the program and the arguments of the last step."""

    last: Any = None

    def train(self, *arguments: Any) -> Any:
        Step.last = self.compiled, arguments
        return super().train(*arguments)


module.Step = Step  # type: ignore[attr-defined]


def make() -> nr.Chain:
    return nr.Chain(nr.LSTM(8, 16, key=KEYS[0]), nr.Dense(16, 8, key=KEYS[1]))


def plain(model: Any, xs: Any) -> Any:
    return nr.mse(model(xs), xs), {"rows": 1.0 * len(xs)}


def carried(model: Any, carry: Any, xs: Any) -> Any:
    carry, ys = model.scan(carry, xs)
    return nr.mse(ys, xs), carry


def cut_hidden() -> nr.Chain:
    """Weights of which each device holds a part."""
    first: Any
    first, *others = make().layers
    cell = jtu.tree_map(
        lambda leaf: jax.device_put(leaf, NamedSharding(SQUARE, P("model"))), first.cell
    )
    return nr.Chain(nr.Recurrence(cell), *others)


def fit(mesh: Any, batch: int, carry: bool = False, model: Any = None) -> Any:
    data = [(XS[:batch],), (XS[64 : 64 + batch],)]
    return nr.fit(
        make() if model is None else model,
        carried if carry else plain,
        data,
        optimiser=optax.adam(1e-3),
        epochs=3,
        key=KEYS[2],
        valid=data[:1],
        mesh=mesh,
        carry=carry,
    )


def distance(a: Any, b: Any) -> float:
    pairs = zip(jtu.tree_leaves(a), jtu.tree_leaves(b), strict=True)
    return float(max(np.abs(np.asarray(x) - np.asarray(y)).max() for x, y in pairs))


def case(mesh: Any, batch: int, **options: Any) -> dict[str, Any]:
    fitted, history = fit(mesh, batch, **options)
    program, arguments = Step.last
    found = sharding.facts(program, arguments, program(*arguments))
    alone, expected = fit(None, batch, carry=options.get("carry", False))
    return {
        **found,
        "error": distance(fitted, alone),
        "losses": np.abs(np.subtract(history.loss, expected.loss)).max(),
        "parameters": nr.count_parameters(alone),
        "devices": [len(leaf.sharding.device_set) for leaf in jtu.tree_leaves(fitted)],
    }


def loop() -> dict[str, Any]:
    """A loop of one's own, with one call of `spread` for everything."""

    def step(model: Any, opt_state: Any, xs: Any) -> Any:
        gradient = nr.grad(lambda model: nr.mse(model(xs), xs))(model)
        return nr.update(opt_state, model, gradient)

    model, opt_state = make(), nr.setup(optax.adam(1e-3), make())
    expected, _ = jax.jit(step)(model, opt_state, XS[:64])
    arguments = nr.spread((model, opt_state, XS[:64]), MESH, "data")
    return {
        **sharding.facts(step, arguments, jax.jit(step)(model, opt_state, XS[:64])),
        "error": distance(jax.jit(step)(*arguments)[0], expected),
        "parameters": nr.count_parameters(model),
        "explained": str(nr.explain(arguments[0], arguments[2])),
    }


def explained() -> dict[str, Any]:
    hidden, xs = cut_hidden(), nr.spread(XS[:64], SQUARE, "data")
    uneven = nr.spread(XS[:63], MESH, "data")
    return {
        "hidden": str(nr.explain(hidden, xs)),
        "uneven": str(nr.explain(nr.spread(make(), MESH), uneven)),
    }


CASES: dict[str, Any] = {
    "even": lambda: case(MESH, 64),
    "uneven": lambda: case(MESH, 63),
    "carried": lambda: case(MESH, 64, carry=True),
    "explicit": lambda: case(EXPLICIT, 64),
    "one of two axes": lambda: case(SQUARE, 64),
    "both axes": lambda: case(ROWS_OF_BOTH, 64),
    "hidden": lambda: case(SQUARE, 64, model=cut_hidden()),
    "loop": loop,
    "explained": explained,
}

if __name__ == "__main__":
    found = {}
    for name in sys.argv[1:]:
        try:
            found[name] = CASES[name]()
        except Exception:
            found[name] = {"traceback": traceback.format_exc()}
    print(json.dumps(found))
