"""Planning: from a step to a schedule of stages and their tilings, without LLVM.

=============== =========================================================================
`schedule`      a step as a schedule: stages in order, and the slots of all stored values
`hoist`         the products that a time block computes for many steps at once
`accumulators`  the accumulators of the reverse loop as rank updates
`fusion`        the equations of a step as stages
`lookup`        the node of a value at some features
`matrices`      stages on matrices
`matrix_lookup` the node of a value at the points of a domain
`access`        affine maps from the points of a domain to elements
`maps`          the affine maps of views, reductions and concatenations
`storage`       stored values and their slots
`stages`        slots, nodes, products, rank updates and stages
`panels`        blocks of features, and the panels of their weights
`tiling`        blocks and panels for one instruction set
`matrix_unit`   the sizes of products by the matrix unit
`updates`       the vectors of rank updates in groups
`work`          the shares of threads
`cores`         the cores for the threads of a call
`fingerprint`   the fingerprint of a plan
=============== =========================================================================
"""
