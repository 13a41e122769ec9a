"""Gated cells and their relatives.

====================== ======================================================
file                   cell
====================== ======================================================
antisymmetric_rnn      Antisymmetric RNN
atr                    Addition-subtraction twin-gated network
block_gru              Block gated recurrent unit of DreamerV3
brc                    Bistable recurrent cell
cfn                    Chaos-free network
ea_lstm                Entity-aware long short-term memory
elstm                  Element-wise long short-term memory
fast_grnn              FastGRNN
fast_rnn               FastRNN
gru_d                  Gated recurrent unit with decays for missing values
hyper_lstm             Long short-term memory with a hypernetwork
indrnn                 Independently recurrent network
intersection_rnn       Intersection RNN
irnn                   RNN with ReLU and identity
janet                  JANET
jordan_rnn             Jordan network
latent                 Cells with a latent variable: VRNN and RSSM
layer_norm_lstm        Long short-term memory with layer normalisation
leaky_rnn              Leaky RNN
light_ru               Light recurrent unit
ligru                  Light GRU
lstm_1997              Long short-term memory of 1997
lstm_variant           Ablated long short-term memory
lstmp                  Long short-term memory with a projection
mass_conserving_lstm   Mass-conserving long short-term memory
memory_controller_lstm Memory controller long short-term memory
mgu                    Minimal gated unit
mi_gru                 Gated recurrent unit with multiplicative integration
mi_lstm                Long short-term memory with multiplicative integration
mi_rnn                 Recurrent network with multiplicative integration
minimal_rnn            Minimal RNN
miru                   Minion recurrent unit
mist                   Mixed history recurrent network
mogrifier_lstm         Mogrifier long short-term memory
momentum_lstm          Long short-term memory with momentum
momentum_rnn           Recurrent network with momentum
mrnn                   Multiplicative RNN
multiplicative_lstm    Multiplicative long short-term memory
mut                    MUT1, MUT2 and MUT3
nas                    Cell of neural architecture search
nbrc                   Neuromodulated bistable recurrent cell
nested_lstm            Nested long short-term memory
noisy_rnn              Noisy recurrent network
on_lstm                Ordered neurons long short-term memory
para_rnn               ParaGRU and ParaLSTM
peephole_lstm          Peephole long short-term memory
ran                    Recurrent additive network
recurrent_highway      Recurrent highway network
res_lstm               Residual long short-term memory
rkn                    Recurrent Kalman network
rwa                    Recurrent weighted average
scrn                   Structurally constrained recurrent network
sgrn                   Simple gated recurrent network
sgu                    Simple gated unit
stack_rnn              Stack-augmented recurrent network
star                   Stackable recurrent cell
tau_gru                Gated recurrent unit with weighted time-delay feedback
tgru                   Strongly typed GRU
time_aware_lstm        Time-aware long short-term memory
tlstm                  Strongly typed long short-term memory
trnn                   Strongly typed RNN
ugrnn                  Update gate RNN
ur_lstm                Long short-term memory with uniform refined gates
wmc_lstm               Long short-term memory with working memory connections
====================== ======================================================
"""
