"""Manifests: a record's checksum of itself and of the files that belong to it, under one key of its JSON file.

One file holds both, so that no kill can part them. A record without one was written by an earlier gkd.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from gkd.storage.checksums import json_sha256, sha256
from gkd.storage.json_files import Damaged, damaged, read_json
from gkd.storage.run_files import SUMMARY

_KEY = "manifest"


def with_manifest(content: Mapping[str, Any], folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """A record's content with its manifest.

    Args:
        content: the record as JSON.
        folder: where it and its files are.
        files: the names of the files below the folder, as they are now.
    """
    sums = {name: sha256(folder / name) for name in sorted(files)}
    return {**content, _KEY: {"files": sums, "sha256": json_sha256({**content, _KEY: sums})}}


def without_manifest(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A record's content, checked against its manifest where it has one.

    Raises:
        Damaged: the content of ``path`` is not what was written.
    """
    rest = {key: value for key, value in content.items() if key != _KEY}
    if _KEY in content:
        manifest = content[_KEY]
        files, stated = _files(manifest), manifest.get("sha256") if isinstance(manifest, dict) else None
        if files is None or stated != json_sha256({**rest, _KEY: files}):
            raise damaged(path)
    return rest


def files_of(record: Path) -> dict[str, str] | None:
    """Name -> SHA-256 of the files in a record's manifest; None where it has none.

    Raises:
        Damaged: the record is not what was written.
    """
    content = read_json(record, keys=())
    without_manifest(content, record)
    return _files(content[_KEY]) if _KEY in content else None


def check_files(record: Path, files: Mapping[str, str]) -> None:
    """Check the files beside a record against its manifest.

    Raises:
        Damaged: a file that is gone, or is not the one that was left there.
    """
    for name, expected in files.items():
        path = record.parent / name
        if not path.is_file():
            raise missing(path)
        if _sha256(path) != expected:
            raise Damaged(
                f"{path} was damaged or replaced after its run had finished",
                "Repeat the command of the run to mend it, or copy the file elsewhere to use it as it is",
                code="file-damaged",
            )


def check_beside_its_run(path: Path) -> None:
    """Check a file against the manifest of the run that it lies in, if any.

    Raises:
        Damaged: another file than the run left there.
    """
    record = path.with_name(SUMMARY)
    if record.is_file():
        files = files_of(record) or {}
        check_files(record, {name: expected for name, expected in files.items() if name == path.name})


def missing(path: Path) -> Damaged:
    """The error for a file of a finished run that is gone."""
    return Damaged(
        f"{path} is gone, though its run is finished",
        "Repeat the command of the run to make it anew",
        code="file-missing",
    )


def _files(manifest: Any) -> dict[str, str] | None:
    files = manifest.get("files") if isinstance(manifest, dict) else None
    return files if isinstance(files, dict) else None


def _sha256(path: Path) -> str:
    """``sha256``, taken once of a file that does not change."""
    stat = path.stat()
    return _remembered(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=64)
def _remembered(path: Path, _size: int, _mtime: int, _inode: int) -> str:
    return sha256(path)
