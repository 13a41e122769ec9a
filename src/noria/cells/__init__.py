"""Cells: one step of a recurrence.

=============== ===================================================================
file            contents
=============== ===================================================================
base            ``Cell``, how a cell emits its output, ``GatedCell``
declare         declarations of sizes, parameters and states
declared        ``DeclaredCell``: the constructor, the initial state, checks
parts           functions that many cells share
catalogue       the entries of ``catalogue.toml`` and ``papers.bib``
elman, gru      the cells of ``noria`` itself; also ``lstm``
wrappers        cells around other cells; also the files ``wrappers_...``
one_gate        one gate between the old state and a candidate
=============== ===================================================================

A class of the catalogue is loaded when it is asked for: ``noria.cells.MGUCell``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from noria.cells.declare import array as array
from noria.cells.declare import matrix as matrix
from noria.cells.declare import size as size
from noria.cells.declare import state as state
from noria.cells.declare import vector as vector
from noria.cells.declared import DeclaredCell as DeclaredCell
from noria.cells.declared import VectorCell as VectorCell
from noria.cells.wrappers import ProjectedCell as ProjectedCell
from noria.cells.wrappers import ResidualCell as ResidualCell
from noria.cells.wrappers import WrapperCell as WrapperCell
from noria.cells.wrappers import Zoneout as Zoneout
from noria.cells.wrappers_fast_slow import FastSlowCell as FastSlowCell
from noria.cells.wrappers_fast_slow import FastSlowState as FastSlowState
from noria.cells.wrappers_gates import PhasedCell as PhasedCell
from noria.cells.wrappers_gates import PhasedState as PhasedState
from noria.cells.wrappers_gates import SkipCell as SkipCell
from noria.cells.wrappers_gates import SkipState as SkipState
from noria.cells.wrappers_time import AttentionCell as AttentionCell
from noria.cells.wrappers_time import AttentionState as AttentionState
from noria.cells.wrappers_time import DelayCell as DelayCell
from noria.cells.wrappers_time import DelayState as DelayState
from noria.cells.wrappers_time import DilatedCell as DilatedCell

if TYPE_CHECKING:
    from noria.cells.continuous import CTRNNCell as CTRNNCell
    from noria.cells.continuous import CfCCell as CfCCell
    from noria.cells.continuous import DendPLRNNCell as DendPLRNNCell
    from noria.cells.continuous import ESNCell as ESNCell
    from noria.cells.continuous import LowRankRNNCell as LowRankRNNCell
    from noria.cells.continuous import PLRNNCell as PLRNNCell
    from noria.cells.continuous import ShallowPLRNNCell as ShallowPLRNNCell
    from noria.cells.delta_rules import CombaCell as CombaCell
    from noria.cells.delta_rules import DeltaNetCell as DeltaNetCell
    from noria.cells.delta_rules import DeltaProductCell as DeltaProductCell
    from noria.cells.delta_rules import GatedDeltaNetCell as GatedDeltaNetCell
    from noria.cells.delta_rules import KDACell as KDACell
    from noria.cells.delta_rules import LonghornCell as LonghornCell
    from noria.cells.delta_rules import TTTLinearCell as TTTLinearCell
    from noria.cells.delta_rules import TitansCell as TitansCell
    from noria.cells.gates import ATRCell as ATRCell
    from noria.cells.gates import BRCCell as BRCCell
    from noria.cells.gates import CFNCell as CFNCell
    from noria.cells.gates import NBRCCell as NBRCCell
    from noria.cells.gates import RANCell as RANCell
    from noria.cells.gates import STARCell as STARCell
    from noria.cells.gates import TGRUCell as TGRUCell
    from noria.cells.gates_inner import FastGRNNCell as FastGRNNCell
    from noria.cells.gates_inner import IntersectionRNNCell as IntersectionRNNCell
    from noria.cells.gates_inner import MUTCell as MUTCell
    from noria.cells.gates_inner import MiRUCell as MiRUCell
    from noria.cells.gates_inner import SGUCell as SGUCell
    from noria.cells.gru_relatives import BlockGRUCell as BlockGRUCell
    from noria.cells.gru_relatives import GRUDCell as GRUDCell
    from noria.cells.gru_relatives import MIGRUCell as MIGRUCell
    from noria.cells.gru_relatives import MIRNNCell as MIRNNCell
    from noria.cells.gru_relatives import NoisyRNNCell as NoisyRNNCell
    from noria.cells.gru_relatives import TauGRUCell as TauGRUCell
    from noria.cells.linear_complex import FFMCell as FFMCell
    from noria.cells.linear_complex import HGRNCell as HGRNCell
    from noria.cells.linear_complex import LRUCell as LRUCell
    from noria.cells.linear_complex import S4DCell as S4DCell
    from noria.cells.linear_complex import S5Cell as S5Cell
    from noria.cells.linear_more import BilinearRNNCell as BilinearRNNCell
    from noria.cells.linear_more import EMACell as EMACell
    from noria.cells.linear_more import HiPPOCell as HiPPOCell
    from noria.cells.linear_more import MegaEMACell as MegaEMACell
    from noria.cells.linear_more import ParallelLMUCell as ParallelLMUCell
    from noria.cells.linear_more import S7Cell as S7Cell
    from noria.cells.linear_more import SHMCell as SHMCell
    from noria.cells.linear_oscillators import DLinOSSCell as DLinOSSCell
    from noria.cells.linear_oscillators import LinOSSCell as LinOSSCell
    from noria.cells.linear_oscillators import RotRNNCell as RotRNNCell
    from noria.cells.linear_vectors import GILRCell as GILRCell
    from noria.cells.linear_vectors import LMUCell as LMUCell
    from noria.cells.linear_vectors import MinGRUCell as MinGRUCell
    from noria.cells.linear_vectors import MinLSTMCell as MinLSTMCell
    from noria.cells.linear_vectors import QRNNCell as QRNNCell
    from noria.cells.linear_vectors import RGLRUCell as RGLRUCell
    from noria.cells.linear_vectors import SRUCell as SRUCell
    from noria.cells.lstm_memories import MemoryControllerLSTMCell as MemoryControllerLSTMCell
    from noria.cells.lstm_memories import MultiplicativeLSTMCell as MultiplicativeLSTMCell
    from noria.cells.lstm_memories import ONLSTMCell as ONLSTMCell
    from noria.cells.lstm_memories import ResLSTMCell as ResLSTMCell
    from noria.cells.lstm_memories import TimeAwareLSTMCell as TimeAwareLSTMCell
    from noria.cells.lstm_memories import WMCLSTMCell as WMCLSTMCell
    from noria.cells.lstm_more import EALSTMCell as EALSTMCell
    from noria.cells.lstm_more import HyperLSTMCell as HyperLSTMCell
    from noria.cells.lstm_more import MILSTMCell as MILSTMCell
    from noria.cells.lstm_more import MogrifierLSTMCell as MogrifierLSTMCell
    from noria.cells.lstm_relatives import ELSTMCell as ELSTMCell
    from noria.cells.lstm_relatives import MassConservingLSTMCell as MassConservingLSTMCell
    from noria.cells.lstm_relatives import MomentumLSTMCell as MomentumLSTMCell
    from noria.cells.lstm_relatives import MomentumRNNCell as MomentumRNNCell
    from noria.cells.lstm_relatives import NASCell as NASCell
    from noria.cells.lstm_relatives import NestedLSTMCell as NestedLSTMCell
    from noria.cells.lstm_relatives import RecurrentHighwayCell as RecurrentHighwayCell
    from noria.cells.lstm_relatives import TLSTMCell as TLSTMCell
    from noria.cells.lstm_variants import LSTM1997Cell as LSTM1997Cell
    from noria.cells.lstm_variants import LSTMVariantCell as LSTMVariantCell
    from noria.cells.lstm_variants import LayerNormLSTMCell as LayerNormLSTMCell
    from noria.cells.lstm_variants import PeepholeLSTMCell as PeepholeLSTMCell
    from noria.cells.lstm_variants import ProjectedLSTMCell as ProjectedLSTMCell
    from noria.cells.lstm_variants import URLSTMCell as URLSTMCell
    from noria.cells.memories import FastWeightCell as FastWeightCell
    from noria.cells.memories import GLACell as GLACell
    from noria.cells.memories import HGRN2Cell as HGRN2Cell
    from noria.cells.memories import LinearAttentionCell as LinearAttentionCell
    from noria.cells.memories import MLSTMCell as MLSTMCell
    from noria.cells.memories import RetNetCell as RetNetCell
    from noria.cells.memories import SLSTMCell as SLSTMCell
    from noria.cells.memories import SimpleGLACell as SimpleGLACell
    from noria.cells.memory_stacks import AssociativeRUMCell as AssociativeRUMCell
    from noria.cells.memory_stacks import MISTCell as MISTCell
    from noria.cells.memory_stacks import RUMCell as RUMCell
    from noria.cells.memory_stacks import StackRNNCell as StackRNNCell
    from noria.cells.neural import EIRNNCell as EIRNNCell
    from noria.cells.neural import LTCCell as LTCCell
    from noria.cells.neural import STPRNNCell as STPRNNCell
    from noria.cells.one_gate import JANETCell as JANETCell
    from noria.cells.one_gate import LiGRUCell as LiGRUCell
    from noria.cells.one_gate import LightRUCell as LightRUCell
    from noria.cells.one_gate import MGUCell as MGUCell
    from noria.cells.one_gate import MinimalRNNCell as MinimalRNNCell
    from noria.cells.one_gate import SGRNCell as SGRNCell
    from noria.cells.one_gate import UGRNNCell as UGRNNCell
    from noria.cells.orthogonal import ExpRNNCell as ExpRNNCell
    from noria.cells.orthogonal import GORUCell as GORUCell
    from noria.cells.orthogonal import LipschitzRNNCell as LipschitzRNNCell
    from noria.cells.orthogonal import ORNNCell as ORNNCell
    from noria.cells.orthogonal import ScoRNNCell as ScoRNNCell
    from noria.cells.orthogonal_more import EUNNCell as EUNNCell
    from noria.cells.orthogonal_more import KRUCell as KRUCell
    from noria.cells.orthogonal_more import NNRNNCell as NNRNNCell
    from noria.cells.oscillators import CoRNNCell as CoRNNCell
    from noria.cells.oscillators import LEMCell as LEMCell
    from noria.cells.oscillators import UnICORNNCell as UnICORNNCell
    from noria.cells.selective import Mamba2Cell as Mamba2Cell
    from noria.cells.selective import MambaCell as MambaCell
    from noria.cells.selective import RWKV4Cell as RWKV4Cell
    from noria.cells.selective import RWKV6Cell as RWKV6Cell
    from noria.cells.selective import RWKV7Cell as RWKV7Cell
    from noria.cells.simple import AntisymmetricRNNCell as AntisymmetricRNNCell
    from noria.cells.simple import FastRNNCell as FastRNNCell
    from noria.cells.simple import IRNNCell as IRNNCell
    from noria.cells.simple import IndRNNCell as IndRNNCell
    from noria.cells.simple import JordanRNNCell as JordanRNNCell
    from noria.cells.simple import LeakyRNNCell as LeakyRNNCell
    from noria.cells.simple import MRNNCell as MRNNCell
    from noria.cells.simple import SCRNCell as SCRNCell
    from noria.cells.simple import TRNNCell as TRNNCell
    from noria.cells.spiking import AlphaCell as AlphaCell
    from noria.cells.spiking import LIFCell as LIFCell
    from noria.cells.spiking import RLeakyCell as RLeakyCell
    from noria.cells.spiking import RSynapticCell as RSynapticCell
    from noria.cells.spiking import SpikingLSTMCell as SpikingLSTMCell
    from noria.cells.spiking import SynapticCell as SynapticCell
    from noria.cells.spiking_adaptive import ALIFCell as ALIFCell
    from noria.cells.spiking_adaptive import AdLIFCell as AdLIFCell
    from noria.cells.spiking_adaptive import PLIFCell as PLIFCell
    from noria.cells.spiking_adaptive import ResonatorCell as ResonatorCell


def __getattr__(name: str) -> Any:
    from noria.cells.catalogue import catalogue

    for entry in catalogue().values():
        if entry.cls == name:
            return getattr(import_module(f"noria.cells.{entry.file}"), name)
    raise AttributeError(f"module 'noria.cells' has no attribute {name!r}")


def __dir__() -> list[str]:
    from noria.cells.catalogue import catalogue

    return [*globals(), *(entry.cls for entry in catalogue().values())]
