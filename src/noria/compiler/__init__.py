"""The recurrence compiler: one step of any cell, traced, split, differentiated, run over time.

=============== ====================================================================
`trace`         a cell becomes the graph of one step, with lengths and resets in it
`canonicalize`  rewrite rules that let more of a step leave the loop
`min_cut`       the cheapest frontier between two parts of a graph
`split`         loop-invariant code, prologue, loop, epilogue; hoisting
`equation_vjp`  the pull-backs of single equations
`vjp`           one step and its pull-back, equation by equation
`residuals`     both divided between two loops; which residuals are stored
`param_use`     where parameters enter the loop
`accumulate`    their gradients as accumulators of the reverse loop
`executors`     both loops over a sequence, as one differentiable function
`save_policies` the policies of ``save=``: store gates, or states only
`linear`        affine steps found, and run as a linear recurrence
`chunks`        a sequence in chunks: checkpoints, hoisting for long sequences
`program`       the parts put together
`select`        the choice of a backend: one `Decision`, run and explained
`explain`       a decision as a page to read, and as numbers to test
`cotangents`    lists of arrays of which some are differentiated
`sharding`      layers among several devices
=============== ====================================================================

All of it works on the equations of `noria.ir`. ``docs/how-it-works.md`` tells the story with an
LSTM as its example.
"""
