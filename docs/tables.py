"""Tables that the code writes: losses, affinity combinations, methods, data sets, networks, every key of a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from benchmark_table import benchmarks
from reference import configuration

from gkd.config.shipped import shipped_methods, shipped_weights
from gkd.data import DATASETS, LAYOUTS
from gkd.data.augment.chain import augmentation_summaries
from gkd.losses import LOSSES, Loss, affinity_refusal
from gkd.losses.affinity import Affinity, Distance, Normalisation
from gkd.methods.method import Method
from gkd.models import (
    NETWORKS,
    Conv4,
    MobileNet,
    ResNet12,
    build_network,
    count_parameters,
    network_options,
    network_summaries,
)

ROOT = Path(__file__).parent.parent


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _source(loss: Loss) -> str:
    """The name of what is called, as a link to its file."""
    file = inspect.getsourcefile(loss.module or inspect.unwrap(loss.function))
    assert file is not None
    return f"[`{loss.public_name}`](../{Path(file).relative_to(ROOT).as_posix()})"


def _says(loss: Loss) -> str:
    """What the docstring's first line says after the name of the idea."""
    line = (inspect.getdoc(loss.function) or "").splitlines()[0].rstrip(".")
    return line.partition(": ")[2] or line


def losses() -> str:
    """Every loss: what it is called with, its options, and the weight that a method file gives it."""
    weights, rows = shipped_weights(), []
    for name, loss in LOSSES.items():
        weight, method = weights.get(name, (None, None))
        shared = "shared classes" if "teacher_logits" in loss.needs else "any"
        options = ", ".join(f"`{option}={default}`" for option, default in loss.options.items()) or "–"
        shown = f"{weight:g} in [`{method}`](../configs/methods/{method}.yaml)" if method else "–"
        needs = ", ".join(loss.needs)
        rows.append([f"`{name}`", _source(loss), _says(loss), needs, shared, options, shown, loss.paper])
    head = [
        "name in a method",
        "function",
        "what it asks of the student",
        "reads",
        "classes",
        "options",
        "weight",
        "paper",
    ]
    return _table(head, rows)


def affinities() -> str:
    """For each affinity and normalisation the distances that are defined."""
    rows = []
    for affinity in get_args(Affinity):
        cells = []
        for normalisation in get_args(Normalisation):
            valid = [d for d in get_args(Distance) if affinity_refusal(affinity, normalisation, d) is None]
            odd = [
                d
                for d in get_args(Distance)
                if affinity_refusal(affinity, normalisation, d, degree=3) is None
            ]
            text = "all five" if len(valid) == len(get_args(Distance)) else ", ".join(valid) or "–"
            cells.append(text + (" (even degree)" if odd != valid else ""))
        rows.append([f"`{affinity}`", *cells])
    return _table(["affinity", *(f"`{name}`" for name in get_args(Normalisation))], rows)


def methods() -> str:
    """Every method: its paper, and the functions of its stages with their weights."""
    rows = [
        [f"[`{name}`](../configs/methods/{name}.yaml)", _stages(method), method.paper]
        for name, method in shipped_methods().items()
    ]
    return _table(["method", "stages", "paper"], rows)


def datasets() -> str:
    """Every data set: its name, how it comes, and what it is; of DTD's ten folds the first."""
    rows = []
    for name, reader in DATASETS.items():
        if not name.startswith("dtd_"):
            line = (inspect.getdoc(reader) or "").splitlines()[0]
            rows.append([f"`{name}`", "image files" if name in LAYOUTS else "arrays", line])
    return _table(["`data.name`", "comes as", "what it is"], rows)


def _stages(method: Method) -> str:
    texts = []
    for name, stage in method.stages.items():
        terms = [
            f"{term.shown_weight} · `{term.entry.public_name}`"
            + " (auxiliary head)" * (term.head == "auxiliary")
            for term in stage.terms.values()
        ]
        routed = "" if stage.spots.policy == "always" else f", spots: {stage.spots.policy}"
        texts.append(f"{name}: " + " + ".join(terms) + routed)
    return "; ".join(texts)


# what the features are shown for, where it is not the CIFAR benchmark's 32 pixels
_IMAGE_SIZES: dict[type, int] = {Conv4: 84, ResNet12: 84, MobileNet: 224}


def networks() -> str:
    """Every network by name: its size, its features, the smallest image, and its options."""
    rows = []
    for name, factory in NETWORKS.items():
        size = _IMAGE_SIZES.get(factory.func, 32)
        with torch.device("meta"):  # shapes only
            network = build_network(name, num_classes=100)
            features = network.features(torch.empty(2, 3, size, size))  # type: ignore[operator]
        file = inspect.getsourcefile(factory.func)
        assert file is not None
        options = ", ".join(f"`{option}={default}`" for option, default in network_options(factory).items())
        maps = ", ".join(f"{m.shape[1]}×{m.shape[2]}²" for m in features.maps)
        rows.append(
            [
                f"`{name}`",
                f"[`{factory.func.__name__}`](../{Path(file).relative_to(ROOT).as_posix()})",
                f"{count_parameters(network):,}",
                f"{size}²: {maps}",
                str(network.embedding_dim),
                str(network.min_image_size),
                options or "–",
                network_summaries()[name].rpartition("(")[2].rstrip(")."),
            ]
        )
    head = ["name", "class", "parameters", "maps", "embedding", "smallest image", "options", "paper"]
    return _table(head, rows)


def augmentations() -> str:
    """Every name that a chain of augmentations may hold."""
    rows = [[f"`{name}`", about] for name, about in augmentation_summaries().items()]
    return _table(["name", "what it does, and its options with their defaults"], rows)


GENERATED: dict[str, Callable[[], str]] = {
    "losses": losses,
    "affinities": affinities,
    "configuration": configuration,
    "methods": methods,
    "datasets": datasets,
    "augmentations": augmentations,
    "networks": networks,
    "benchmarks": benchmarks,
}
