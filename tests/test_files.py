"""What `save` does in the file system: modes, links, special files, crashes, several at once."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import noria as nr
from noria import _atomic

MODEL = {"a": 1, "W": jnp.ones(2)}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_new_file_has_the_mode_of_the_umask_which_is_never_set(tmp_path, umask, monkeypatch):
    monkeypatch.setattr(
        os, "umask", lambda mask: pytest.fail("the umask of the whole process was changed")
    )
    nr.save(tmp_path / "m", MODEL)
    assert mode(tmp_path / "m") == 0o640
    monkeypatch.undo()


def test_an_existing_file_keeps_its_mode(tmp_path):
    for kept in (0o600, 0o664):
        nr.save(tmp_path / "m", MODEL)
        (tmp_path / "m").chmod(kept)
        nr.save(tmp_path / "m", MODEL)
        assert mode(tmp_path / "m") == kept


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
)
def test_an_existing_file_keeps_its_owner(tmp_path):
    nr.save(tmp_path / "m", MODEL)
    os.chown(tmp_path / "m", 12345, 23456)
    nr.save(tmp_path / "m", MODEL)
    assert ((tmp_path / "m").stat().st_uid, (tmp_path / "m").stat().st_gid) == (12345, 23456)


def test_links(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far/m")  # to nothing yet
    for a in (1, 2):
        nr.save(tmp_path / "link", {"a": a})
        assert (tmp_path / "link").is_symlink()
        assert nr.load(tmp_path / "far" / "m", {"a": 0}) == {"a": a}
    os.link(tmp_path / "far" / "m", tmp_path / "hard")
    nr.save(tmp_path / "link", {"a": 3})
    assert nr.load(tmp_path / "hard", {"a": 0}) == {"a": 2}  # as documented
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        nr.save(tmp_path / "loop", MODEL)
    (tmp_path / "lost").symlink_to("none/m")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none"):
        nr.save(tmp_path / "lost", MODEL)


def test_what_is_no_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(
            OSError, match=r"is a pipe, a device or a socket; expected the path of a file"
        ):
            nr.save(path, MODEL)
        for read in (nr.describe, lambda path: nr.load(path, MODEL)):
            with pytest.raises(ValueError, match="it is a folder, a pipe or a device"):
                read(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(IsADirectoryError, match="is a folder; expected the path of a file"):
        nr.save(tmp_path, MODEL)


def test_folders_that_are_not_there(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "m", tmp_path / "file" / "m"):
        with pytest.raises(FileNotFoundError, match=r"save\('.*/m'\): there is no folder"):
            nr.save(path, MODEL)
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            nr.load(path, MODEL)
    with pytest.raises(OSError, match="too long"):
        nr.save(tmp_path / ("x" * 300), MODEL)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(path, flags, mode=0o777):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        PermissionError, match=r"save\('.*m'\): this user may not write in the folder"
    ):
        nr.save(tmp_path / "m", MODEL)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    nr.save(tmp_path / "m", {"a": 1})

    def fail(*_):
        raise OSError("disk")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk"):
                nr.save(tmp_path / "m", {"a": 2})
        assert [path.name for path in tmp_path.iterdir()] == ["m"]
        assert nr.load(tmp_path / "m", {"a": 0}) == {"a": 1}


def test_file_and_folder_reach_the_disk(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(file):
        done.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def spied_replace(*paths):
        done.append("renamed")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    nr.save(tmp_path / "m", MODEL)
    assert done == ["file", "renamed", "folder"]


STUCK = """
import os, sys, time
from noria import _atomic
def stuck(piece, target):
    print("ready", flush=True)
    time.sleep(60)
os.replace = stuck
_atomic.replace_file("save", sys.argv[1], b"half")
"""


def test_pieces_of_dead_saves_are_removed_and_those_of_running_ones_are_not(tmp_path):
    target = tmp_path / "m"
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, str(target)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        nr.save(target, MODEL)
        assert len([*tmp_path.glob(".noria-*.part")]) == 1
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert len([*tmp_path.glob(".noria-*.part")]) == 1
    nr.save(target, MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_pieces_of_other_machines_are_removed_after_a_day(tmp_path):
    young, old = tmp_path / ".noria-elsewhere-1.part", tmp_path / ".noria-elsewhere-2.part"
    for piece in (young, old):
        piece.touch()
    os.utime(old, (time.time() - 100_000,) * 2)
    nr.save(tmp_path / "m", MODEL)
    assert young.exists()
    assert not old.exists()


def test_a_piece_that_was_removed_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    lock = _atomic._lock
    pieces: list[Path] = []

    def late(handle, wait):
        if wait and not pieces:  # another save comes first
            pieces.extend(tmp_path.glob(".noria-*.part"))
            pieces[0].unlink()
        return lock(handle, wait)

    monkeypatch.setattr(_atomic, "_lock", late)
    nr.save(tmp_path / "m", {"a": 5})
    assert len(pieces) == 1
    assert nr.load(tmp_path / "m", {"a": 0}) == {"a": 5}


def test_threads_that_save_to_one_path(tmp_path):
    failed = []

    def work(a):
        try:
            for _ in range(5):
                nr.save(tmp_path / "m", {"a": a, "W": jnp.full(20, a)})
                loaded: dict[str, Any] = nr.load(tmp_path / "m", {"a": 0, "W": jnp.zeros(20, int)})
                assert set(loaded["W"].tolist()) == {loaded["a"]}
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(a,)) for a in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
