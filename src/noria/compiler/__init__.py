"""The recurrence compiler: one step of any cell, traced, split, differentiated, run over time.

=============== ====================================================================
`trace`         the graph of one step of a cell, including lengths and resets
`canonicalize`  rewrite rules that let more of a step leave the loop
`min_cut`       the minimum cut between two parts of a graph
`split`         loop-invariant code, prologue, loop, epilogue; hoisting
`equation_vjp`  the pull-backs of single equations
`vjp`           one step and its pull-back, equation by equation
`residuals`     the division of both between two loops; the stored residuals
`param_use`     the equations of the loop that read parameters
`accumulate`    their gradients as accumulators of the reverse loop
`executors`     both loops over a sequence, as one differentiable function
`save_policies` the policies of ``save=``: store gates, or states only
`linear`        affine steps as a linear recurrence
`multilinear`   values as sums of products of known factors and a matrix of the state
`terms`         their terms
`products`      such sums as arrays
`matrix_form`   steps that are linear in such a matrix: their form
`matrix_analysis` the search for it
`chunkwise`     their recurrence, chunk by chunk
`chunk_coefficients` the arguments of that recurrence
`chunks`        a sequence in chunks: checkpoints, hoisting for long sequences
`program`       all parts over a sequence
`select`        the choice of a backend: one `Decision`, run and explained
`explain`       a decision as a page, and as numbers for tests
`sharding`      layers among several devices
=============== ====================================================================

All modules work on the equations of `noria.ir`. ``docs/how-it-works.md`` follows an LSTM through
them.
"""
