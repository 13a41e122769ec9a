"""Cells whose recurrent weights have bounded norms.

============= ===============================================================================
file          cell
============= ===============================================================================
eunn          Efficient unitary network
exprnn        Exponential RNN
goru          Gated orthogonal recurrent unit
kru           Kronecker recurrent unit
lipschitz_rnn Lipschitz RNN
nnrnn         Non-normal recurrent network
ornn          Orthogonal RNN by Householder reflections
rum           Rotational unit of memory, Rotational unit of memory with an associative memory
scornn        Scaled Cayley orthogonal RNN
urnn          Unitary recurrent network
============= ===============================================================================
"""
