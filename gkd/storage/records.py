"""Records: results as JSON files, each with its kind and the version of its format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from gkd.core.errors import UserError
from gkd.storage.json_files import damaged, read_json, write_json
from gkd.storage.manifest import with_manifest, without_manifest

VERSION = 1  # of the format of summaries and cells; a file without a version is of this one


# Kinds of results. Each has a table in `gkd.report.tables`; a task may state another one.
ACCURACY = "accuracy"
FEW_SHOT = "few_shot"
INCREMENTAL = "incremental"

Record = TypeVar("Record", bound=BaseModel)


def content_of(record: BaseModel) -> dict[str, JsonValue]:
    """A record as JSON: the keys that were set, in the order of its fields."""
    content: dict[str, JsonValue] = record.model_dump(mode="json", exclude_unset=True)
    return content


def write_record(path: Path, record: BaseModel, *, files: Iterable[str] = ()) -> None:
    """Write a record as a JSON file with its manifest (``gkd.storage.manifest``).

    Args:
        path: of the file.
        record: its content.
        files: the names of files in its folder that belong to it, as they are now.
    """
    write_json(path, with_manifest(content_of(record), path.parent, files))


def read_record(path: Path, form: type[Record]) -> Record:
    """Read a file of ``write_record``, of this or an earlier version of gkd.

    Args:
        path: of the file.
        form: the class of the record.

    Raises:
        Damaged: a file that is not what was written.
        UserError: one in a later format.
    """
    content = without_manifest(read_json(path, keys=()), path)
    version = content.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise UserError(
            f"{path} is of version {version}, and this gkd reads results up to version {VERSION}; "
            "read it with the gkd that wrote it, or a later one.",
            code="later-version",
        )
    try:
        return form.model_validate(content)
    except ValidationError:
        raise damaged(path) from None


def with_kind(content: object) -> object:
    """The content of a summary or a cell with its ``version`` and ``kind``, which early files do not state.

    No other place infers a kind from the sections that are present.
    """
    if not isinstance(content, Mapping):
        return content
    last = content.get("last")
    if "incremental" in content:
        kind = INCREMENTAL
    elif "episodes" in content or (isinstance(last, Mapping) and "few_shot" in last):
        kind = FEW_SHOT
    else:
        kind = ACCURACY
    return {"version": VERSION, "kind": kind, **content}
