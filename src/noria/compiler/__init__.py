"""The recurrence compiler: one step of any cell, traced, taken apart, differentiated, put back together.

=================== ==================================================================================================
`trace`             a cell becomes the graph of one step, with lengths, resets and the initial state in it
`normalise`         the forms in which more of a step can leave the loop
`frontier`          the cheapest frontier between two parts of a graph
`split`             constant, before, loop, after
`derivative`        one step and its pull-back, divided between the two loops
`gradient`          both loops over a sequence, as one differentiable function
`chunks`            a sequence in stretches: checkpoints, and what is lifted for long sequences
`linear`            next states that are affine and element-wise in the state, found
`run`               the parts put together, and the choice of the backend
`explain`           what was done, as a page to read and as numbers to test
`cotangents`        lists of arrays of which some are differentiated
=================== ==================================================================================================

All of it works on the equations of `noria.graph`. `docs/how-it-works.md` tells the story with an LSTM as its example.
"""
