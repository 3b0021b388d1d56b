"""Layers of an experiment, merged and validated, with the origin of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, create_model

from gkd.config.identity import (
    Identities,
    content_there,
    identities_of,
    terms_with_defaults,
    unlabelled_there,
)
from gkd.config.layers import (
    ChosenMethod,
    Layer,
    Spots,
    about_method,
    forget_other_networks,
    forget_other_task,
    give_librarys_options,
    give_network_options,
    is_whole,
    merge,
    mix_every_stage,
    place_teacher_view,
    set_dotted,
    spelled_out,
    spread,
)
from gkd.config.method_files import method_content, place_method_files
from gkd.config.mistakes import listed, number_mistakes, sentences
from gkd.config.overrides import split_override, why_no_override
from gkd.config.schema import Experiment
from gkd.config.teacher_sections import teacher_sections
from gkd.config.trust import check_trust
from gkd.config.yaml_files import parse_yaml
from gkd.core.errors import UserError, shown, unknown
from gkd.core.text import visible
from gkd.problems.task import TASKS, students_teach, task_class


@dataclass(frozen=True)
class Resolved:
    """A validated experiment, its name, and where each value came from.

    Attributes:
        name: the config's name, such as ``quickstart`` or ``cross_task/tiny_imagenet_100``.
        experiment: the validated sections.
        layers: the layers that were merged, lowest first.
        origins: dotted key -> label of the layer that set it; a key that is missing has its default.
        trusted: the modules that may be imported (``gkd.config.trust``); None where every layer is the user's own.
    """

    name: str
    experiment: Experiment
    layers: tuple[Layer, ...]
    origins: dict[str, str] = field(default_factory=dict)
    trusted: frozenset[str] | None = None

    @property
    def overrides(self) -> list[str]:
        """The ``a.b=c`` of the command line or of a grid's cell, in their order."""
        return [layer.words for layer in self.layers if layer.kind == "override"]

    @property
    def identity(self) -> str:
        """Ten hex digits over all that decides the result, except the seed (:mod:`gkd.config.identity`)."""
        return self.identities.identity

    @property
    def identities(self) -> Identities:
        """The run's identity, and the names under which earlier versions kept the same run."""
        return identities_of(self.experiment)

    def with_overrides(self, overrides: Sequence[str]) -> Resolved:
        """The same config under further ``a.b=c`` overrides, which win over the earlier ones."""
        return resolve(self.name, [*self.layers, *override_layers(overrides)], self.trusted)

    def without_overrides(self) -> Resolved:
        """The config as its files state it."""
        files = [layer for layer in self.layers if layer.kind != "override"]
        return resolve(self.name, files, self.trusted)

    def with_images_named(self) -> Resolved:
        """The same config with the fingerprint of each set of image files, so that other images are refused later."""
        content: dict[str, Any] = {}
        sections = teacher_sections(self.experiment)
        of_teachers = ((f"{key}.data", section.data) for key, section in sections.items())
        for key, data in (("data", self.experiment.data), *of_teachers):
            there = content_there(data) if data is not None else None
            if data is not None and there is not None:
                set_dotted(content, f"{key}.fingerprint", data.fingerprint or there.sha256)
        unlabelled = self.experiment.data.unlabelled
        there = unlabelled_there(self.experiment.data) if self.experiment.method.uses_unlabelled else None
        if unlabelled is not None and there is not None:
            set_dotted(content, "data.unlabelled.fingerprint", unlabelled.fingerprint or there.sha256)
        return (
            resolve(self.name, [*self.layers, Layer("as found", content)], self.trusted) if content else self
        )

    def annotated_yaml(self, *, differing: bool = False) -> str:
        """The resolved config as YAML, each value followed by the layer that set it.

        Args:
            differing: leaves out what is at its default, unless an override says so, and ``method.sources``, which
                stand beside the numbers that they are of.
        """
        content, shown = _plain(self.experiment), None
        if differing:
            overridden = (key for key, label in self.origins.items() if label.startswith("override "))
            shown = {"task.name", *_differing(self.experiment), *overridden}
        return "\n".join(self._lines(content, "", shown)) + "\n"

    def _lines(
        self, node: Mapping[str, Any], prefix: str, shown: set[str] | None, depth: int = 0
    ) -> Iterator[str]:
        """The lines of ``annotated_yaml`` below a dotted prefix, of the keys that are shown; None shows all."""
        pad = "  " * depth
        for key, value in node.items():
            dotted, name = f"{prefix}{key}", _one_line(key)  # a class called 0 is not the number
            if isinstance(value, Mapping) and value:
                below = list(self._lines(value, f"{dotted}.", shown, depth + 1))
                yield from [f"{pad}{name}:", *below] if below else []
            elif shown is None or dotted in shown:
                source = self.experiment.method.sources.get(dotted.removeprefix("method."))
                origin = self.origins.get(dotted, "default")
                if source and origin.startswith("method "):
                    origin = f"{origin}: {source}"
                yield f"{pad}{name}: {_one_line(value)}  # {visible(origin)}"


