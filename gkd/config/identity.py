"""The identity of a run: a hash of everything in the experiment that decides the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from gkd.config.schema import Experiment
from gkd.data import DATASETS, LAYOUTS, fingerprint
from gkd.methods.method import Method
from gkd.problems.task import students_teach
from gkd.storage.weights import sha256

# Keys that change where or how fast a run goes, not what comes out.
NO_EFFECT = (
    "compare",
    "evaluate.batch_size",
    "evaluate.metrics",
    "data.download",
    "teacher.data.download",
    "data.workers",
    "teacher.data.workers",
    "teacher.expect",
    "run.device",
    "run.threads",
    "run.out",
    "run.checkpoint_seconds",
    "run.log_seconds",
    "run.cache_gb",
    "run.allow_changed",
    "method.paper",
    "method.summary",
    "method.sources",
)


_ELSEWHERE = ("optimiser", "run.seed")  # merged into the method's stages; a folder below the identity


def identity_of(experiment: Experiment) -> str:
    """Ten hex digits over all that decides the result, except the seed.

    Keys at their default are left out, so that a later version's new knob renames no old run. Of images
    and weight files the content counts, not where they are: by the fingerprint or checksum in the
    config, or by that of what is there.
    """
    content = experiment.model_dump(mode="json", exclude_defaults=True)
    content["task"]["name"] = experiment.task.name
    for stage, term, options in terms_with_defaults(experiment.method):
        shown = content["method"]["stages"][stage]["terms"][term]
        for option, default in options.items():
            if shown.get(option) == default:
                del shown[option]
    for key in (*NO_EFFECT, *_ELSEWHERE):
        _remove(content, key)
    # The student alone is the same run beside any teacher, but one that grows out of the teacher.
    if not experiment.method.needs_teacher and not students_teach(experiment.task.name):
        content.pop("teacher", None)
    for key in ("data", "teacher.data"):
        _name_images(_get(content, key) or {})
    for key in ("teacher", "student"):
        _name_weights(_get(content, key) or {})
    canonical = json.dumps(_without_empty(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def terms_with_defaults(method: Method) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Stage name, term name and the loss's default options, for every term of the method."""
    for stage_name, stage in method.stages.items():
        for term_name, term in stage.terms.items():
            yield stage_name, term_name, term.entry.options


def _name_images(section: dict[str, Any]) -> None:
    """Replace the path of images by their fingerprint, or by its last part where there are none."""
    if "root" not in section or section["name"] not in DATASETS:  # what a factory finds there is not known
        return
    root = Path(section.pop("root"))
    if section["name"] in LAYOUTS and "fingerprint" not in section:  # torchvision checks its own files
        section["fingerprint"] = images_fingerprint(root, section["name"]) if root.exists() else root.name


def _name_weights(section: dict[str, Any]) -> None:
    """Replace the path of a weight file by its checksum, or by its name where there is no such file."""
    pinned = section.pop("sha256", None)
    if "checkpoint" in section:
        path = Path(section["checkpoint"])
        section["checkpoint"] = pinned or (_sha256(path) if path.is_file() else path.name)


def images_fingerprint(root: Path, name: str) -> str:
    """``gkd.data.fingerprint``, remembered until ``forget_files``."""
    return _fingerprint(root, name)


_fingerprint = lru_cache(maxsize=8)(fingerprint)


_sha256 = lru_cache(maxsize=8)(sha256)


def forget_files() -> None:
    """Forget fingerprints and checksums, because image folders and weight files may have changed."""
    _fingerprint.cache_clear()
    _sha256.cache_clear()


def _without_empty(node: Any) -> Any:
    """A mapping without empty mappings: a section that says nothing is the same as none."""
    if not isinstance(node, Mapping):
        return node
    inner = {key: _without_empty(value) for key, value in node.items()}
    return {key: value for key, value in inner.items() if value != {}}


def _get(content: Mapping[str, Any], dotted: str) -> Any:
    node: Any = content
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _remove(content: dict[str, Any], dotted: str) -> None:
    *parents, last = dotted.split(".")
    node = _get(content, ".".join(parents)) if parents else content
    if isinstance(node, dict):
        node.pop(last, None)
