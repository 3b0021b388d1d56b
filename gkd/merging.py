"""Layers of an experiment merged key by key, and what is said once for every stage of the method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gkd.errors import UserError
from gkd.mixup import Mixup, without_mixup


def merge(
    target: dict[str, Any], layer: Mapping[str, Any], label: str, origins: dict[str, str], prefix: str = ""
) -> None:
    """Merges mappings key by key; anything else replaces."""
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
    """What lower layers say of a network's options and taps does not carry over to another network."""
    for side in ("student", "teacher"):
        below, above = merged.get(side), layer.get(side)
        named = above.get("network") if isinstance(above, Mapping) else None
        if isinstance(below, dict) and named not in (None, below.get("network")):
            merged[side] = {key: value for key, value in below.items() if key not in ("options", "taps")}


def spread(merged: dict[str, Any], stage: str, optimiser: Mapping[str, Any], origins: dict[str, str]) -> None:
    """Writes keys of the ``optimiser`` section into a stage, as set by the layer that set them there."""
    for key, value in optimiser.items():
        content = {"method": {"stages": {stage: {"optimiser": {key: value}}}}}
        merge(merged, content, origins.get(f"optimiser.{key}", "default"), origins)


def mix_every_stage(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Makes every term one on virtual samples where ``data.augment`` ends in mixup and the method says nothing."""
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
        own = stage.get("mixup")
        if own is not None and {**Mixup().model_dump(), **own} != mixup.model_dump():
            raise UserError(
                f"The stage {name!r} of the method mixes images in its own way ({own}), and data.augment={augment} in "
                f"another; drop one of them, as in data.augment={without}."
            )
        unsaid = [term for term, keys in terms.items() if "samples" not in (keys or {})]
        virtual = {term: {"samples": "virtual"} for term in unsaid}
        content = {"mixup": mixup.model_dump(exclude_unset=True), "terms": virtual}
        label = origins.get("data.augment", "default")
        merge(merged, {"method": {"stages": {name: content}}}, label, origins)


def route_every_stage(merged: dict[str, Any], origins: dict[str, str]) -> None:
    """Writes what ``method.spots`` says, and a stage does not, into every stage that trains the student."""
    method = merged["method"]
    stages = method.get("stages")
    if not isinstance(stages, Mapping):
        return
    _spell_out(method, "method", origins)
    spots = method.pop("spots", {})
    if not isinstance(spots, Mapping):
        raise UserError(f"method.spots={spots!r} is no policy such as adaptive, nor a section of its keys.")
    for name, stage in stages.items():
        if not isinstance(stage, dict) or stage.get("train") == ["adapters"]:
            continue
        where = f"method.stages.{name}"
        _spell_out(stage, where, origins)
        own = stage.get("spots", {})
        if not isinstance(own, Mapping) or own.get("policy") == "always":
            continue
        for key in spots.keys() - own.keys():
            stage.setdefault("spots", {})[key] = spots[key]
            origins[f"{where}.spots.{key}"] = origins[f"method.spots.{key}"]


def _spell_out(section: dict[str, Any], where: str, origins: dict[str, str]) -> None:
    """``spots: adaptive`` as ``spots: {policy: adaptive}``, with its origin."""
    if isinstance(section.get("spots"), str):
        section["spots"] = {"policy": section["spots"]}
        origins[f"{where}.spots.policy"] = origins.pop(f"{where}.spots", "default")
