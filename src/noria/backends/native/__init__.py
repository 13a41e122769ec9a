"""Machine code for the loop of any cell, made with LLVM when a layer is traced, and run by XLA as a foreign function; CPUs only.

=============== ====================================================================================================
`expressible`   equations in a form that there is code for, and which there is code for
`stages`        what programs consist of: places, products, stages
`program`       equations become stages: passes over the features, between which values are stored
`layout`        stages cut into blocks, panels and arrays of scratch memory, for one instruction set
`memory`        where everything stands while a kernel runs
`emit`          stages become LLVM code
`stretch`       products and totals of many steps at once become LLVM code
`row`           the element-wise part of a stage, for one block of features of one example
`gemm`          the products in it
`elementwise`   the element-wise primitives in it
`maths`         exp, tanh and the like, of vectors
`vector`        a vector whose operators emit instructions; the polynomials for each format
`instructions`  what those share: LLVM's types, loops, memory, intrinsic functions
`target`        which vector instructions there are; from LLVM code to machine code
`structures`    what XLA and a handler exchange
`threads`       how the work of a call is shared out
`ffi`           the code as a handler of XLA's
`run`           the handler as a JAX function: mapped, differentiated
=============== ====================================================================================================

``NORIA_NATIVE_ISA`` chooses the vector instructions (`target.ISAS`). ``NORIA_BACKEND=scan`` keeps layers from choosing this backend.
"""

from noria.backends.native.lower.supported import has_native_code
from noria.backends.native.machine import tuning
from noria.backends.native.primitive import loop, should_hoist, unsupported_reason

__all__ = ["has_native_code", "loop", "should_hoist", "tuning", "unsupported_reason"]
