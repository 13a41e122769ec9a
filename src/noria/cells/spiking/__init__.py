"""Neurons that spike.

============ ================================================
file         cell
============ ================================================
adlif        Adaptive leaky integrate-and-fire, symplectic
alif         Adaptive leaky integrate-and-fire, LSNN
alpha        Alpha neuron, a spike response model
glif         Gated leaky integrate-and-fire
lapicque     Lapicque's neuron
lif          Leaky integrate-and-fire
plif         Parametric leaky integrate-and-fire
resonator    Balanced resonate-and-fire
rleaky       Recurrent leaky integrate-and-fire
rsynaptic    Recurrent current-based leaky integrate-and-fire
spiking_lstm Spiking long short-term memory
synaptic     Current-based leaky integrate-and-fire
============ ================================================
"""
