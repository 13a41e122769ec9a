"""The code of ``noria demo`` and ``noria predict``; each file is also an example to read."""
