"""The exemplars of a finished step as a file of its folder."""

from __future__ import annotations

from pathlib import Path

from gkd.core.errors import UserError
from gkd.incremental.memory import Memory, memory_of_lists
from gkd.incremental.step import Step
from gkd.storage.json_files import read_json, write_json

MEMORY = "memory.json"


def write_memory(step_folder: Path, memory: Memory, step: Step) -> None:
    """Write the exemplars, with the fingerprint of the images that their numbers refer to."""
    content = {"images": step.images.fingerprint(), "exemplars": memory.as_lists()}
    write_json(step_folder / MEMORY, content)


def read_memory(step_folder: Path, step: Step) -> Memory:
    """The exemplars of a finished step.

    Raises:
        UserError: no such file, a damaged one, or one of other images.
    """
    path = step_folder / MEMORY
    if not path.is_file():
        raise UserError(
            f"{path}, the exemplars, does not exist; remove summary.json of the run and repeat its command, to make it "
            "anew.",
            code="memory-missing",
        )
    return memory_of_lists(read_json(path, keys=("exemplars",))["exemplars"], step.images)
