"""A cell of the catalogue and its oracle, run on the same random numbers.

`test_cells` compares them, and ``scripts/mutate_cells.py`` changes the cell and asks whether the
comparison would notice.
"""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from cell_oracles import ORACLES, SETTINGS
from models import noise, random, to_jax

from noria.cells.base import arguments_of
from noria.cells.catalogue import catalogue
from noria.cells.spatial import SpatialCell

IN, HIDDEN, TIME = 3, 4, 5

#: The input of a step of a cell of images.
IMAGE = (3, 4, 2)

#: The keys of cells with the settings under which they are compared.
CASES = [(key, settings) for key in catalogue() for settings in [{}, *SETTINGS.get(key, [])]]


#: Parameters that keep their first values, because few values are admissible.
KEPT = {"AlphaCell": ("alpha", "beta")}

#: Parameters of large random numbers, so that each bound of their range is met.
LARGE = {"DLinOSSCell": ("a",), "AdLIFCell": ("b",)}

#: States whose rows are weights: positive numbers with the sum 1.
WEIGHTS = {"NTMCell": ("w",), "NTMLSTMCell": ("w",)}

#: States that are sums of outer products of vectors with themselves.
GRAM_MATRICES = {"MesaNetCell": ("G",)}


def _blank(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return to_jax(np.zeros(shape), dtype)


def sizes_of(cls: Any) -> tuple[Any, int]:
    """The arguments of the constructor before the settings."""
    return (IMAGE, 2) if issubclass(cls, SpatialCell) else (IN, HIDDEN)


def cell_of(cls: Any, dtype: Any = jnp.float64, **settings: Any) -> Any:
    """A cell with random parameters, which NumPy draws: JAX would compile for each shape."""
    kept = KEPT.get(cls.__name__, ())
    init = {name: _blank for name in cls._parameters if name not in kept}
    inputs, hidden = sizes_of(cls)
    inputs, hidden = settings.pop("in_shape", inputs), settings.pop("hidden_size", hidden)
    cell = cls(inputs, hidden, key=jax.random.key(0), dtype=dtype, init=init, **settings)
    found = noise(cell, 1, 0.5)
    for name in kept:
        object.__setattr__(found, name, getattr(cell, name))
    for name in LARGE.get(cls.__name__, ()):
        object.__setattr__(found, name, 40 * getattr(found, name))
    return found


def start_of(cell: Any) -> Any:
    """A random state."""
    found = noise(cell.initial_state(), 3, 0.5)
    kind = type(cell).__name__
    others = {name: jax.nn.softmax(getattr(found, name)) for name in WEIGHTS.get(kind, ())}
    for name in GRAM_MATRICES.get(kind, ()):
        a = getattr(found, name)
        others[name] = a @ jnp.swapaxes(a, -1, -2)
    return found._replace(**others) if others else found


def inputs_of(cell: Any, *shape: int, seed: int = 2) -> jax.Array:
    """Random inputs of a cell, of one step each, behind the axes of ``shape``."""
    step = cell.in_shape if isinstance(cell, SpatialCell) else (cell.in_size,)
    return random(seed, *shape, *step)


def options_of(cell: Any, *shape: int) -> dict[str, Any]:
    """The time differences that a step asks for."""
    asks = "dt" in arguments_of(cell)
    return {"dt": jnp.abs(random(9, *shape, dtype=cell.dtype)) + 0.1} if asks else {}


def numbers(tree: Any) -> Any:
    """The arrays of a tree in NumPy."""
    return jtu.tree_map(np.asarray, tree)


def by_oracle(key: str, cell: Any, start: Any, xs: Any, dt: Any = None) -> list[Any]:
    """The arrays of the final state, and the outputs, of the oracle for arrays of NumPy."""
    fields = SimpleNamespace(**{name: numbers(value) for name, value in vars(cell).items()})
    state, ys = tuple(jtu.tree_leaves(start)), []
    asked = arguments_of(cell)
    for t, x in enumerate(xs):
        given = {"t": t} if "t" in asked else {}
        given |= {"dt": dt[t]} if "dt" in asked else {}
        state, y = ORACLES[key](fields, fields, state, x, **given)
        ys.append(y)
    return [*state, np.stack(ys)]
