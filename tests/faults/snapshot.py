"""What a command left, without what passes: times, places and what is only for readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gkd.storage.checksums import sha256
from gkd.storage.manifest import files_of
from gkd.storage.weights import read_weights, tensors_hash

# Of results: how long it took, and where.
PASSING = {
    "seconds", "bookkeeping_seconds", "images_per_second", "command", "commit", "folder", "cpu", "path", "manifest",
}  # fmt: skip


def snapshot(root: Path) -> dict[str, Any]:
    """File -> its content, of the results under a folder: weights by their bits, JSON without what passes.

    Checkpoints, the cache, locks and files that nothing reads back (plots, the command, the environment) are left out:
    a run that was stopped may have others.
    """
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or "checkpoints/" in name or name.split("/")[0] == "cache":
            continue
        if path.suffix == ".safetensors":
            found[name] = tensors_hash(read_weights(path)[0])
        elif path.suffix == ".json" and path.name != "env.json":
            found[name] = _lasting(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            found[name] = records_of(path.read_bytes())
    return found


def unvouched(root: Path) -> str:
    """The first file under a folder that is another than its record's manifest says; empty where none is.

    Raises:
        UserError: a record that is not what its own checksum says.
    """
    for record in sorted(root.rglob("*.json")):
        content = json.loads(record.read_text())
        if not isinstance(content, dict) or "manifest" not in content:
            continue
        for name, expected in (files_of(record) or {}).items():
            file = record.parent / name
            if file.is_file() and sha256(file) != expected:
                return f"{file.relative_to(root)} is not what {record.name} says"
    return ""


def records_of(content: bytes) -> list[Any]:
    """The records of a file of JSON lines, without what passes."""
    return [_record(line) for line in content.splitlines()]


def _record(line: bytes) -> Any:
    """A line of JSON; of one that is none, what it is instead."""
    try:
        return _lasting(json.loads(line))
    except ValueError:
        return f"no record: {line!r}"


def differences(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """The first file that is not as it should be, in a few words; empty where all are."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is surplus"
        if expected[name] != found[name]:
            return f"{name} differs: {first_difference(expected[name], found[name])}"
    return ""


def _lasting(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _lasting(value) for key, value in content.items() if key not in PASSING}
    if isinstance(content, list):
        return [_lasting(value) for value in content]
    return content


def first_difference(expected: Any, found: Any, where: str = "") -> str:
    """Where two contents begin to differ; empty where they do not."""
    if expected == found:
        return ""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(found.keys() - expected.keys())]:
            if expected.get(key) != found.get(key):
                return first_difference(expected.get(key), found.get(key), f"{where}.{key}")
    if isinstance(expected, list) and isinstance(found, list):
        for place, (one, other) in enumerate(zip(expected, found, strict=False)):
            if one != other:
                return first_difference(one, other, f"{where}[{place}]")
        return f"{where} has {len(found)} entries, not {len(expected)}"
    return f"{where} {str(found)[:60]} instead of {str(expected)[:60]}"
