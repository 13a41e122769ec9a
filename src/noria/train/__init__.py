"""Training runs: ``fit`` and its `History`. `noria.optimise` has single steps."""
