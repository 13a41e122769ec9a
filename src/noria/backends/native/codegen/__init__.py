"""Code generation: from a kernel plan to a module of LLVM code.

================ ==============================================================================
`kernel`         the functions of a kernel; stages, tiles and reductions
`packing`        the function ``pack``: where a panel is filled
`microkernels`   products with a panel, and rank updates: outer products in registers
`matrix_unit`    products with a panel by the matrix unit, in three parts
`unit_parts`     numbers as sums of three parts: rows, panels, operands of rank updates
`unit_update`    rank updates by the matrix unit
`products`       a few rows times a panel: by vectors, or by the matrix unit
`gemv`           products of one row with a weight that is not packed
`time_block`     prologue and epilogue of a time block: products and rank updates of many steps
`row`            the element-wise part of a stage, for one vector of features of one example
`matrix`         a stage on matrices, with reductions over rows or features
`matrix_product` a stage that is a product of two matrices
`systems`        a stage of systems of linear equations
`elementwise`    a rule for each element-wise primitive
`maths`          functions of vectors, and their errors
`exponential`    exp, log, tanh and their like
`trigonometric`  sin, cos and tan
`coefficients`   their polynomials
`vector`         a vector whose operators emit instructions
`addresses`      buffers, scratch memory, and the address of each value
`llvm`           types, loops, functions and memory of LLVM
`builder`        a builder that leaves out what is known when the code is written
================ ==============================================================================
"""
