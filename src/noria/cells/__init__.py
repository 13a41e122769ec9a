"""Cells: one step of a recurrence.

================== ============================================================
file               contents
================== ============================================================
base               ``Cell``, and how a cell emits its output
declare            declarations of sizes, parameters and states
declared           ``DeclaredCell``: the initial state, checks of a step
construction       the constructor of a declared cell
arrays             a declared cell from arrays
spatial            ``SpatialCell``: cells of images
stacked            cells whose gates are blocks of two matrices
catalogue          the entries of ``catalogue.toml`` and ``papers.bib``
elman              the simple recurrent cell
gru                the gated recurrent units
lstm               the long short-term memory
products           the matrices of any cell, and products that a wrapper changes
draws              random numbers that a cell draws once for a call
wrappers           cells around other cells: the base, outputs
wrappers_zoneout   wrappers that keep numbers of the state at random
wrappers_dropout   wrappers that drop features or weights at random
wrappers_norms     wrappers that normalise weights, products or states
wrappers_products  wrappers with other products: with the input, or in blocks
wrappers_clockwork modules of units, updated in periods
wrappers_time      wrappers that read the past
wrappers_gates     wrappers with a gate of the whole update
wrappers_fast_slow several fast cells and a slow one
parts              functions that many cells share
starts             initialisers that several cells share
matrices           recurrent matrices with a structure
heads              parts of cells whose memory is a matrix for each head
spikes             spikes with surrogate gradients
wiring             which synapses of neurons there are
gated              cells with vectors as states: gates, or none
orthogonal         recurrent weights whose norms are bounded
dynamical          differential equations, reservoirs, neurons
linear             next states that are linear in the state
memory             matrices as states
spiking            neurons that spike
convolutional      images as states
================== ============================================================

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
from noria.cells.parts import block_product as block_product
from noria.cells.spatial import SpatialCell as SpatialCell
from noria.cells.wiring import ncp_wiring as ncp_wiring
from noria.cells.wrappers import ProjectedCell as ProjectedCell
from noria.cells.wrappers import ResidualCell as ResidualCell
from noria.cells.wrappers import WrapperCell as WrapperCell
from noria.cells.wrappers_clockwork import ClockworkCell as ClockworkCell
from noria.cells.wrappers_clockwork import ClockworkState as ClockworkState
from noria.cells.wrappers_dropout import DropConnect as DropConnect
from noria.cells.wrappers_dropout import MaskedState as MaskedState
from noria.cells.wrappers_dropout import VariationalDropout as VariationalDropout
from noria.cells.wrappers_fast_slow import FastSlowCell as FastSlowCell
from noria.cells.wrappers_fast_slow import FastSlowState as FastSlowState
from noria.cells.wrappers_gates import PhasedCell as PhasedCell
from noria.cells.wrappers_gates import PhasedState as PhasedState
from noria.cells.wrappers_gates import SkipCell as SkipCell
from noria.cells.wrappers_gates import SkipState as SkipState
from noria.cells.wrappers_norms import GateNormCell as GateNormCell
from noria.cells.wrappers_norms import StateNormCell as StateNormCell
from noria.cells.wrappers_norms import WeightNormCell as WeightNormCell
from noria.cells.wrappers_products import BlockDiagonalCell as BlockDiagonalCell
from noria.cells.wrappers_products import MultiplicativeCell as MultiplicativeCell
from noria.cells.wrappers_time import AttentionCell as AttentionCell
from noria.cells.wrappers_time import AttentionState as AttentionState
from noria.cells.wrappers_time import DelayCell as DelayCell
from noria.cells.wrappers_time import DelayState as DelayState
from noria.cells.wrappers_time import DilatedCell as DilatedCell
from noria.cells.wrappers_zoneout import RecurrentDropout as RecurrentDropout
from noria.cells.wrappers_zoneout import Zoneout as Zoneout

if TYPE_CHECKING:
    from noria.cells.convolutional.causal_lstm import CausalLSTMCell as CausalLSTMCell
    from noria.cells.convolutional.conv_gru import ConvGRUCell as ConvGRUCell
    from noria.cells.convolutional.conv_lstm import ConvLSTMCell as ConvLSTMCell
    from noria.cells.convolutional.conv_rnn import ConvRNNCell as ConvRNNCell
    from noria.cells.convolutional.phy_cell import PhyCell as PhyCell
    from noria.cells.convolutional.st_lstm import STLSTMCell as STLSTMCell
    from noria.cells.convolutional.traj_gru import TrajGRUCell as TrajGRUCell
    from noria.cells.dynamical.cfc import CfCCell as CfCCell
    from noria.cells.dynamical.cornn import CoRNNCell as CoRNNCell
    from noria.cells.dynamical.ctrnn import CTRNNCell as CTRNNCell
    from noria.cells.dynamical.dale import EIRNNCell as EIRNNCell
    from noria.cells.dynamical.dale import STPRNNCell as STPRNNCell
    from noria.cells.dynamical.esn import ESNCell as ESNCell
    from noria.cells.dynamical.lem import LEMCell as LEMCell
    from noria.cells.dynamical.low_rank_rnn import LowRankRNNCell as LowRankRNNCell
    from noria.cells.dynamical.ltc import LTCCell as LTCCell
    from noria.cells.dynamical.ncp import NCPCell as NCPCell
    from noria.cells.dynamical.ode import GRUODECell as GRUODECell
    from noria.cells.dynamical.ode import NeuralCDECell as NeuralCDECell
    from noria.cells.dynamical.ode import ODELSTMCell as ODELSTMCell
    from noria.cells.dynamical.ode import ODERNNCell as ODERNNCell
    from noria.cells.dynamical.plrnn import DendPLRNNCell as DendPLRNNCell
    from noria.cells.dynamical.plrnn import PLRNNCell as PLRNNCell
    from noria.cells.dynamical.plrnn import ShallowPLRNNCell as ShallowPLRNNCell
    from noria.cells.dynamical.unicornn import UnICORNNCell as UnICORNNCell
    from noria.cells.gated.antisymmetric_rnn import AntisymmetricRNNCell as AntisymmetricRNNCell
    from noria.cells.gated.atr import ATRCell as ATRCell
    from noria.cells.gated.block_gru import BlockGRUCell as BlockGRUCell
    from noria.cells.gated.brc import BRCCell as BRCCell
    from noria.cells.gated.cfn import CFNCell as CFNCell
    from noria.cells.gated.ea_lstm import EALSTMCell as EALSTMCell
    from noria.cells.gated.elstm import ELSTMCell as ELSTMCell
    from noria.cells.gated.fast_grnn import FastGRNNCell as FastGRNNCell
    from noria.cells.gated.fast_rnn import FastRNNCell as FastRNNCell
    from noria.cells.gated.gru_d import GRUDCell as GRUDCell
    from noria.cells.gated.hyper_lstm import HyperLSTMCell as HyperLSTMCell
    from noria.cells.gated.indrnn import IndRNNCell as IndRNNCell
    from noria.cells.gated.intersection_rnn import IntersectionRNNCell as IntersectionRNNCell
    from noria.cells.gated.irnn import IRNNCell as IRNNCell
    from noria.cells.gated.janet import JANETCell as JANETCell
    from noria.cells.gated.jordan_rnn import JordanRNNCell as JordanRNNCell
    from noria.cells.gated.latent import RSSMCell as RSSMCell
    from noria.cells.gated.latent import VRNNCell as VRNNCell
    from noria.cells.gated.layer_norm_lstm import LayerNormLSTMCell as LayerNormLSTMCell
    from noria.cells.gated.leaky_rnn import LeakyRNNCell as LeakyRNNCell
    from noria.cells.gated.light_ru import LightRUCell as LightRUCell
    from noria.cells.gated.ligru import LiGRUCell as LiGRUCell
    from noria.cells.gated.lstm_1997 import LSTM1997Cell as LSTM1997Cell
    from noria.cells.gated.lstm_variant import LSTMVariantCell as LSTMVariantCell
    from noria.cells.gated.lstmp import ProjectedLSTMCell as ProjectedLSTMCell
    from noria.cells.gated.mass_conserving_lstm import (
        MassConservingLSTMCell as MassConservingLSTMCell,
    )
    from noria.cells.gated.memory_controller_lstm import (
        MemoryControllerLSTMCell as MemoryControllerLSTMCell,
    )
    from noria.cells.gated.mgu import MGUCell as MGUCell
    from noria.cells.gated.mi_gru import MIGRUCell as MIGRUCell
    from noria.cells.gated.mi_lstm import MILSTMCell as MILSTMCell
    from noria.cells.gated.mi_rnn import MIRNNCell as MIRNNCell
    from noria.cells.gated.minimal_rnn import MinimalRNNCell as MinimalRNNCell
    from noria.cells.gated.miru import MiRUCell as MiRUCell
    from noria.cells.gated.mist import MISTCell as MISTCell
    from noria.cells.gated.mogrifier_lstm import MogrifierLSTMCell as MogrifierLSTMCell
    from noria.cells.gated.momentum_lstm import MomentumLSTMCell as MomentumLSTMCell
    from noria.cells.gated.momentum_rnn import MomentumRNNCell as MomentumRNNCell
    from noria.cells.gated.mrnn import MRNNCell as MRNNCell
    from noria.cells.gated.multiplicative_lstm import (
        MultiplicativeLSTMCell as MultiplicativeLSTMCell,
    )
    from noria.cells.gated.mut import MUTCell as MUTCell
    from noria.cells.gated.nas import NASCell as NASCell
    from noria.cells.gated.nbrc import NBRCCell as NBRCCell
    from noria.cells.gated.nested_lstm import NestedLSTMCell as NestedLSTMCell
    from noria.cells.gated.noisy_rnn import NoisyRNNCell as NoisyRNNCell
    from noria.cells.gated.on_lstm import ONLSTMCell as ONLSTMCell
    from noria.cells.gated.para_rnn import ParaGRUCell as ParaGRUCell
    from noria.cells.gated.para_rnn import ParaLSTMCell as ParaLSTMCell
    from noria.cells.gated.peephole_lstm import PeepholeLSTMCell as PeepholeLSTMCell
    from noria.cells.gated.ran import RANCell as RANCell
    from noria.cells.gated.recurrent_highway import RecurrentHighwayCell as RecurrentHighwayCell
    from noria.cells.gated.res_lstm import ResLSTMCell as ResLSTMCell
    from noria.cells.gated.rkn import RKNCell as RKNCell
    from noria.cells.gated.rwa import RWACell as RWACell
    from noria.cells.gated.scrn import SCRNCell as SCRNCell
    from noria.cells.gated.sgrn import SGRNCell as SGRNCell
    from noria.cells.gated.sgu import SGUCell as SGUCell
    from noria.cells.gated.stack_rnn import StackRNNCell as StackRNNCell
    from noria.cells.gated.star import STARCell as STARCell
    from noria.cells.gated.tau_gru import TauGRUCell as TauGRUCell
    from noria.cells.gated.tgru import TGRUCell as TGRUCell
    from noria.cells.gated.time_aware_lstm import TimeAwareLSTMCell as TimeAwareLSTMCell
    from noria.cells.gated.tlstm import TLSTMCell as TLSTMCell
    from noria.cells.gated.trnn import TRNNCell as TRNNCell
    from noria.cells.gated.ugrnn import UGRNNCell as UGRNNCell
    from noria.cells.gated.ur_lstm import URLSTMCell as URLSTMCell
    from noria.cells.gated.wmc_lstm import WMCLSTMCell as WMCLSTMCell
    from noria.cells.linear.bilinear_rnn import BilinearRNNCell as BilinearRNNCell
    from noria.cells.linear.centaurus import CentaurusCell as CentaurusCell
    from noria.cells.linear.ema import EMACell as EMACell
    from noria.cells.linear.events import EventSSMCell as EventSSMCell
    from noria.cells.linear.events import StreamCell as StreamCell
    from noria.cells.linear.ffm import FFMCell as FFMCell
    from noria.cells.linear.gilr import GILRCell as GILRCell
    from noria.cells.linear.hgrn import HGRNCell as HGRNCell
    from noria.cells.linear.hippo import HiPPOCell as HiPPOCell
    from noria.cells.linear.linoss import DLinOSSCell as DLinOSSCell
    from noria.cells.linear.linoss import LinOSSCell as LinOSSCell
    from noria.cells.linear.lmu import LMUCell as LMUCell
    from noria.cells.linear.lru import LRUCell as LRUCell
    from noria.cells.linear.mega_ema import MegaEMACell as MegaEMACell
    from noria.cells.linear.min_gru import MinGRUCell as MinGRUCell
    from noria.cells.linear.min_gru import MinLSTMCell as MinLSTMCell
    from noria.cells.linear.parallel_lmu import ParallelLMUCell as ParallelLMUCell
    from noria.cells.linear.qrnn import QRNNCell as QRNNCell
    from noria.cells.linear.rg_lru import RGLRUCell as RGLRUCell
    from noria.cells.linear.rotrnn import RotRNNCell as RotRNNCell
    from noria.cells.linear.s4 import S4Cell as S4Cell
    from noria.cells.linear.s4d import S4DCell as S4DCell
    from noria.cells.linear.s5 import S5Cell as S5Cell
    from noria.cells.linear.s7 import S7Cell as S7Cell
    from noria.cells.linear.shm import SHMCell as SHMCell
    from noria.cells.linear.sru import SRUCell as SRUCell
    from noria.cells.memory.based import BasedCell as BasedCell
    from noria.cells.memory.based import ReBasedCell as ReBasedCell
    from noria.cells.memory.delta_rules import CombaCell as CombaCell
    from noria.cells.memory.delta_rules import DeltaNetCell as DeltaNetCell
    from noria.cells.memory.delta_rules import GatedDeltaNet2Cell as GatedDeltaNet2Cell
    from noria.cells.memory.delta_rules import GatedDeltaNetCell as GatedDeltaNetCell
    from noria.cells.memory.delta_rules import KDACell as KDACell
    from noria.cells.memory.deltaproduct import DeltaProductCell as DeltaProductCell
    from noria.cells.memory.fast_weight import FastWeightCell as FastWeightCell
    from noria.cells.memory.fast_weights import AttendingFastWeightsCell as AttendingFastWeightsCell
    from noria.cells.memory.gla import GLACell as GLACell
    from noria.cells.memory.gsa import GSACell as GSACell
    from noria.cells.memory.hgrn2 import HGRN2Cell as HGRN2Cell
    from noria.cells.memory.lightnet import LightNetCell as LightNetCell
    from noria.cells.memory.linear_attention import LinearAttentionCell as LinearAttentionCell
    from noria.cells.memory.longhorn import LonghornCell as LonghornCell
    from noria.cells.memory.m2rnn import M2RNNCell as M2RNNCell
    from noria.cells.memory.mamba import MambaCell as MambaCell
    from noria.cells.memory.mamba2 import Mamba2Cell as Mamba2Cell
    from noria.cells.memory.mamba3 import Mamba3Cell as Mamba3Cell
    from noria.cells.memory.mesanet import MesaNetCell as MesaNetCell
    from noria.cells.memory.mlstm import MLSTMCell as MLSTMCell
    from noria.cells.memory.ntm import NTMCell as NTMCell
    from noria.cells.memory.ntm import NTMLSTMCell as NTMLSTMCell
    from noria.cells.memory.rdn import RDNCell as RDNCell
    from noria.cells.memory.retnet import RetNetCell as RetNetCell
    from noria.cells.memory.rfa import RFACell as RFACell
    from noria.cells.memory.rmc import RMCCell as RMCCell
    from noria.cells.memory.rwkv import RWKV4Cell as RWKV4Cell
    from noria.cells.memory.rwkv import RWKV5Cell as RWKV5Cell
    from noria.cells.memory.rwkv import RWKV6Cell as RWKV6Cell
    from noria.cells.memory.rwkv import RWKV7Cell as RWKV7Cell
    from noria.cells.memory.simple_gla import SimpleGLACell as SimpleGLACell
    from noria.cells.memory.slstm import SLSTMCell as SLSTMCell
    from noria.cells.memory.srwm import SRWMCell as SRWMCell
    from noria.cells.memory.titans import TitansCell as TitansCell
    from noria.cells.memory.ttt_linear import TTTLinearCell as TTTLinearCell
    from noria.cells.orthogonal.eunn import EUNNCell as EUNNCell
    from noria.cells.orthogonal.exprnn import ExpRNNCell as ExpRNNCell
    from noria.cells.orthogonal.goru import GORUCell as GORUCell
    from noria.cells.orthogonal.kru import KRUCell as KRUCell
    from noria.cells.orthogonal.lipschitz_rnn import LipschitzRNNCell as LipschitzRNNCell
    from noria.cells.orthogonal.nnrnn import NNRNNCell as NNRNNCell
    from noria.cells.orthogonal.ornn import ORNNCell as ORNNCell
    from noria.cells.orthogonal.rum import AssociativeRUMCell as AssociativeRUMCell
    from noria.cells.orthogonal.rum import RUMCell as RUMCell
    from noria.cells.orthogonal.scornn import ScoRNNCell as ScoRNNCell
    from noria.cells.orthogonal.urnn import URNNCell as URNNCell
    from noria.cells.spiking.adlif import AdLIFCell as AdLIFCell
    from noria.cells.spiking.alif import ALIFCell as ALIFCell
    from noria.cells.spiking.alpha import AlphaCell as AlphaCell
    from noria.cells.spiking.glif import GLIFCell as GLIFCell
    from noria.cells.spiking.lapicque import LapicqueCell as LapicqueCell
    from noria.cells.spiking.lif import LIFCell as LIFCell
    from noria.cells.spiking.plif import PLIFCell as PLIFCell
    from noria.cells.spiking.resonator import ResonatorCell as ResonatorCell
    from noria.cells.spiking.rleaky import RLeakyCell as RLeakyCell
    from noria.cells.spiking.rsynaptic import RSynapticCell as RSynapticCell
    from noria.cells.spiking.spiking_lstm import SpikingLSTMCell as SpikingLSTMCell
    from noria.cells.spiking.synaptic import SynapticCell as SynapticCell


def __getattr__(name: str) -> Any:
    from noria.cells.catalogue import catalogue

    for entry in catalogue().values():
        if entry.cls == name:
            return getattr(import_module(f"noria.cells.{entry.file}"), name)
    raise AttributeError(f"module 'noria.cells' has no attribute {name!r}")


def __dir__() -> list[str]:
    from noria.cells.catalogue import catalogue

    return [*globals(), *(entry.cls for entry in catalogue().values())]
