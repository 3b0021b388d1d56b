"""The base class of all sections of an experiment file, and paths that may begin with ``~``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from gkd.core.errors import shown


class Section(BaseModel):
    """One section of an experiment file: unknown keys are forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_LONGEST_NAME = 255  # bytes of one part of a path, on every file system in use


def from_home(path: Path) -> Path:
    """A path that may begin with ``~``; a ValueError for one that no file can have."""
    if "\0" in str(path) or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError(
            f"{shown(str(path))} is no path: a part of it is too long, or has a character that no file has"
        )
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder in {str(path)!r} is not known; write the whole path") from None


HomePath = Annotated[Path, AfterValidator(from_home)]
