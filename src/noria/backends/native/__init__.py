"""Machine code for loops on CPUs: LLVM makes it when a layer is traced, XLA calls it.

============= ====================================================================
`machine`     instruction sets, and every threshold
`lower`       graph to graph: equations in a form that there is code for
`plan`        graph to kernel plan: stages, tilings, panels
`codegen`     kernel plan to LLVM code
`runtime`     LLVM code to a handler that XLA calls; the team of threads
`primitive`   the handler as a JAX primitive: mapped, differentiated, partitioned
`direct`      a step that is one kernel, called without JAX
`backend`     the loop backend
============= ====================================================================

``NORIA_NATIVE_ISA`` names the instruction set. ``NORIA_BACKEND=scan`` keeps layers from this
backend. ``NORIA_CACHE`` is the folder of machine code on disk.
"""