def _differing(experiment: Experiment) -> Iterator[str]:
    """The dotted keys of the values that are not at their defaults, but for the method's sources."""

    def keys(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in node.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, Mapping) and value:
                yield from keys(value, f"{dotted}.")
            else:
                yield dotted

    content = experiment.model_dump(mode="json", exclude_defaults=True, exclude={"method": {"sources"}})
    return keys(content, "")


class _OneLine(yaml.SafeDumper):
    """A text that plain YAML would write in several lines stands in double quotes, with escapes."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_OneLine.add_representer(str, _OneLine.represent_str)


def _one_line(value: Any) -> str:
    text = yaml.dump(value, Dumper=_OneLine, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def override_layers(overrides: Sequence[str]) -> list[Layer]:
    """Each ``a.b=c`` as a layer with the sections that it sets.

    Raises:
        UserError: another form, no value, or a value that is not YAML.
    """
    layers = []
    for override in overrides:
        parts = split_override(override)
        if parts is None:
            raise UserError(
                f"The override {shown(override)} is not of the form a.b=c, such as run.seed=1"
                f"{why_no_override(override)}.",
                code="override-form",
            )
        key, value = parts
        content: dict[str, Any] = {}
        if not value.strip():
            raise UserError(
                f"The override {shown(override)} has no value; write {key}=null to unset the key.",
                code="override-value-missing",
            )
        parsed = parse_yaml(value, f"The override {shown(override)}")
        if isinstance(parsed, str) and value.strip()[0] not in "\"'":
            parsed = value.strip()  # a # in a path begins no comment
        set_dotted(content, key, parsed)
        layers.append(Layer("override", place_method_files(content, Path()), override))
    return layers


def resolve(name: str, layers: Sequence[Layer], trusted: frozenset[str] | None = None) -> Resolved:
    """Merge layers, lowest first, and validate; optimiser keys reach every stage in layer order.

    Args:
        name: the config's name.
        layers: the files' and the overrides'.
        trusted: the modules that may be imported; None where every layer is the user's own.

    Raises:
        UserError: no method or an unknown one, a module that is not trusted, or what the schema refuses.
    """
    stated = [_with_method_section(layer, name) for layer in layers]
    merged, origins = _merged(stated, _chosen_method(stated, name))
    check_trust(merged, trusted)
    model = _experiment_model(merged.get("task"), name)
    try:
        experiment = model.model_validate(merged)
    except ValidationError as error:
        sentence = sentences(error, model, name, origins, number_mistakes(merged))
        raise UserError(sentence, code="invalid-config") from None
    # The texts 'inf' and 'nan' become numbers where the schema asks for one.
    vast = number_mistakes(merged) or number_mistakes(experiment.model_dump())
    if vast:
        raise UserError(listed(vast, name), code="invalid-config")
    if experiment.run.epochs is not None:
        experiment.method.epochs(experiment.run.epochs)
    return Resolved(name, experiment, tuple(layers), origins, trusted)


def _with_method_section(layer: Layer, name: str) -> Layer:
    """``method: kd`` as ``method: {name: kd}``, and ``spots: adaptive`` as a section."""
    method = layer.content.get("method", {})
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, Mapping) or not isinstance(layer.content.get("optimiser", {}), Mapping):
        raise UserError(
            f"{name}: method is a name or a section, optimiser a section of keys such as lr.",
            code="not-a-section",
        )
    return replace(layer, content={**layer.content, "method": spelled_out(method)})


def _chosen_method(layers: Sequence[Layer], name: str) -> ChosenMethod:
    """The method that the uppermost layer names: from its file, or as a layer states it whole.

    Where none is named it is ``auto``, and ``student`` without a teacher.
    """
    methods = [layer.content["method"] for layer in layers]
    chosen = next((str(method["name"]) for method in reversed(methods) if "name" in method), None)
    if chosen is None:
        if any(methods):
            raise UserError(
                f"{name}: method.name is missing; name the method that the section changes.",
                code="method-name-missing",
            )
        chosen = "auto" if _has_teacher(layers) else "student"
    if any(str(method.get("name")) == chosen and is_whole(method) for method in methods):
        return ChosenMethod(chosen, {"stages": {}})
    return ChosenMethod(chosen, spelled_out(method_content(chosen)))


def _has_teacher(layers: Sequence[Layer]) -> bool:
    """Whether the uppermost layers that speak of it give a teacher, or the task's students teach."""
    stated: dict[str, Any] = {}
    for layer in layers:
        stated |= {key: layer.content[key] for key in ("teacher", "teachers") if key in layer.content}
        task = layer.content.get("task")
        stated |= {"task": task} if isinstance(task, Mapping) and "name" in task else {}
    return bool(stated.get("teacher") or stated.get("teachers")) or _students_teach(stated.get("task"))


