"""Lowering: from the graph of a step to equations with native code, without LLVM.

================ =================================================
`supported`      the equations and values with native code
`legalize`       the rewrite of equations into these
`matrices`       equations on matrices of any size
`sums_of_pads`   sums of padded arrays as concatenations
`small_matrices` products of small matrices as products of vectors
`convolutions`   convolutions as products
`precision`      bfloat16 at the ends of a step, float32 inside
`tangent`        the loop of tangents
================ =================================================
"""
