"""Cells that are linear in their state.

============ ====================================================
file         cell
============ ====================================================
bilinear_rnn Bilinear RNN
centaurus    State space of Centaurus
ema          Exponential moving average
events       State spaces of events: Event-SSM and STREAM
ffm          Fast and forgetful memory
gilr         Gated impulse linear recurrence
hgrn         Hierarchically gated recurrent network
hippo        HiPPO-RNN
linoss       Linear oscillatory state spaces: LinOSS and D-LinOSS
lmu          Legendre memory unit
lru          Linear recurrent unit
mega_ema     Damped moving average of Mega
min_gru      The minimal GRU and the minimal LSTM of Feng et al
parallel_lmu Parallel Legendre memory unit
qrnn         Quasi-recurrent network
rg_lru       Real-gated linear recurrent unit
rotrnn       Rotational recurrent network, RotRNN
s4           Structured state space, S4
s4d          Diagonal state space, S4D
s5           Simplified state space layer, S5
s7           Selective and simplified state space layer, S7
shm          Stable Hadamard memory
sru          Simple recurrent unit
============ ====================================================
"""
