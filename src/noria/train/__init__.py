"""Training runs. `noria.optimise` has single steps.

=============== =================================================================
`fit`           ``fit`` and its arguments
`course`        a run from its beginning or checkpoint to its end
`run`           the steps of an epoch, an evaluation, and bad numbers
`steps`         the compiled step, on flat lists of arrays
`position`      where a run is, and all it needs to continue
`checkpoint`    ``Checkpoint``; saving and loading the state of a run
`facts`         what must be the same when a run continues
`files`         checkpoints as safetensors files
`orbax`         checkpoints by Orbax
`spread`        ``spread``; arrays on the devices of a mesh
`machines`      what processes tell each other
`signals`       SIGTERM
`forms`         the forms of data, and batches made of them
`history`       ``History``
`curve`         the plot of a history
`progress`      the progress bar
=============== =================================================================
"""
