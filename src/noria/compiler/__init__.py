"""The recurrence compiler: one step of any cell, traced, split, differentiated, run over time.

==================== ==============================================================================
`trace`              the graph of one step of a cell, including lengths and resets
`levels`             the levels of its values: constant, or dependent on parameters, input or state
`context`            values that depend on the context of a call, computed once per example
`peel`               arrays of the state that need no loop: delays, counters, outputs
`windows`            the delays that keep several entries
`peeled`             the values of these arrays over a sequence
`constant_positions` gathers and searches with positions that are known, as slices
`constant_scatters`  scatters to positions that are known, as slices
`complex_pairs`      a complex step as a step over pairs of real values
`complex_rules`      its rules, one for each primitive
`canonicalize`       rewrite rules that let more of a step leave the loop
`contractions`       the rules that bring all products into one form
`solves`             systems of linear equations, one equation for each
`min_cut`            the minimum cut between two parts of a graph
`split`              loop-invariant code, prologue, loop, epilogue; hoisting
`equation_vjp`       the pull-backs of single equations
`vjp`                one step and its pull-back, equation by equation
`residuals`          the division of both between two loops; the stored residuals
`own_rules`          functions with a derivative rule of their own: which orders and steps apply it
`param_use`          the equations of the loop that read parameters
`accumulate`         their gradients as accumulators of the reverse loop
`loops`              a loop on the backend that supports it
`executors`          the loops over a sequence, as one differentiable function
`save_policies`      the policies of ``save=``: store gates, or states only
`segments`           gradients that compute residuals again, segment by segment
`rerun`              gradients whose forward loop runs again, with the cotangents of the outputs
`tangents`           the loop of tangents, for forward mode
`linear`             a step as a linear recurrence
`state_parts`        parts of one array of the state as arrays of their own
`constant_matrix`    steps that are affine by a constant matrix
`linear_forms`       the forms of its values: affine, or with a maximum in place of the sum
`multilinear`        values as sums of products of known factors and a matrix of the state
`terms`              the terms of these sums
`products`           such sums as arrays
`matrix_form`        the form of a step that is linear in such a matrix
`matrix_analysis`    the search for this form
`chunkwise`          the recurrence of such a step, chunk by chunk
`chunk_coefficients` the arguments of this recurrence
`chunks`             a sequence in chunks: checkpoints, hoisting for long sequences
`program`            all parts over a sequence
`select`             the choice of a backend: one `Decision`, run and explained
`explain`            a decision as a page, and as numbers for tests
`sharding`           layers among several devices
==================== ==============================================================================

All modules work on the equations of `noria.ir`. ``docs/how-it-works.md`` follows an LSTM through
them.
"""
