"""Noria: recurrent models on JAX. Write the cell as maths, run it over whole sequences."""

import importlib as _importlib
import typing as _typing

from noria import activations as activations
from noria import cells as cells
from noria import data as data
from noria import initializers as initializers
from noria._types import Aux as Aux
from noria.cells.base import Cell as Cell
from noria.cells.elman import RNNCell as RNNCell
from noria.cells.gru import GRUCell as GRUCell
from noria.cells.gru import GRUv3Cell as GRUv3Cell
from noria.cells.lstm import LSTMCell as LSTMCell
from noria.cells.lstm import LSTMState as LSTMState
from noria.compiler.explain import Explanation as Explanation
from noria.compiler.explain import Explanations as Explanations
from noria.freezing import freeze as freeze
from noria.freezing import thaw as thaw
from noria.generate import Categorical as Categorical
from noria.generate import generate as generate
from noria.io import describe as describe
from noria.io import load as load
from noria.io import save as save
from noria.layers.base import Layer as Layer
from noria.layers.bidirectional import Bidirectional as Bidirectional
from noria.layers.chain import Chain as Chain
from noria.layers.conv import Conv1d as Conv1d
from noria.layers.dense import Dense as Dense
from noria.layers.dense import Embedding as Embedding
from noria.layers.dropout import Dropout as Dropout
from noria.layers.explain import explain as explain
from noria.layers.named import GRU as GRU
from noria.layers.named import LSTM as LSTM
from noria.layers.named import RNN as RNN
from noria.layers.named import GRUv3 as GRUv3
from noria.layers.parallel import Parallel as Parallel
from noria.layers.per_step import LayerNorm as LayerNorm
from noria.layers.per_step import PerStep as PerStep
from noria.layers.per_step import RMSNorm as RMSNorm
from noria.layers.pool import MaxPool1d as MaxPool1d
from noria.layers.pool import MeanPool1d as MeanPool1d
from noria.layers.prepared import prepare as prepare
from noria.layers.recurrence import Recurrence as Recurrence
from noria.layers.skip import Concat as Concat
from noria.layers.skip import Residual as Residual
from noria.layers.stacked_states import stack_states as stack_states
from noria.layers.stacked_states import unstack_states as unstack_states
from noria.layers.standardise import Standardise as Standardise
from noria.layers.stream import Stream as Stream
from noria.layers.stream import stream as stream
from noria.layers.with_backend import with_backend as with_backend
from noria.losses.alignment import ctc as ctc
from noria.losses.classes import cross_entropy as cross_entropy
from noria.losses.elementwise import binary_cross_entropy as binary_cross_entropy
from noria.losses.elementwise import huber as huber
from noria.losses.elementwise import mae as mae
from noria.losses.elementwise import mse as mse
from noria.losses.quantiles import pinball as pinball
from noria.masking import last as last
from noria.module import Module as Module
from noria.module import cast as cast
from noria.module import count_parameters as count_parameters
from noria.module import inference as inference
from noria.module import training as training
from noria.optimise import OptimiserState as OptimiserState
from noria.optimise import grad as grad
from noria.optimise import setup as setup
from noria.optimise import update as update
from noria.optimise import value_and_grad as value_and_grad
from noria.summary import Summary as Summary
from noria.summary import summary as summary
from noria.train.checkpoint import Checkpoint as Checkpoint
from noria.train.fit import fit as fit
from noria.train.history import History as History
from noria.train.spread import spread as spread

if _typing.TYPE_CHECKING:
    from noria.interop.check import Comparison as Comparison
    from noria.interop.check import check as check
    from noria.interop.entries import Report as Report
    from noria.interop.equinox import from_equinox as from_equinox
    from noria.interop.equinox import to_equinox as to_equinox
    from noria.interop.flax import from_flax as from_flax
    from noria.interop.flax import to_flax as to_flax
    from noria.interop.flux import from_flux as from_flux
    from noria.interop.flux import to_flux as to_flux
    from noria.interop.keras import from_keras as from_keras
    from noria.interop.keras_export import to_keras as to_keras
    from noria.interop.lux import from_lux as from_lux
    from noria.interop.lux import to_lux as to_lux
    from noria.interop.onnx import from_onnx as from_onnx
    from noria.interop.onnx import to_onnx as to_onnx
    from noria.interop.torch import from_torch as from_torch
    from noria.interop.torch_export import to_torch as to_torch

__version__ = "0.1.0"

#: Names that are imported on use, and their modules in `noria.interop`.
_ON_USE = {
    "Comparison": "check",
    "Report": "entries",
    "check": "check",
    "from_equinox": "equinox",
    "from_flax": "flax",
    "from_flux": "flux",
    "from_keras": "keras",
    "from_lux": "lux",
    "from_onnx": "onnx",
    "from_torch": "torch",
    "to_equinox": "equinox",
    "to_flax": "flax",
    "to_flux": "flux",
    "to_keras": "keras_export",
    "to_lux": "lux",
    "to_onnx": "onnx",
    "to_torch": "torch_export",
}

if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> _typing.Any:
        if name not in _ON_USE:
            raise AttributeError(f"module 'noria' has no attribute {name!r}")
        return getattr(_importlib.import_module(f"noria.interop.{_ON_USE[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ON_USE})
