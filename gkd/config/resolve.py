"""Layers of an experiment, merged and validated, with the origin of each value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError, create_model

from gkd.config.identity import identity_of, images_fingerprint, terms_with_defaults
from gkd.config.layers import (
    Spots,
    forget_other_networks,
    give_network_options,
    merge,
    mix_every_stage,
    set_dotted,
    spelled_out,
    spread,
)
from gkd.config.mistakes import sentences
from gkd.config.schema import Data, Experiment
from gkd.config.shipped import method_content
from gkd.config.trust import check_trust
from gkd.config.yaml_files import parse_yaml
from gkd.core.errors import UserError, unknown
from gkd.data import LAYOUTS
from gkd.problems.task import TASKS, students_teach

_OVERRIDE = "override "  # what the label of a layer from the command line begins with


@dataclass(frozen=True)
class Resolved:
    """A validated experiment, its name, and where each value came from.

    Attributes:
        name: the config's name, such as ``quickstart`` or ``cross_task/tiny_imagenet_100``.
        experiment: the validated sections.
        layers: the raw layers that were merged, lowest first: (label, mapping).
        origins: dotted key -> label of the layer that set it; a key that is missing has its default.
        trusted: the modules that may be imported (``gkd.config.trust``); None where every layer is the user's own.
    """

    name: str
    experiment: Experiment
    layers: tuple[tuple[str, dict[str, Any]], ...]
    origins: dict[str, str] = field(default_factory=dict)
    trusted: frozenset[str] | None = None

    @property
    def overrides(self) -> list[str]:
        """The ``a.b=c`` of the command line or of a grid's cell, in their order."""
        labels = (label for label, _ in self.layers)
        return [label.removeprefix(_OVERRIDE) for label in labels if label.startswith(_OVERRIDE)]

    @property
    def identity(self) -> str:
        """Ten hex digits over all that decides the result, except the seed (:mod:`gkd.config.identity`)."""
        return identity_of(self.experiment)

    def with_overrides(self, overrides: Sequence[str]) -> Resolved:
        """The same config under further ``a.b=c`` overrides, which win over the earlier ones."""
        return resolve(self.name, [*self.layers, *override_layers(overrides)], self.trusted)

    def without_overrides(self) -> Resolved:
        """The config as its files state it."""
        files = [layer for layer in self.layers if not layer[0].startswith(_OVERRIDE)]
        return resolve(self.name, files, self.trusted)

    def with_images_named(self) -> Resolved:
        """The same config with the fingerprint of each set of image files, so that others there are noticed."""
        found: dict[str, Any] = {}
        for key, data in (("data", self.experiment.data), ("teacher.data", _teacher_data(self.experiment))):
            if data is not None and data.name in LAYOUTS and data.root is not None and data.root.exists():
                known = data.fingerprint or images_fingerprint(data.root, data.name)
                set_dotted(found, f"{key}.fingerprint", known)
        return resolve(self.name, [*self.layers, ("as found", found)], self.trusted) if found else self

    def annotated_yaml(self) -> str:
        """The resolved config as YAML, each value followed by the layer that set it."""
        content = _plain(self.experiment)
        origins = self.origins

        def lines(node: Mapping[str, Any], prefix: str, indent: int) -> Iterator[str]:
            for key, value in node.items():
                dotted = f"{prefix}{key}"
                pad = "  " * indent
                shown = _one_line(key)  # a class called 0 is not the number
                if isinstance(value, Mapping) and value:
                    yield f"{pad}{shown}:"
                    yield from lines(value, f"{dotted}.", indent + 1)
                else:
                    text = _one_line(value)
                    source = self.experiment.method.sources.get(dotted.removeprefix("method."))
                    origin = origins.get(dotted, "default")
                    if source and origin.startswith("method "):
                        origin = f"{origin}: {source}"
                    yield f"{pad}{shown}: {text}  # {origin}"

        return "\n".join(lines(content, "", 0)) + "\n"


