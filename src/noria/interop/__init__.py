"""Models of other frameworks, in and out. One file reads and writes one framework.

* ``entries.py``: named arrays of a source, and the report of what an importer used.
* ``build.py``: layers from arrays, and arrays from layers, in the forms that frameworks share.
* ``activations.py``: functions by their names in other frameworks.
* ``torch.py``: PyTorch; ``torch_files.py`` reads its files and executes nothing,
  ``torch_modules.py`` reads live modules, ``torch_export.py`` is the way back.
* ``keras.py``: Keras; ``keras_files.py`` reads its files, ``keras_layers.py`` makes layers,
  ``keras_guess.py`` those of files without a configuration; ``keras_export.py`` is the way back.
* ``flax.py``, ``equinox.py``, ``flux.py``, ``lux.py``: dicts of arrays and live modules;
  ``flax_modules.py``: modules of Flax NNX.
* ``onnx/``: ONNX, a package.
* ``hdf5.py``: HDF5 files, for Keras and for JLD2 of Julia.
* ``check.py``: compares a model with its original.
* ``convert.py``: the commands ``noria convert`` and ``noria show``.
"""
