"""Merge the layers of an experiment key by key, and copy settings for all stages of the method into each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gkd.config.method_files import method_name
from gkd.core.errors import UserError
from gkd.losses.registry import imported_loss
from gkd.methods.mixup import Mixup, without_mixup
from gkd.models import takes_option
from gkd.models.pretrained import describe
from gkd.storage.preprocessing import Interpolation

BEFORE: Literal["as before"] = "as before"


@dataclass(frozen=True)
class Layer:
    """One source of an experiment's values.

    Attributes:
        kind: a file that ``extends`` names, the ``experiment`` file, the ``training`` of a teacher, an ``override``, or
            what gkd itself adds (``as found``, and ``as before`` of a key that a run's version did not know).
        content: the sections that it sets.
        words: the name of the file that is extended, or the override as it was written.
    """

    kind: Literal["extends", "experiment", "training", "override", "as found", "as before"]
    content: Mapping[str, Any]
    words: str = ""

    @property
    def label(self) -> str:
        """How the origin of a value is shown: ``override run.seed=1``."""
        return f"{self.kind} {self.words}".rstrip()


@dataclass(frozen=True)
class ChosenMethod:
    """The method of an experiment.

    Attributes:
        name: as the layers name it: a name, or the path of a file.
        content: its file's keys; no stage where a layer states the method whole.
    """

    name: str
    content: Mapping[str, Any]

    @property
    def short_name(self) -> str:
        """Its name in folders and tables: a file's stem."""
        return method_name(self.name)


def is_whole(method: Mapping[str, Any]) -> bool:
    """Whether a ``method`` section states a method of its own, as a run's config.yaml does, rather than changes one."""
    return {"paper", "summary", "stages"} <= method.keys()


def about_method(layers: Sequence[Layer], chosen: ChosenMethod) -> Iterator[tuple[Layer, dict[str, Any]]]:
    """Each layer with its settings of the chosen method; none where they are for another.

    Raises:
        UserError: an override of another method.
    """
    named = (layer.content["method"]["name"] for layer in layers if "name" in layer.content["method"])
    current = next(named, chosen.name)
    for layer in layers:
        method = dict(layer.content["method"])
        current = method.get("name", current)
        if current != chosen.name and method.keys() - {"name"}:
            if layer.kind == "override":
                raise UserError(
                    f"The {layer.label} speaks of the method {current!r}, but the method here is {chosen.name!r}; "
                    "write it after method=NAME, or, in a grid, into the 'set' of a row of compare.methods.",
                    code="override-of-another-method",
                )
            method = {}  # a file's settings for its own method do not carry over to another
        if "name" in method:
            method["name"] = method_name(str(method["name"]))
        yield layer, method


def merge(
    target: dict[str, Any], layer: Mapping[str, Any], label: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Merge mappings key by key; anything else replaces."""
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            merge(target[key], value, label, origins, f"{dotted}.")
        else:
            target[key] = value
            origins[dotted] = label


def set_dotted(content: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for part in parents:
        content = content.setdefault(part, {})
    content[last] = value


def forget_other_networks(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Drop options and taps that lower layers set for a network which this layer replaces by another."""
    pairs = [(merged, layer, side) for side in ("student", "teacher")]
    below, above = merged.get("teachers"), layer.get("teachers")
    if isinstance(below, dict) and isinstance(above, Mapping):
        pairs += [(below, above, name) for name in above]
    students = [
        layer["student"] if isinstance(layer.get("student"), dict) else {} for layer in (merged, layer)
    ]
    pairs.append((*students, "peer"))
    for lower, upper, side in pairs:
        old, new = lower.get(side), upper.get(side)
        named = new.get("network") if isinstance(new, Mapping) else None
        if isinstance(old, dict) and named not in (None, old.get("network")):
            lower[side] = {key: value for key, value in old.items() if key not in ("options", "taps")}


def forget_other_task(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Drop the options that lower layers set for a task which this layer replaces by another."""
    below, above = merged.get("task"), layer.get("task")
    named = above.get("name") if isinstance(above, Mapping) else None
    if isinstance(below, dict) and named not in (None, below.get("name")):
        del merged["task"]


def spread(merged: dict[str, Any], stage: str, optimiser: Mapping[str, Any], origins: dict[str, str]) -> None:
    """Copy keys of the ``optimiser`` section into a stage, each with its origin."""
    for key, value in optimiser.items():
        content = {"method": {"stages": {stage: {"optimiser": {key: value}}}}}
        merge(merged, content, origins.get(f"optimiser.{key}", "default"), origins)


def mix_every_stage(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Give every term ``samples: virtual`` where ``data.augment`` ends in mixup and the term sets no samples."""
    data, stages = merged.get("data"), merged["method"].get("stages")
    augment = data.get("augment") if isinstance(data, Mapping) else None
    if not isinstance(augment, str) or not isinstance(stages, Mapping):
        return  # the schema refuses it
    try:
        without, mixup = without_mixup(augment)
    except UserError:
        return
    if mixup is None:
        return
    for name, stage in stages.items():
        terms = stage.get("terms") if isinstance(stage, Mapping) else None
        if not isinstance(terms, Mapping):
            continue
        mixed = stage.get("mixup")
        if mixed is not None and {**Mixup().model_dump(), **mixed} != mixup.model_dump():
            raise UserError(
                f"The stage {name!r} of the method mixes images in its own way ({mixed}), and data.augment={augment} "
                f"in another; drop one of them, as in data.augment={without}.",
                code="mixup-twice",
            )
        unset = [term for term, keys in terms.items() if "samples" not in (keys or {})]
        virtual = {term: {"samples": "virtual"} for term in unset}
        content = {"mixup": mixup.model_dump(exclude_unset=True), "terms": virtual}
        label = origins.get("data.augment", "default")
        merge(merged, {"method": {"stages": {name: content}}}, label, origins)


def give_network_options(merged: dict[str, Any], origins: dict[str, str], *, teacher: bool) -> None:
    """Give the student the options in ``method.network`` that no layer sets and its network takes.

    Args:
        teacher: gives them to the teacher too, out of which the student grows, where it is the same network and has
            no checkpoint.
    """
    method, student = merged["method"], merged.get("student")
    wanted, label = method.get("network"), f"method {method['name']}"
    if not isinstance(wanted, Mapping) or not isinstance(student, dict):
        return
    sides = {"student": student}
    taught = merged.get("teacher")
    if teacher and isinstance(taught, dict) and taught.get("network") == student.get("network"):
        sides |= {} if taught.get("checkpoint") else {"teacher": taught}
    for side, section in sides.items():
        for option, value in wanted.items():
            options = section.get("options") or {}
            try:
                has = isinstance(options, Mapping) and takes_option(str(section.get("network")), option)
            except UserError:
                return  # the schema refuses the network
            if has and option not in options:
                merge(merged, {side: {"options": {option: value}}}, label, origins)


def place_teacher_view(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Move ``teacher.image_size`` and ``teacher.interpolation`` to the teacher's view of the data, where they belong.

    Where nothing is stated, a teacher of its library's weights sees images of the size and by the interpolation that
    the library states.

    Raises:
        UserError: another value stands there.
    """
    teacher, data = merged.get("teacher"), merged.get("data")
    if not isinstance(data, dict):
        return
    _view_of_named_teachers(merged, origins)
    if not isinstance(teacher, dict):
        return
    for key, code in (("image_size", "image-size-twice"), ("interpolation", "interpolation-twice")):
        value, view = teacher.get(key), data.get("teacher_view")
        stated = view.get(key) if isinstance(view, Mapping) else None
        if value is None:
            continue
        if stated not in (None, value):
            raise UserError(
                f"teacher.{key} is {value} and data.teacher_view.{key} {stated}: both are what the teacher sees; "
                "drop one of them.",
                code=code,
            )
        del teacher[key]
        label = origins.pop(f"teacher.{key}", "default")
        merge(merged, {"data": {"teacher_view": {key: value}}}, label, origins)
    _take_the_librarys_view(merged, origins, "data.teacher_view", teacher)


def _view_of_named_teachers(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Give named teachers of their library's weights what the library states, likewise, in their own sections."""
    teachers = merged.get("teachers")
    for name, section in teachers.items() if isinstance(teachers, dict) else ():
        if isinstance(section, Mapping):
            _take_the_librarys_view(merged, origins, f"teachers.{name}", section)


def _take_the_librarys_view(
    merged: dict[str, Any], origins: dict[str, str], where: str, section: Mapping[str, Any]
) -> None:
    """The size and the interpolation that a library states of a teacher's weights, where nothing else is stated.

    ``where`` is the dotted key of the section that gets them.
    """
    view = merged["data"].get("teacher_view")
    stated = {key: section.get(key) for key in ("image_size", "interpolation")}
    for key, value in (view if isinstance(view, Mapping) else {}).items():
        stated[key] = value if stated.get(key) is None else stated[key]
    which = section.get("pretrained")
    if not which:
        return
    try:
        description = describe(str(section.get("network")), which)
    except UserError:
        return  # the schema refuses it
    of_library: dict[str, Any] = {"image_size": description.image_size}
    if description.interpolation in get_args(Interpolation):
        of_library["interpolation"] = description.interpolation
    content: dict[str, Any] = {}
    for key, value in of_library.items():
        if stated.get(key) is None:
            set_dotted(content, f"{where}.{key}", value)
    merge(merged, content, f"the library, of {description}", origins)


def give_librarys_options(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Give a side of its library's weights the network options without which they are another function."""
    teachers = merged.get("teachers")
    named = (
        {f"teachers.{name}": each for name, each in teachers.items()} if isinstance(teachers, dict) else {}
    )
    for side, section in ({key: merged.get(key) for key in ("teacher", "student")} | named).items():
        if not isinstance(section, dict) or not section.get("pretrained"):
            continue
        try:
            description = describe(str(section.get("network")), section["pretrained"])
        except UserError:
            continue  # the schema refuses it
        options = section.get("options") or {}
        if not isinstance(options, Mapping):
            continue  # the schema refuses it
        missing = {key: value for key, value in description.options.items() if key not in options}
        if missing:
            content: dict[str, Any] = {}
            set_dotted(content, f"{side}.options", missing)
            merge(merged, content, f"the library, of {description}", origins)


def spelled_out(method: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's method with ``spots: adaptive`` as ``spots: {policy: adaptive}``, so that layers merge key by key."""

    def spelled(section: Any) -> Any:
        if isinstance(section, Mapping) and isinstance(section.get("spots"), str):
            return {**section, "spots": {"policy": section["spots"]}}
        return section

    content: dict[str, Any] = dict(spelled(method))
    if isinstance(content.get("stages"), Mapping):
        content["stages"] = {name: spelled(stage) for name, stage in content["stages"].items()}
    return content


class Spots:
    """``method.spots``, applied to every stage; a stage's ``spots`` of the same layer or a later one override it."""

    def __init__(self) -> None:
        self.shared: list[tuple[str, Mapping[str, Any]]] = []  # label of the layer, its method.spots
        self.stages_with_spots: set[str] = set()  # those with a section ``spots`` of their own

    def say(self, label: str, method: dict[str, Any]) -> None:
        """Move ``spots`` out of a layer's method, and note which stages have a section of their own."""
        spots = method.pop("spots", {})
        if not isinstance(spots, Mapping):
            raise UserError(
                f"method.spots={spots!r} is no policy such as adaptive, nor a section of its keys.",
                code="not-a-policy",
            )
        if spots:
            self.shared.append((label, spots))
        stages = method.get("stages")
        if isinstance(stages, Mapping):
            self.stages_with_spots |= {
                name for name, stage in stages.items() if isinstance(stage, Mapping) and "spots" in stage
            }

    def reach(
        self, merged: dict[str, Any], stage: str, origins: dict[str, str], only: str | None = None
    ) -> None:
        """Write the ``method.spots`` of all layers into a stage, or those of the layer ``only``."""
        for label, spots in self.shared:
            if only in (None, label):
                merge(merged, {"method": {"stages": {stage: {"spots": spots}}}}, label, origins)

    def settle(self, merged: dict[str, Any], origins: dict[str, str]) -> None:
        """Drop ``method.spots`` from stages without a term that reads a teacher, and keys that the policy ignores.

        Raises:
            UserError: no stage has such a term.
        """
        stages = merged["method"].get("stages")
        if not isinstance(stages, Mapping):
            return  # the schema refuses it
        routed = []
        for name, stage in stages.items():
            spots = stage.get("spots") if isinstance(stage, Mapping) else None
            if not isinstance(spots, Mapping):
                continue
            if name not in self.stages_with_spots and not _learns_from_teacher(stage):
                self._drop(stage, "spots", f"method.stages.{name}", origins)
                continue
            routed.append(name)
            if spots.get("policy") in ("always", "random"):
                for key in spots.keys() - {"policy"}:
                    self._drop(stage["spots"], key, f"method.stages.{name}.spots", origins)
        meant = {key: value for _, spots in self.shared for key, value in spots.items()}
        if meant.get("policy", "always") != "always" and not routed:
            raise UserError(
                "method.spots says where to distil, but no stage of "
                f"{merged['method']['name']!r} trains a student by a term that reads a teacher; drop method.spots.",
                code="needs-teacher-term",
            )

    @staticmethod
    def _drop(section: dict[str, Any], key: str, where: str, origins: dict[str, str]) -> None:
        del section[key]
        for dotted in [dotted for dotted in origins if f"{dotted}.".startswith(f"{where}.{key}.")]:
            del origins[dotted]


def _learns_from_teacher(stage: Mapping[str, Any]) -> bool:
    """Whether a stage that is not validated yet trains the student by a term that reads a teacher."""
    terms = stage.get("terms")
    if stage.get("train") in (["adapters"], ("adapters",)) or not isinstance(terms, Mapping):
        return False
    names = [keys.get("loss", name) if isinstance(keys, Mapping) else name for name, keys in terms.items()]
    # A third party's loss is not imported here, before trust is checked; it counts as one that reads a teacher.
    entries = [imported_loss(name) for name in names]
    return any(entry is None or entry.needs_teacher for entry in entries)
