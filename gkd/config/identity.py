"""The identity of a run: a hash of everything in the experiment that decides the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gkd.config.data_section import Data
from gkd.config.generations import generations_of, of_generation
from gkd.config.peers import leave_out_unread_peer
from gkd.config.schema import Experiment, Side
from gkd.config.teacher_sections import named_teachers_read, teacher_sections
from gkd.config.trust import leaves
from gkd.core.errors import UserError
from gkd.core.module_source import forget_sources, source_of
from gkd.core.plugins import entry_point_table
from gkd.core.user_code import is_import_name
from gkd.data import DATASETS, LAYOUTS, Content, content_at
from gkd.data.read.content import CRC, SHA256
from gkd.data.read.layouts import UNLABELLED
from gkd.data.read.load import GROUP as DATASETS_GROUP
from gkd.losses.registry import GROUP as LOSSES_GROUP
from gkd.methods.method import Method
from gkd.methods.optimiser_names import GROUP as OPTIMISERS_GROUP
from gkd.models.external import GROUP as NETWORKS_GROUP
from gkd.models.pretrained import LABEL_SETS, describe
from gkd.problems.task import GROUP as TASKS_GROUP
from gkd.problems.task import students_teach, task_of
from gkd.storage.checksums import sha256
from gkd.storage.weight_metadata import TENSORS, weights_name
from gkd.storage.weights import read_weight_file

# Keys that change where or how fast a run goes, not what comes out.
NO_EFFECT = (
    "compare",
    "evaluate.batch_size",
    "evaluate.metrics",
    "data.download",
    "teacher.data.download",
    "data.follow_links",
    "teacher.data.follow_links",
    "data.workers",
    "teacher.data.workers",
    "teacher.expect",
    "run.device",
    "run.threads",
    "run.out",
    "run.checkpoint_seconds",
    "run.log_seconds",
    "run.cache_gb",
    "run.teacher_cache",
    "run.allow_changed",
    "method.paper",
    "method.summary",
    "method.sources",
)


_ELSEWHERE = ("optimiser", "run.seed")  # merged into the method's stages; a folder below the identity


# Where a section names code by the name of a plug-in, and the entry-point group that has it.
_PLUGINS = {"network": NETWORKS_GROUP, "loss": LOSSES_GROUP}
_PLUGIN_SECTIONS = {"task": TASKS_GROUP, "data": DATASETS_GROUP, "optimiser": OPTIMISERS_GROUP}


@dataclass(frozen=True)
class Identities:
    """The names of a run.

    Attributes:
        identity: ten hex digits over all that decides the result, except the seed.
        former: the names that earlier versions gave the same run, where its result is the same.
        sources: what a config names of code that is not gkd's -> what identifies that code.
        without_sources: the identity apart from that code.
        unturned: the name that earlier versions, which turned no photograph, gave this run; None where none is turned.
    """

    identity: str
    former: tuple[str, ...]
    sources: dict[str, str]
    without_sources: str
    unturned: str | None


def identities_of(experiment: Experiment) -> Identities:
    """The names of a run.

    Keys at their default are left out, so that a later version's new knob renames no old run. Of images
    and weight files the content counts, not where they are: by the fingerprint or checksum in the
    config, or by that of what is there. So does the source of modules that are not gkd's.
    """
    experiment = of_generation(experiment, generations_of(experiment))
    now, before = _content(experiment), _content(experiment, as_before=True)
    sources = dict(sorted(_sources(now)))
    identity = _hash({**now, "sources": sources})
    former = _hash(before)
    turned = any(
        data is not None and _get(now, key) is not None and _is_turned(data)
        for key, data in _data_sections(experiment).items()
    )
    others = any(
        _get(now, key) is not None and not _weights_as_before(side) for key, side in _sides(experiment)
    )
    same = not turned and not others and former != identity
    return Identities(identity, (former,) if same else (), sources, _hash(now), former if turned else None)


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(_without_empty(content), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _content(experiment: Experiment, *, as_before: bool = False) -> dict[str, Any]:
    """All that decides the result, but for the source of modules.

    Args:
        experiment: the run's.
        as_before: images by size and CRC-32 and not turned, and weights by the checksum of their file, as in versions
            that knew no other names for them.
    """
    content = experiment.model_dump(mode="json", exclude_defaults=True)
    content["task"]["name"] = experiment.task.name
    for stage, term, options in terms_with_defaults(experiment.method):
        shown = content["method"]["stages"][stage]["terms"][term]
        for option, default in options.items():
            if shown.get(option) == default:
                del shown[option]
    _say_what_unknown_rows_mean(content["method"]["stages"], experiment)
    of_named = [
        f"teachers.{name}.{key.removeprefix('teacher.')}"
        for name in experiment.teachers
        for key in NO_EFFECT
        if key.startswith("teacher.")
    ]
    for key in (*NO_EFFECT, *_ELSEWHERE, *of_named):
        _remove(content, key)
    if not _rounds_outputs(experiment):
        _remove(content, "run.teacher_cache_precision")
    if not experiment.method.reads_names:
        for key in teacher_sections(experiment):
            _remove(content, f"{key}.names")
    # The student alone is the same run beside any teacher, but one that grows out of the teacher.
    if not experiment.method.needs_teacher and not students_teach(experiment.task.name):
        content.pop("teacher", None)
    leave_out_unread_peer(content["student"], experiment)
    _name_teachers(content, experiment)
    _name_unlabelled(content["data"], experiment)
    for key, data in _data_sections(experiment).items():
        section = _get(content, key)
        if section is not None and data is not None:
            _name_images(section, data, as_before=as_before)
    for key, side in _sides(experiment):
        section = _get(content, key)
        if section is not None:
            _name_weights(section, side, as_before=as_before)
            if not as_before and "options" in section:
                section["options"] = _name_files(section["options"])
    return content


def _name_teachers(content: dict[str, Any], experiment: Experiment) -> None:
    """Leave out the named teachers that no term reads, and state the order of several, whose first is the default."""
    read = named_teachers_read(experiment)
    if not read:
        content.pop("teachers", None)
        return
    content["teachers"] = {name: content["teachers"][name] for name in read}
    if len(read) > 1:
        content["teachers_in_order"] = list(read)


def _say_what_unknown_rows_mean(stages: dict[str, Any], experiment: Experiment) -> None:
    """State ``unknown_rows: full`` where it changes a stage; ``published`` is what earlier versions did, unsaid."""
    sections = teacher_sections(experiment).values()
    own = (None, experiment.data)
    foreign = any(section.keeps_classes or section.data not in own for section in sections)
    left_out = task_of(experiment.task).leaves_out_rows(foreign=foreign)
    for name, stage in experiment.method.stages.items():
        stages[name].pop("unknown_rows", None)
        if left_out and stage.trades_labels and stage.unknown_rows == "full":
            stages[name]["unknown_rows"] = stage.unknown_rows


def _rounds_outputs(experiment: Experiment) -> bool:
    """Whether ``run.teacher_cache_precision`` may change the result; in bf16 a teacher gives no more digits."""
    kept = experiment.data.views is not None and experiment.method.needs_teacher
    return kept and experiment.run.precision != "bf16"


def terms_with_defaults(method: Method) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Stage name, term name and the loss's default options, for every term of the method."""
    for stage_name, stage in method.stages.items():
        for term_name, term in stage.terms.items():
            yield stage_name, term_name, term.entry.options


