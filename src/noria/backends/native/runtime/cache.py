"""Machine code on disk, so that the next process need not compile it again.

A file has the object code of one module, and a hash of it. Its name is the name of the kernel,
which covers everything that decides the code (`code_version`). Processes share the folder without
locks: a file is written beside its place and then renamed. A damaged file is removed.

The code is run, so the folder and each file must belong to this user, and nobody else may be able
to write them.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import stat
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from noria._atomic import replace_file
from noria.backends.environment import cache_folder
from noria.backends.native.runtime.header import api_version

#: Bytes of all files; with more, the least recently used ones are removed. The kernel of an
#: LSTM has 30 kB.
MOST_BYTES = 2**28

_SUFFIX, _MAGIC = ".kernel", b"noria machine code 1\n"
_log = logging.getLogger(__name__)


@functools.cache
def code_version() -> str:
    """All that decides the machine code of a plan, besides the plan and the instruction set."""
    package = Path(__file__).parents[3]
    sources = [p for part in ("backends/native", "ir") for p in (package / part).rglob("*.py")]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(sources)))
    versions = llvmlite.__version__, llvm.llvm_version_info, api_version()
    machine = llvm.get_process_triple(), platform.system(), platform.machine()
    return f"{digest.hexdigest()} {versions} {machine}"


def load(name: str) -> bytes | None:
    """The object code of a name, if it is on disk."""
    folder = _folder()
    if folder is None:
        return None
    path = folder / (name + _SUFFIX)
    try:
        data = _read(path)
    except FileNotFoundError:
        _log.debug("%s: not in %s", name, folder)
        return None
    except OSError as error:
        _log.warning("%s is not used: %s", path, error)
        return None
    code = data[len(_header(name, b"")) :]
    if data != _header(name, code) + code:
        _log.warning("%s is damaged; its kernel is compiled again", path)
        with contextlib.suppress(OSError):
            path.unlink()
        return None
    with contextlib.suppress(OSError):  # a folder that this process may only read
        os.utime(path)
    _log.debug("%s: read from %s", name, folder)
    return code


def save(name: str, code: bytes) -> None:
    """Keep object code on disk, if the folder can be written."""
    folder = _folder()
    if folder is None:
        return
    path = folder / (name + _SUFFIX)
    try:
        replace_file("noria", str(path), _header(name, code) + code, mode=0o600, sync=False)
        _remove_oldest(folder)
    except OSError as error:
        _say_once(folder, f"it cannot be written: {error}")


def _header(name: str, code: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(name.encode() + code).digest()


def _folder() -> Path | None:
    """The folder, made if need be; none if others may write it."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        _check(folder.stat())
    except OSError as error:
        _say_once(folder, f"it is not used: {error}")
        return None
    return folder


def _read(path: Path) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not an ordinary file")
        _check(status)
        return file.read()


def _check(status: os.stat_result) -> None:
    """Raise an error if others may have written a file or a folder.

    Raises:
        PermissionError: if it belongs to somebody else, or if others may write it.
    """
    if not hasattr(os, "geteuid"):  # Windows, where folders of a user are private
        return
    if status.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("other users may write it; to use it: chmod go-w")


def _remove_oldest(folder: Path) -> None:
    """Remove the files that were not used for the longest time, if there are too many bytes."""
    found = []
    for path in folder.glob("*" + _SUFFIX):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            status = path.stat(follow_symlinks=False)
            found.append((status.st_mtime_ns, status.st_size, path))
    excess = sum(size for _, size, _ in found) - MOST_BYTES
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size


@functools.cache
def _say_once(folder: Path, message: str) -> None:
    _log.warning("The folder %s is to keep compiled kernels, but %s", folder, message)
