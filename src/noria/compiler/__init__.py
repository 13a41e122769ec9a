"""The recurrence compiler: one step of any cell, traced, taken apart, differentiated, put back together.

=================== ====================================================================================================
`graph`             equations and graphs of them: what a traced step is, evaluated, cut and re-written as
`trace`             a cell becomes the graph of one step, with lengths, resets and the initial state in it
`normalise`         products over concatenations split, sums regrouped, products that share an operand merged
`split`             constant, before, loop, after; and the cheapest frontier between two of them
`gradient`          the loop with its own reverse loop, parameter gradients after it, and what is stored for it
`linear`            recurrences that are affine and element-wise in the state, found
`run`               the parts put together over a whole sequence, at once or in chunks
`explain`           what was done, as a page to read and as numbers to test
=================== ====================================================================================================
"""
