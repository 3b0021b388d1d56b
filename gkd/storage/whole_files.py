"""Files that are whole or absent: written aside under a name of their own, synced, and renamed into their place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gkd.core.errors import UserError

_ASIDE = re.compile(r"\.gkd-[0-9a-f]{16}\.tmp(\.[^/]*)?")


def write_whole(path: Path, write: Callable[[Path], object], *, suffix: str | None = None) -> None:
    """Write a file aside and rename it, so that a reader, or what a crash leaves, never has half of it.

    The file and its folder are synced before and after the rename. Its mode is that of the umask. Two processes that
    write the same file do not meet, and what killed writers left in the folder is cleared.

    Args:
        path: the file; a new name, or a regular file that it replaces.
        write: writes the content to the path that it is given, an empty file.
        suffix: of the path that ``write`` is given; None takes that of ``path``.

    Raises:
        UserError: a link, device or folder in its place, or a file that cannot be written; what was there is whole.
    """
    try:
        replace_whole(path, write, suffix=suffix)
    except OSError as error:
        raise UserError(write_failure(path, error), code="write-failed") from None


def replace_whole(path: Path, write: Callable[[Path], object], *, suffix: str | None = None) -> None:
    """``write_whole`` for a caller that has words of its own where the file cannot be written.

    Raises:
        UserError: a link, device or folder in its place.
        OSError: a file that cannot be written; what was there is whole.
    """
    check_place(path)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_strays(path.parent)
        aside, lock = _begin_aside(path.parent, path.suffix if suffix is None else suffix)
        with lock:
            write(aside)
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """``write_whole`` of a text in UTF-8."""
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def copy_whole(source: Path, path: Path) -> None:
    """``write_whole`` of another file's content."""
    write_whole(path, lambda aside: shutil.copyfile(source, aside))


def check_place(path: Path) -> None:
    """Refuse to write where something else than a regular file stands: a link would be written through.

    Raises:
        UserError: a link, a folder, a device, a pipe.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing there
        return
    if not stat.S_ISREG(mode):
        raise _not_regular(path, mode)


def append_text(path: Path, text: str) -> None:
    """Append a text in UTF-8 to a file, made where it is missing, and sync it.

    Raises:
        UserError: a link, device or folder in its place, or a file that cannot be written.
    """
    check_place(path)
    try:
        with os.fdopen(_open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(write_failure(path, error), code="write-failed") from None


def open_lock(path: Path) -> BinaryIO:
    """A lock file opened, made where it is missing; never a link or a device.

    Raises:
        UserError: something else in its place.
        OSError: a file that cannot be opened.
    """
    check_place(path)
    return os.fdopen(_open_regular(path, os.O_RDWR | os.O_CREAT), "r+b")


def clear_strays(folder: Path) -> None:
    """Remove the files that killed writers left in a folder; those that a living process writes are locked."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _ASIDE.fullmatch(entry.name):
                _clear_stray(entry.path)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_failure(path: Path, error: Exception) -> str:
    """The sentence for a file or folder that cannot be written."""
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"Cannot write to {path}: a folder of that path is a file; write elsewhere, and repeat the command."
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    reason = "no space left on the device" if full else " ".join(str(error).split())
    return (
        f"Cannot write to {path}: {reason}; what was saved before is whole. "
        "Free some space, or write elsewhere (run.out, or compare.results for tables), and repeat the command."
    )


def _begin_aside(folder: Path, suffix: str) -> tuple[Path, BinaryIO]:
    """A new file, and the lock on it that says that its writer lives."""
    while True:
        aside = folder / f".gkd-{secrets.token_hex(8)}.tmp{suffix}"
        lock = os.fdopen(_open_regular(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL), "r+b")
        with contextlib.suppress(OSError):  # a file system without locks; its strays stay
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink > 0:  # else cleared between its making and its lock
            return aside, lock
        lock.close()


def _clear_stray(path: str) -> None:
    with contextlib.suppress(OSError), os.fdopen(_open_regular(Path(path), os.O_RDWR), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)


def _open_regular(path: Path, flags: int) -> int:
    """Open a file that is no link; neither a pipe nor a device that took its place is waited for or written to."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _not_regular(path, mode)
    return descriptor


def _not_regular(path: Path, mode: int) -> UserError:
    kinds = (
        (stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )  # fmt: skip
    kind = next((name for test, name in kinds if test(mode)), "a device")
    return UserError(
        f"{path} is {kind}, and gkd writes only to regular files and new names; remove it, or give another place.",
        code="not-a-regular-file",
    )