def _sides(experiment: Experiment) -> list[tuple[str, Side]]:
    return [*teacher_sections(experiment).items(), ("student", experiment.student)]


def _data_sections(experiment: Experiment) -> dict[str, Data | None]:
    of_teachers = {f"{key}.data": section.data for key, section in teacher_sections(experiment).items()}
    return {"data": experiment.data, **of_teachers}


# --- images ---------------------------------------------------------------------------------------------------------


def _name_images(section: dict[str, Any], data: Data, *, as_before: bool) -> None:
    """Replace the path of images by their fingerprint, or by its last part where there are none."""
    exif = section.pop("exif", "apply")
    if data.root is None or data.name not in DATASETS:  # what a factory finds there is not known
        return
    del section["root"]
    if data.name not in LAYOUTS:  # torchvision checks its own files
        return
    content = content_there(data)
    if data.fingerprint is not None:
        section["fingerprint"] = data.fingerprint.removeprefix(CRC)
    if as_before and content is not None:
        section["fingerprint"] = content.crc
    if "fingerprint" not in section:
        section["fingerprint"] = data.root.name if content is None else content.sha256
    by_content = section["fingerprint"].startswith(SHA256)
    if as_before or (content is not None and not content.turned):
        return  # either setting gives the same pixels
    # A name of the older kind is of runs that turned nothing; one of content says it where nothing is turned.
    if exif == "ignore" and by_content:
        section["exif"] = "ignore"
    elif exif == "apply" and content is not None and not by_content:
        section["exif"] = "apply"


def _name_unlabelled(section: dict[str, Any], experiment: Experiment) -> None:
    """Replace the path of images without labels by their fingerprint, where the method trains on them.

    ``section`` is the data section; a method that does not gives the same run with and without them.
    """
    unlabelled = section.pop("unlabelled", None)
    if unlabelled is None or not experiment.method.uses_unlabelled:
        return
    content = unlabelled_there(experiment.data)
    path = unlabelled.pop("root")
    if "fingerprint" not in unlabelled:
        unlabelled["fingerprint"] = Path(path).name if content is None else content.sha256
    if experiment.data.exif == "ignore" and (content is None or content.turned):
        unlabelled["exif"] = "ignore"  # where it changes pixels; that of the other images is told by theirs
    section["unlabelled"] = unlabelled


