"""Losses over padded sequences: each averages over the valid places only.

Invalid places count neither in the sum nor in the number of places. Their gradient is exactly zero,
and they may hold anything, even NaN. A place with weight 0 is invalid too. Without any valid place
the loss is 0. For other losses use Optax, with `noria.last` or a mask.

=============== =====================================================================
``average``     valid places, weights, and the mean over them
``elementwise`` ``mse``, ``mae``, ``huber``, ``binary_cross_entropy``
``classes``     ``cross_entropy``
``quantiles``   ``pinball``
``alignment``   ``ctc``
=============== =====================================================================
"""
