"""ONNX: ``from_onnx`` and ``to_onnx``.

=================== =============================================================================
`importer`          ``from_onnx``
`files`             files and their tensors, with bounds
`node`              a node, and the exception for what has no translation
`graph`             nodes, constants, and graphs inside of nodes
`operations`        operators as functions of arrays
`shape_operations`  those that move numbers
`program`           nodes as one function: cells and functions of a step
`activations`       the activations of recurrent nodes
`nodes`             LSTM, GRU and RNN as layers
`loops`             Scan and Loop as layers
`axes`              the axes of a value: batch, time, features
`steps`             nodes of single steps as layers
`chains`            a whole graph as a model
`exporter`          ``to_onnx``
`writer`            a graph in the making
`emit`              layers as nodes
`recurrent_nodes`   recurrent layers as nodes
`convolution_nodes` ``Conv1d`` and pools as nodes, and back
`recognise`         cells that have a node of their own
`matching`          hand-written cells that compute what these nodes compute
`polynomials`       a traced step as polynomials of gates
`translator`        a traced step as nodes
`equations`         an equation of such a step, and the graph it goes to
`translations`      the primitives of JAX as nodes
`move_translations` those that move numbers
`compare`           an exported file beside its original
=================== =============================================================================
"""

from noria.interop.onnx.exporter import to_onnx
from noria.interop.onnx.importer import described, from_onnx

__all__ = ["described", "from_onnx", "to_onnx"]
