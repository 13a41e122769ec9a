"""Graphs of one step: values, equations, passes, evaluation, and the table of primitives.

============ =====================================================================
`graph`      values, equations and graphs
`build`      from Python functions to graphs
`primitives` the table of primitives: kind, cost, native code
`passes`     dead-code and common-subexpression elimination, subgraphs, dependence
`evaluate`   evaluation over steps and examples
`derivative` the derivative of a graph in forward mode
`cotangents` cotangents of lists of arrays
`reasons`    the reasons that `explain` gives
`source`     the line of the user's cell behind an equation
============ =====================================================================
"""
