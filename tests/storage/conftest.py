"""What the tests of storage share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def listing() -> Callable[[Path], list[str]]:
    """Gives the sorted names in a folder."""
    return lambda folder: sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk() -> Callable[..., None]:
    """A function that fails as a writer does on a full disk, whatever its arguments."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fail
