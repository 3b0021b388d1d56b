"""The operations on files that a process makes below its folder, counted, and one of them made to fail."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import safetensors.torch

# What can happen at an operation: an error of the operating system; or the death of the process before it, after it
# or, of a write, in the middle.
ERRORS = {"no space": errno.ENOSPC, "device error": errno.EIO, "not permitted": errno.EACCES}
DEATHS = ("death before", "death after", "death within")
FAULTS = (*ERRORS, *DEATHS)
READING = ("read", "list")
_CHANGING = (
    "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync", "truncate", "chmod", "fchmod", "link",
    "symlink", "write",
)  # fmt: skip

Action = Callable[[], Any]


class Operations:
    """The operations of this process on what lies below its folder.

    Args:
        number: of the operation that fails, from 0; None counts only.
        fault: one of ``FAULTS``.
    """

    def __init__(self, number: int | None = None, fault: str = "") -> None:
        self.made: list[str] = []  # each ``operation file``
        self.number, self.fault = number, fault
        self.descriptors: dict[int, str] = {}  # of files that were opened below the folder
        self._root = os.path.realpath(os.getcwd()) + os.sep

    def name_of(self, path: Any, dir_fd: int | None = None) -> str | None:
        """How a path is called here where it lies below the folder, else None."""
        if isinstance(path, int):
            return self.descriptors.get(path)
        try:
            text = os.fsdecode(path)
        except TypeError:
            return None
        if dir_fd is not None:  # only what removes a whole folder opens one
            return text
        place = os.path.realpath(text)
        return place.removeprefix(self._root) if place.startswith(self._root) else None

    def perform(self, operation: str, name: str, action: Action, half: Action | None = None) -> Any:
        """Make an operation, or what becomes of it under the fault.

        Args:
            operation, name: what is done to which file.
            action: does it.
            half: does a part of it.
        """
        here = len(self.made)
        self.made.append(f"{operation} {name}")
        if here != self.number:
            return action()
        if self.fault in ERRORS:
            if self.fault == "no space" and half is not None:
                half()
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]), name)
        try:
            if self.fault == "death within" and half is not None:
                half()
            elif self.fault != "death before":
                action()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def watched(operations: Operations) -> Iterator[None]:
    """Within it, the process's operations on files go through ``operations``."""
    changed: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        changed.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        for name in _CHANGING:
            put(os, name, _counted(operations, name, getattr(os, name)))
        for name in ("listdir", "scandir"):
            put(os, name, _counted(operations, "list", getattr(os, name)))
        put(os, "open", _opening(operations, os.open))
        put(io, "open", _opened(operations, io.open))
        put(builtins, "open", io.open)
        put(safetensors.torch, "serialize_file", _serialised(operations, safetensors.torch.serialize_file))
        yield
    finally:
        for owner, name, value in reversed(changed):
            setattr(owner, name, value)


def _counted(operations: Operations, operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: Any = ".", *more: Any, **named: Any) -> Any:
        name = operations.name_of(path, named.get("dir_fd"))
        action = lambda: function(path, *more, **named)  # noqa: E731
        return action() if name is None else operations.perform(operation, name, action)

    return call


def _opening(operations: Operations, function: Callable[..., int]) -> Callable[..., int]:
    """``os.open``, which remembers whose descriptors it gave."""

    def call(path: Any, flags: int, *more: Any, **named: Any) -> int:
        name = operations.name_of(path, named.get("dir_fd"))
        if name is None:
            return function(path, flags, *more, **named)
        kind = "open" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "read"
        descriptor: int = operations.perform(kind, name, lambda: function(path, flags, *more, **named))
        operations.descriptors[descriptor] = name
        return descriptor

    return call


def _opened(operations: Operations, function: Callable[..., Any]) -> Callable[..., Any]:
    """``open``; of what is written, each ``write`` is an operation too."""

    def call(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        name = operations.name_of(path)
        if name is None:
            return function(path, mode, *more, **named)
        writes = any(letter in mode for letter in "wax+")
        action = lambda: function(path, mode, *more, **named)  # noqa: E731
        by_path = not isinstance(path, int)  # a descriptor's opening has been counted
        file = operations.perform("open" if writes else "read", name, action) if by_path else action()
        operations.descriptors[file.fileno()] = name
        return _Written(file, name, operations) if writes else file

    return call


def _serialised(operations: Operations, function: Callable[..., Any]) -> Callable[..., Any]:
    """The writer of safetensors, which is no Python and counts as one write."""

    def call(tensors: Any, path: Any, *more: Any, **named: Any) -> Any:
        name = operations.name_of(path)

        def action() -> Any:
            return function(tensors, path, *more, **named)

        def half() -> None:
            action()
            os.truncate(path, os.path.getsize(path) // 2)

        return action() if name is None else operations.perform("write", name, action, half)

    return call


class _Written:
    """A file that is open for writing, each ``write`` of which is an operation."""

    def __init__(self, file: Any, name: str, operations: Operations) -> None:
        self._file, self._name, self._operations = file, name, operations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        return self._operations.perform("write", self._name, lambda: self._file.write(content), half)
