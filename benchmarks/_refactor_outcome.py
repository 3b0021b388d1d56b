"""What a run folder holds, in checksums: every tensor, every accuracy, and the files that say how it went."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from _refactor_halves import Cell, without_passing

_READ = ("*.json", "*.jsonl", "config.yaml")
_NOT_READ = ("env.json", "manifest.json")  # of the machine; of the files beside it
# What the code after writes more than the code before, and may: what form a summary has, and what no run names of the
# options that are new. A value that is not the default stays in the config with where it is from, and counts. Whom a
# method credits is no setting.
_FORM = ("version", "kind")
_CREDIT = "paper: "
_NEW_OPTIONS = ("options: {}  # default", "metrics: []  # default", "teacher: null  # default")


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """What a safetensors file says of its tensors, and their bytes; the format needs no library."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header, content[8 + length :]


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors."""
    found: dict[str, str] = read_header(path)[0].get("__metadata__", {})
    return found


def state_hash(path: Path) -> str:
    """SHA-256 over name, shape, dtype and bytes of every tensor of a safetensors file, by name.

    The order in which the file holds them, and what it says beside them, do not count.
    """
    header, content = read_header(path)
    total = hashlib.sha256()
    for name in sorted(key for key in header if key != "__metadata__"):
        tensor = header[name]
        start, end = tensor["data_offsets"]
        total.update(json.dumps([name, tensor["shape"], tensor["dtype"]]).encode())
        total.update(content[start:end])
    return total.hexdigest()


def accuracies(node: Any, path: str = "") -> Iterator[tuple[str, float | None]]:
    """Every accuracy of a summary by its dotted path."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            where = f"{path}.{key}" if path else str(key)
            if "accuracy" in str(key) and not isinstance(value, Mapping | list):
                yield where, value
            else:
                yield from accuracies(value, where)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from accuracies(value, f"{path}.{place}")


def file_hash(path: Path) -> str:
    """A checksum of what a file of a run says, times and what the code before did not write aside."""
    text = path.read_text()
    if path.name == "summary.json":
        said = {key: value for key, value in json.loads(text).items() if key not in _FORM}
        text = json.dumps(without_passing(said), sort_keys=True)
    elif path.name == "config.yaml":
        lines = (line for line in text.splitlines() if not line.strip().startswith(_CREDIT))
        text = "\n".join(line for line in lines if line.strip() not in _NEW_OPTIONS)
    elif path.suffix == ".json":
        text = json.dumps(without_passing(json.loads(text)), sort_keys=True)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(without_passing(json.loads(line)), sort_keys=True) for line in text.splitlines()]
        text = "\n".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()


def whole(parts: Mapping[str, str]) -> str:
    """One checksum of many, each under its name."""
    return hashlib.sha256(json.dumps(sorted(parts.items())).encode()).hexdigest()


def weight_files(runs: Path) -> dict[str, Path]:
    """Every safetensors file below a folder but those of checkpoints, by its path there."""
    found = sorted(runs.rglob("*.safetensors"))
    return {str(path.relative_to(runs)): path for path in found if "checkpoints" not in path.parts}


def outcome(runs: Path) -> Cell:
    """What all runs below a folder have led to.

    Returns:
        ``weights``: path -> checksum of its tensors. ``accuracies``: run folder -> those of its summary.
        ``files``: name -> one checksum over all files of that name (losses of every epoch, what was right on each
        image, the exemplars, the whole summary, the config), and over what the weight files say beside their tensors.
    """
    weights = weight_files(runs)
    summaries = [path for path in sorted(runs.rglob("summary.json")) if "steps" not in path.parts]
    files: dict[str, dict[str, str]] = {}
    for pattern in _READ:
        for path in sorted(runs.rglob(pattern)):
            if path.name not in _NOT_READ and "checkpoints" not in path.parts:
                files.setdefault(path.name, {})[str(path.relative_to(runs))] = file_hash(path)
    said = {name: json.dumps(metadata(path), sort_keys=True) for name, path in weights.items()}
    return {
        "weights": {name: state_hash(path) for name, path in weights.items()},
        "accuracies": {
            str(path.parent.relative_to(runs)): dict(accuracies(json.loads(path.read_text())))
            for path in summaries
        },
        "files": {name: whole(parts)[:16] for name, parts in sorted(files.items())}
        | {"beside the tensors": whole(said)[:16]},
    }


def metrics_lines(runs: Path, method: str) -> dict[str, list[str]]:
    """The lines of every ``metrics.jsonl`` of a method's runs below a folder, by path."""
    found = sorted(runs.rglob("metrics.jsonl"))
    own = [path for path in found if any(part.startswith(f"{method}-") for part in path.parts)]
    return {str(path.relative_to(runs)): path.read_text().splitlines() for path in own}


def kept(interrupted: Mapping[str, list[str]], continued: Mapping[str, list[str]]) -> bool:
    """Whether a continued run still has every line of before, with its times: it did not start anew."""
    return all(continued.get(name, [])[: len(lines)] == lines for name, lines in interrupted.items())


def fresh(folder: Path) -> Path:
    """An empty folder."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
