"""The base class of all sections of an experiment file, and paths that may begin with ``~``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """One section of an experiment file: unknown keys are forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _from_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"the home folder in {str(path)!r} is not known; write the whole path") from None


HomePath = Annotated[Path, AfterValidator(_from_home)]
