"""Matrices as states.

================ ===========================================================================
file             cell
================ ===========================================================================
based            Linear attention with quadratic features: Based and ReBased
delta_rules      Delta rules: DeltaNet, gated DeltaNet and its second version, KDA and Comba
deltaproduct     Product of delta rules
fast_weight      Fast weight programmer
fast_weights     Fast weights that attend to the recent past
gla              Gated linear attention
gsa              Gated slot attention
hgrn2            Hierarchically gated recurrent network 2
lightnet         Additive linear attention of LightNet
linear_attention Linear attention
longhorn         Longhorn
m2rnn            Matrix-to-matrix recurrent network
mamba            Selective state space of Mamba
mamba2           State space of Mamba-2
mamba3           State space of Mamba-3
mesanet          MesaNet
mlstm            Matrix LSTM of xLSTM
ntm              Neural Turing machine, with a feedforward controller and with an LSTM
rdn              Recurrent delta network
retnet           Retention
rfa              Random feature attention
rmc              Relational memory core
rwkv             The time mixing of RWKV-4, RWKV-5, RWKV-6 and RWKV-7
simple_gla       Simple gated linear attention
slstm            Scalar LSTM of xLSTM
srwm             Self-referential weight matrix
titans           Neural memory of Titans
ttt_linear       Test-time training, linear model
================ ===========================================================================
"""
