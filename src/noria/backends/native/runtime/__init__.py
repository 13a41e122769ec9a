"""Runtime: from a module of LLVM code to a function that XLA calls, and its threads.

============ ===============================================================================
`target`     the instruction sets of the machine; from a module to machine code
`kernels`    the kernels of the process: compiled, shared, released
`cache`      machine code on disk
`handler`    the handler of a kernel: checks the arrays of a call, starts the thread team
`phases`     which function of a kernel does a share of a phase
`team`       the thread team: how a thread claims its share, and waits for the others
`helpers`    threads of our own, for calls without XLA
`resident`   the handlers that XLA knows, and the reference counts of kernels
`frame`      code that reads the call frame of XLA, and calls XLA's functions
`state`      the structures that threads share
`xla_abi`    the structures that XLA defines
`header`     the version of XLA's interface
============ ===============================================================================
"""
