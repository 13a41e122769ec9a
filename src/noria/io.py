"""``save``, ``load`` and ``describe``: one safetensors file, with a JSON description in its header.

The arrays are stored under their paths in the model (``layers[0].cell.W``). The description holds
everything else that defines the model: classes, settings, numbers. It is compared on loading, never
executed.
"""

import json
import os
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from noria._atomic import replace_file
from noria._description import (
    FORMATS,
    PLAIN,
    check_leaves,
    checked,
    compare,
    description_of,
    fail,
    is_array,
    is_key,
    to_json,
)
from noria._stored import (
    Tensor,
    is_stored_in_parts,
    read,
    read_header,
    to_array,
    to_file,
    to_stored,
)
from noria.module import named_leaves

M = TypeVar("M")
FilePath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def save(path: FilePath, model: Any, *, extra: Any = None) -> None:
    """Write a model, or any pytree of arrays such as ``(model, opt_state)``, to one file.

    An existing file is replaced atomically: after a crash of the program or of the machine, the old
    or the new file is there. Its mode is kept, and its owner if the user may set it. The path may
    be a symbolic link, whose target is replaced or created. Other hard links keep the old file. The
    next save removes a temporary file (``.noria-*.part``) that a crashed one has left in the
    folder.

    Args:
        path: path of the file, conventionally ``*.safetensors``.
        model: the pytree. Arrays of all dtypes are stored unchanged, random keys too. Dtypes that
            safetensors lacks are stored with one more axis: complex numbers as two real ones,
            others as bytes.
        extra: anything that JSON can hold, which `describe` returns: units, class names, sizes.
            JSON turns tuples into lists and the keys of a dict into strings.

    Raises:
        TypeError: if ``extra`` cannot be written as JSON. Also for a leaf that is neither an array
            of numbers or booleans nor a plain number, string or boolean.
        ValueError: if two leaves have one path, or the description exceeds the 100 MB of the
            format.
        OSError: if the folder does not exist or cannot be written, or the path is a folder, a pipe
            or a device.

    PyTorch's ``save`` pickles code references; this file holds arrays and text only.

    Examples:
        >>> import jax, noria as nr, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)), extra={"unit": "ppm"})
        >>> nr.describe(path)["extra"]
        {'unit': 'ppm'}
    """
    path = os.fsdecode(path)
    call = f"save({path!r})"
    check_leaves(call, model)
    arrays = {name: _plain(leaf) for name, leaf in named_leaves(model) if is_array(leaf)}
    text = to_json(call, {**description_of(model), "extra": extra})
    in_parts = any(is_stored_in_parts(array.dtype) for array in arrays.values())
    stored = {name: to_stored(array) for name, array in arrays.items()}
    replace_file(
        call, path, to_file(call, stored, {"format": FORMATS[in_parts], "description": text})
    )


def load(path: FilePath, like: M) -> M:
    """Read a file of `save` into the structure of ``like``.

    The file is read once, so it may be replaced in the meantime.

    Args:
        path: path of the file.
        like: a model built as the saved one was; its arrays and plain numbers are replaced in the
            returned copy.

    Returns:
        A copy of ``like``, with its modes and frozen parts, and the numbers of the file.

    Raises:
        ValueError: if the file is truncated, not a safetensors file, not written by `save`, changed
            since, or does not fit ``like``. The message names the file and the first difference.
        TypeError: if ``like`` holds leaves that `save` would reject.
        FileNotFoundError: if there is no such file.
        OSError: if the file cannot be read.

    Examples:
        >>> import jax, noria as nr, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> nr.save(path, nr.GRU(2, 3, key=jax.random.key(0)))
        >>> model = nr.load(path, nr.GRU(2, 3, key=jax.random.key(1)))
    """
    path = os.fsdecode(path)
    call = f"load({path!r})"
    check_leaves(call, like)
    metadata, tensors = read(path)
    saved = checked(path, metadata, tensors)
    compare(call, saved, json.loads(to_json(call, description_of(like))))
    leaves = [_restore(call, name, saved, tensors, leaf) for name, leaf in named_leaves(like)]
    loaded: M = jtu.tree_unflatten(jtu.tree_structure(like), leaves)
    return loaded


def describe(path: FilePath) -> dict[str, Any]:
    """The description of a saved file, without its arrays.

    The dtypes and shapes of the stored arrays are compared with the description.

    Args:
        path: path of the file.

    Returns:
        A dict. ``arrays`` maps each path to ``[dtype, shape]``, ``numbers`` each path to a number,
        and ``modules`` each path to ``[class name, settings]``. ``extra`` is the object passed to
        `save`.

    Raises:
        ValueError: if the file is truncated, not a safetensors file, not written by `save`, or
            changed since.
        FileNotFoundError: if there is no such file.
        OSError: if the file cannot be read.

    Examples:
        >>> import jax, noria as nr, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> nr.save(path, nr.Dense(2, 1, key=jax.random.key(0)))
        >>> nr.describe(path)["arrays"]
        {'W': ['float32', [1, 2]], 'b': ['float32', [1]]}
    """
    path = os.fsdecode(path)
    return checked(path, *read_header(path))


def _plain(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _restore(
    call: str, name: str, saved: dict[str, Any], tensors: dict[str, Tensor], like: Any
) -> Any:
    """The leaf of that name from the file, of the same kind as ``like``."""
    if name in saved["numbers"]:
        return _restore_number(call, name, saved["numbers"][name], like)
    if not is_array(like):
        return like  # a function
    if is_key(like):
        data = jax.random.key_data(like)
        if tensors[name].shape != list(data.shape):
            fail(
                call,
                f"{name} has keys of shape {tuple(tensors[name].shape)} in the file, "
                f"{data.shape} in the model",
            )
        value = to_array(tensors[name], np.dtype(data.dtype), list(data.shape))
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    dtype = np.dtype(like.dtype)
    value = to_array(tensors[name], dtype.newbyteorder("="), list(like.shape))
    if isinstance(like, np.ndarray):
        return value.astype(dtype, copy=False)
    # A weak dtype, as in jnp.full(3, 0.5), decides the promotion with another array.
    return like.at[...].set(value) if like.weak_type else jnp.asarray(value)


def _restore_number(call: str, name: str, value: Any, like: Any) -> Any:
    try:
        return value if type(like) in PLAIN else type(like)(value)  # an enumeration, numpy.float64
    except ValueError as error:
        fail(
            call,
            f"{name} is {value!r:.60} in the file, which is no {type(like).__name__} ({error})",
        )