def unlabelled_there(data: Data) -> Content | None:
    """The content of a data section's images without labels, as of ``content_there``."""
    if data.unlabelled is None or not data.unlabelled.root.exists():
        return None
    return _content_at(data.unlabelled.root, UNLABELLED, data.follow_links)


def content_there(data: Data) -> Content | None:
    """The content of a data section's image files, remembered until ``forget_files``; None where there are none."""
    if data.name not in LAYOUTS or data.root is None or not data.root.exists():
        return None
    return _content_at(data.root, data.name, data.follow_links)


def _is_turned(data: Data) -> bool:
    content = content_there(data) if data.exif == "apply" else None
    return content is not None and content.turned > 0


@lru_cache(maxsize=8)
def _content_at(root: Path, name: str, follow_links: bool) -> Content:
    return content_at(root, name, follow_links=follow_links)


# --- weights --------------------------------------------------------------------------------------------------------


def _name_weights(section: dict[str, Any], side: Side, *, as_before: bool) -> None:
    """Replace the path of a weight file by what it holds, or by its name where there is no such file."""
    pinned = section.pop("sha256", None)
    if side.pretrained is not False:  # another version of a library may take others by default
        section["pretrained"] = describe(side.network, side.pretrained).weights
    names = section.get("names")
    if isinstance(names, str) and Path(names).expanduser().is_file():
        section["names"] = f"{SHA256}{_sha256(Path(names).expanduser())}"
    classes = section.get("classes")
    if isinstance(classes, str) and classes not in LABEL_SETS and Path(classes).expanduser().is_file():
        section["classes"] = f"{SHA256}{_sha256(Path(classes).expanduser())}"
    if side.checkpoint is None:
        return
    there = side.checkpoint.is_file()
    usual = _weights_as_before(side) if there else side.checkpoint_key is None
    name = side.checkpoint.name
    if pinned is not None:
        name = pinned.removeprefix(SHA256)
    elif there:
        name = _sha256(side.checkpoint) if as_before else _weights(side.checkpoint, side.checkpoint_key)[0]
    section["checkpoint"] = name
    # The name of tensors says which of a file's sets they are; that of the file does not.
    if usual or name.startswith(TENSORS):
        section.pop("checkpoint_key", None)
    else:
        section.setdefault("checkpoint_key", "averaged")


def _weights_as_before(side: Side) -> bool:
    """Whether earlier versions took the same of the sets of weights in a side's file; so too where there is no file."""
    path = side.checkpoint
    return path is None or not path.is_file() or _weights(path, side.checkpoint_key)[1]


@lru_cache(maxsize=8)
def _weights(path: Path, key: str | None) -> tuple[str, bool]:
    """The name of the chosen weights in a file, and whether earlier versions took the same of several."""
    try:
        file = read_weight_file(path)
        return weights_name(file, key), file.is_as_before(key)
    except UserError:  # which is said where the file is loaded
        return _sha256(path), True


_sha256 = lru_cache(maxsize=8)(sha256)


def _name_files(options: Any) -> Any:
    """Options whose values that name files are replaced by the files' checksums."""
    if isinstance(options, Mapping):
        return {key: _name_files(value) for key, value in options.items()}
    if isinstance(options, (list, tuple)):
        return [_name_files(value) for value in options]
    if isinstance(options, str) and ("/" in options or "." in options) and Path(options).is_file():
        return f"{SHA256}{_sha256(Path(options))}"
    return options


def forget_files() -> None:
    """Forget what files hold, because images, weights and modules may have changed."""
    _content_at.cache_clear()
    _weights.cache_clear()
    _sha256.cache_clear()
    forget_sources()


# --- code -----------------------------------------------------------------------------------------------------------


def _sources(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every ``pkg.module:name`` and plug-in that a run's content names, and what identifies its code."""
    for dotted, value in leaves(content):
        if not isinstance(value, str):
            continue
        module = value.partition(":")[0] if is_import_name(value) else _module_of_plugin(dotted, value)
        source = None if module is None else source_of(module)
        if source is not None:
            yield value, source


def _module_of_plugin(dotted: str, name: str) -> str | None:
    """The module behind the name of a plug-in under a config's key; None of any other name."""
    *above, last = dotted.split(".")
    group = _PLUGIN_SECTIONS.get(above[-1]) if last == "name" and above else _PLUGINS.get(last)
    points = entry_point_table(group).get(name) if group is not None else None
    return points[0].module if points else None


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
