"""Differential equations, reservoirs, models of neurons.

============ ===================================================================
file         cell
============ ===================================================================
cfc          Closed-form continuous-time network
cornn        Coupled oscillatory RNN
ctrnn        Continuous-time RNN
dale         Excitatory-inhibitory RNN, RNN with short-term plasticity
esn          Echo state network
lem          Long expressive memory
low_rank_rnn Low-rank RNN
ltc          Liquid time-constant network
ncp          Neural circuit policy
ode          ODE-RNN, GRU-ODE, ODE-LSTM, neural controlled differential equation
plrnn        Piecewise linear RNNs: plain, shallow and dendritic
unicornn     Undamped independent controlled oscillatory RNN
============ ===================================================================
"""
