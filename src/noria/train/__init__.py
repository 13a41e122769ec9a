"""Whole training runs: ``fit`` and what it reports. A single step is `noria.optimise`."""
