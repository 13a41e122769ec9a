"""Cells whose states are images, in one, two or three dimensions.

=========== ==================================================
file        cell
=========== ==================================================
causal_lstm Causal long short-term memory of PredRNN++
conv_gru    Convolutional gated recurrent unit
conv_lstm   Convolutional long short-term memory
conv_rnn    Convolutional recurrent network
phy_cell    PhyCell
st_lstm     Spatiotemporal long short-term memory of PredRNN
traj_gru    Trajectory gated recurrent unit
=========== ==================================================
"""