def _merged(layers: Sequence[Layer], chosen: ChosenMethod) -> tuple[dict[str, Any], dict[str, str]]:
    """The method and all layers in one mapping, and dotted key -> label of the layer that set it."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    merge(merged, {"method": chosen.content}, f"method {chosen.short_name}", origins)
    merged["method"]["name"] = chosen.short_name
    stages = list(chosen.content["stages"])
    spots = Spots()
    for layer, method in about_method(layers, chosen):
        content = {key: value for key, value in layer.content.items() if key != "method"}
        spots.say(layer.label, method)
        forget_other_networks(merged, content)
        forget_other_task(merged, content)
        merge(merged, content, layer.label, origins)
        for stage in stages:
            spread(merged, stage, content.get("optimiser", {}), origins)
            spots.reach(merged, stage, origins, layer.label)
        named = method.get("stages")
        added = [stage for stage in named if stage not in stages] if isinstance(named, Mapping) else []
        for stage in added:
            spots.reach(merged, stage, origins)
            spread(merged, stage, merged.get("optimiser", {}), origins)
        stages += added
        if method:
            merge(merged, {"method": method}, layer.label, origins)
    mix_every_stage(merged, origins)
    place_teacher_view(merged, origins)
    give_librarys_options(merged, origins)
    give_network_options(merged, origins, teacher=_students_teach(merged.get("task")))
    spots.settle(merged, origins)
    return merged, origins


def _students_teach(task: Any) -> bool:
    """Whether the students of the task that a section names teach the next ones; False where it names none."""
    name = task.get("name") if isinstance(task, Mapping) else None
    return isinstance(name, str) and name in TASKS and students_teach(name)


def _experiment_model(task: Any, name: str) -> type[Experiment]:
    """The experiment schema with the options of the task that the file names."""
    if isinstance(task, str):
        raise UserError(f"{name}: task is a section; write 'task: {{name: {task}}}'.", code="not-a-section")
    task_name = task.get("name") if isinstance(task, Mapping) else None
    if task_name is None:
        raise UserError(
            f"{name}: task.name is missing; allowed: {', '.join(sorted(TASKS))}.", code="task-name-missing"
        )
    if not isinstance(task_name, str) or task_name not in TASKS:
        raise UserError(f"{name}: task.name: {unknown('task', str(task_name), TASKS)}", code="unknown-task")
    options = task_class(task_name).Options
    return create_model("Experiment", __base__=Experiment, task=(options, ...))


def _plain(experiment: Experiment) -> dict[str, Any]:
    content = experiment.model_dump(mode="json")
    for stage, term, options in terms_with_defaults(experiment.method):
        # A loss's own defaults are part of what ran, so the resolved file shows them.
        shown = content["method"]["stages"][stage]["terms"][term]
        shown.update({option: shown.get(option, default) for option, default in options.items()})
    return {key: value for key, value in content.items() if value is not None}