def _one_line(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def override_layers(overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Each ``a.b=c`` as a layer: its label, and the sections that it sets."""
    layers = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-/]+)*", key):
            raise UserError(f"The override {override!r} is not of the form a.b=c, such as run.seed=1.")
        content: dict[str, Any] = {}
        if not value.strip():
            raise UserError(f"The override {override!r} has no value; write {key}=null to unset the key.")
        parsed = parse_yaml(value, f"The override {override!r}")
        set_dotted(content, key, parsed)
        layers.append((f"{_OVERRIDE}{override}", content))
    return layers


def resolve(
    name: str, layers: Sequence[tuple[str, dict[str, Any]]], trusted: frozenset[str] | None = None
) -> Resolved:
    """Merges layers, lowest first, and validates; optimiser keys reach every stage in layer order."""
    normal = []
    for label, content in layers:
        if isinstance(content.get("method"), str):
            content = {**content, "method": {"name": content["method"]}}
        if not isinstance(content.get("method", {}), Mapping) or not isinstance(
            content.get("optimiser", {}), Mapping
        ):
            raise UserError(f"{name}: method is a name or a section, optimiser a section of keys such as lr.")
        normal.append((label, content))
    method_name = next(
        (c["method"]["name"] for _, c in reversed(normal) if "name" in c.get("method", {})), None
    )
    if method_name is None:
        if any(c.get("method") for _, c in normal):
            raise UserError(f"{name}: method.name is missing; name the method that the section changes.")
        raise UserError(f"{name}: the experiment names no method; add a line such as 'method: refilled'.")
    method = spelled_out(method_content(str(method_name)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    merge(merged, {"method": method}, f"method {method_name}", origins)
    merged["method"]["name"] = method_name
    stages = list(method["stages"])
    routing = Spots()
    current = next((c["method"]["name"] for _, c in normal if "name" in c.get("method", {})), method_name)
    for label, content in normal:
        content = dict(content)
        layer_method = spelled_out(content.pop("method", {}))
        current = layer_method.get("name", current)
        if current != method_name and layer_method.keys() - {"name"}:
            if label.startswith(_OVERRIDE):
                raise UserError(
                    f"The {label} speaks of the method {current!r}, but the method here is {method_name!r}; write it "
                    "after method=NAME, or, in a grid, into the 'set' of a row of compare.methods."
                )
            layer_method = {}  # a file's settings for its own method do not carry over to another
        routing.say(label, layer_method)
        forget_other_networks(merged, content)
        merge(merged, content, label, origins)
        named = layer_method.get("stages")
        added = [stage for stage in named if stage not in stages] if isinstance(named, Mapping) else []
        for stage in stages:
            spread(merged, stage, content.get("optimiser", {}), origins)
            routing.reach(merged, stage, origins, label)
        for stage in added:
            routing.reach(merged, stage, origins)
            spread(merged, stage, merged.get("optimiser", {}), origins)
        stages += added
        if layer_method:
            merge(merged, {"method": layer_method}, label, origins)
    mix_every_stage(merged, origins)
    task = merged.get("task")
    named = task.get("name") if isinstance(task, Mapping) else None
    give_network_options(
        merged, origins, teacher=isinstance(named, str) and named in TASKS and students_teach(named)
    )
    routing.settle(merged, origins)
    check_trust(merged, trusted)
    model = _experiment_model(merged.get("task"), name)
    try:
        experiment = model.model_validate(merged)
    except ValidationError as error:
        raise UserError(sentences(error, model, name, origins)) from None
    if experiment.run.epochs is not None:
        experiment.method.epochs(experiment.run.epochs)
    return Resolved(name, experiment, tuple(layers), origins, trusted)


def _experiment_model(task: Any, name: str) -> type[Experiment]:
    """The experiment schema with the options of the task that the file names."""
    if isinstance(task, str):
        raise UserError(f"{name}: task is a section; write 'task: {{name: {task}}}'.")
    task_name = task.get("name") if isinstance(task, Mapping) else None
    if task_name is None:
        raise UserError(f"{name}: task.name is missing; allowed: {', '.join(sorted(TASKS))}.")
    if not isinstance(task_name, str) or task_name not in TASKS:
        raise UserError(f"{name}: task.name: {unknown('task', str(task_name), TASKS)}")
    options = TASKS[task_name].load().Options
    return create_model("Experiment", __base__=Experiment, task=(options, ...))


def _teacher_data(experiment: Experiment) -> Data | None:
    return experiment.teacher.data if experiment.teacher else None


def _plain(experiment: Experiment) -> dict[str, Any]:
    content = experiment.model_dump(mode="json")
    content["task"] = experiment.task.model_dump(mode="json")
    for stage, term, options in terms_with_defaults(experiment.method):
        # A loss's own defaults are part of what ran, so the resolved file shows them.
        shown = content["method"]["stages"][stage]["terms"][term]
        shown.update({option: shown.get(option, default) for option, default in options.items()})
    return {key: value for key, value in content.items() if value is not None}
