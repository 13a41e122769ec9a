"""``replace_file``: a file is written in one go, or not at all."""

import contextlib
import errno
import os
import platform
import secrets
import stat
import time
from pathlib import Path
from typing import Any, BinaryIO

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows, where there are no such locks
    fcntl = None

_DAY = 24 * 60 * 60


def replace_file(
    call: str, path: str, data: bytes, *, mode: int = 0o666, sync: bool = True
) -> None:
    """Write ``data`` to the file that ``path`` leads to, through symbolic links.

    The bytes go to a piece beside the file, which then takes its place. Mode, owner and group of an
    existing file are kept, owner and group as far as this user may set them. A new file has the
    ``mode``, reduced by the umask. With ``sync``, file and folder are on the disk when the call
    returns.

    Raises:
        FileNotFoundError: if there is no such folder.
        OSError: if there is something else than a file, or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    old = _status(call, target)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{call}: there is no folder {target.parent}.")
    _remove_dead_pieces(target.parent)
    piece, file = _create(call, target.parent, mode if old is None else 0o600)
    try:
        with file:
            if old is not None:
                _take_over(piece, old)
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows does not rename an open file
            os.replace(piece, target)  # still locked: no other save takes it for a dead piece
    except BaseException:
        piece.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def _status(call: str, target: Path) -> os.stat_result | None:
    """Of an existing file, which must be an ordinary one."""
    try:
        status = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{call}: {target} is a folder; expected the path of a file.")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(
            f"{call}: {target} is a pipe, a device or a socket; expected the path of a file."
        )
    return status


def _take_over(piece: Path, old: os.stat_result) -> None:
    new = piece.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        try:
            os.chown(piece, old.st_uid, old.st_gid)
        except PermissionError:
            with contextlib.suppress(PermissionError):
                os.chown(piece, -1, old.st_gid)
    piece.chmod(stat.S_IMODE(old.st_mode))


# --- Pieces -------------------------------------------------------------------------------------
#
# A save holds a lock on its piece. The system drops the lock when the process ends, even by a
# crash.
# So a piece that can be locked is dead.


def _own_prefix() -> str:
    return f".noria-{platform.node()}-".replace(os.sep, "_")


def _create(call: str, folder: Path, mode: int) -> tuple[Path, BinaryIO]:
    while True:
        piece = folder / f"{_own_prefix()}{secrets.token_hex(8)}.part"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        try:
            handle = os.open(piece, flags, mode)  # the system applies the umask
        except PermissionError as error:
            raise PermissionError(
                f"{call}: this user may not write in the folder {folder}."
            ) from error
        file = os.fdopen(handle, "wb")
        if not _lock(handle, wait=True) or os.fstat(handle).st_nlink:
            return piece, file
        file.close()  # before it was locked, another save took it for a dead one


def _lock(handle: int, wait: bool) -> bool:
    """Whether the file could be locked; not every file system has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_dead_pieces(folder: Path) -> None:
    try:
        pieces = [*folder.glob(".noria-*.part")]
    except PermissionError:  # a folder that may be written but not listed
        return
    for piece in pieces:
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            handle = os.open(
                piece, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            )
            try:
                # Locks may not reach other machines, whose running saves are never a day old.
                old = time.time() - os.fstat(handle).st_mtime > _DAY
                if (old or piece.name.startswith(_own_prefix())) and _lock(handle, wait=False):
                    piece.unlink()
            finally:
                os.close(handle)


def _sync_folder(folder: Path) -> None:
    """So that the new name is on the disk too."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, and folders that may be written but not listed
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without this
            raise
    finally:
        os.close(handle)
