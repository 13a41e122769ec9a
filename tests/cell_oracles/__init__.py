"""One step of each cell of the catalogue in NumPy, written from its paper.

An oracle is ``name(p, s, state, x)``: the parameters and settings of a cell by name, its state as a
tuple of arrays in the order of its declaration, and one input. Arrays are float64, and a parameter
that a cell does not have is ``None``. The result is the next state and the output. A cell whose
step takes ``dt`` or ``t`` has an oracle with that argument.

`ORACLES` has them by the keys of the catalogue. `SETTINGS` has further settings of a cell under
which its oracle is compared. `SURROGATE` has the cells whose gradient is not that of their values.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

ORACLES: dict[str, Callable[..., Any]] = {}
SETTINGS: dict[str, list[dict[str, Any]]] = {}
SURROGATE: set[str] = set()

for _module in pkgutil.iter_modules(__path__):
    _family = importlib.import_module(f"{__name__}.{_module.name}")
    ORACLES |= _family.ORACLES
    SETTINGS |= getattr(_family, "SETTINGS", {})
    SURROGATE |= getattr(_family, "SURROGATE", set())
