"""Tap a network's modules, by default those of its family in torchvision or timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from gkd.core.errors import UserError
from gkd.core.network import Network
from gkd.core.tapped import Tap, TappedNetwork
from gkd.models.layers import parts

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
# The stem, where its output is a separate map, and the stage ends; the first row that a network has counts.
_STAGES = (
    ("relu", *_LAYERS),  # ResNet, ResNeXt, Wide ResNet
    _LAYERS,
    ("layer1", "layer2", "layer3"),
    (
        "stem",
        "trunk_output.block1",
        "trunk_output.block2",
        "trunk_output.block3",
        "trunk_output.block4",
    ),  # RegNet
    ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"),  # MaxViT
    ("conv1", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNetV2
    ("features.relu0", *(f"features.denseblock{i}" for i in (1, 2, 3, 4))),  # DenseNet
    ("inception3b", "inception4e", "inception5b"),  # GoogLeNet
    ("Mixed_5d", "Mixed_6e", "Mixed_7c"),  # Inception
)
# Class -> the modules that its forward calls one after the other, the head last.
_CHAINS = {
    "torchvision.models.resnet.ResNet": ("conv1", "bn1", "relu", "maxpool", *_LAYERS, "avgpool", "fc"),
    "timm.models.resnet.ResNet": ("conv1", "bn1", "act1", "maxpool", *_LAYERS, "global_pool", "fc"),
}
_DEPTHS = 4  # how many blocks of equal width are tapped


def tapped(module: nn.Module, *, name: str, num_classes: int, taps: Mapping[str, Any] | None = None) -> Any:
    """A gkd network unchanged where no taps are given, any other module tapped.

    Args:
        module: maps images ``[B, C, H, W]`` to logits ``[B, num_classes]``.
        name: the network's name in the config, for errors.
        num_classes: C; the head is by default the last linear layer with C outputs.
        taps: ``maps`` (paths, or mappings with the fields of ``Tap``), ``head``, ``embedding`` and ``stages`` (lists of
            paths); the default is that of the network's family, for maps and stages perhaps none.

    Raises:
        UserError: a wrong path, or no head to be found.
    """
    taps = {key: value for key, value in (taps or {}).items() if value is not None}
    network: Any = module
    if taps or not isinstance(module, Network):
        head = taps["head"] if "head" in taps else _head(module, name, num_classes)
        maps = [_tap(entry) for entry in taps["maps"]] if "maps" in taps else default_maps(module)
        embedding = _tap(taps["embedding"]) if "embedding" in taps else None
        stages = taps.get("stages")
        if stages is None:
            stages = () if embedding else default_stages(module, [tap.path for tap in maps], head)
        network = TappedNetwork(
            module, head=head, maps=maps, embedding=embedding, stages=stages, lenient="maps" not in taps
        )
    if network.num_classes != num_classes:
        raise UserError(
            f"The network {name!r} has {network.num_classes} outputs for {num_classes} classes; its factory must give "
            "it num_classes of them, and taps.head, where it is given, must name the last nn.Linear.",
            code="other-classes",
        )
    return network


def tap(
    module: nn.Module,
    *,
    head: str | None = None,
    maps: Sequence[str | Tap] | None = None,
    embedding: str | Tap | None = None,
    stages: Sequence[Sequence[str]] | None = None,
) -> TappedNetwork:
    """Any module from images to logits as a gkd network, which also gives an embedding and maps.

    Args:
        module: maps images ``[B, C, H, W]`` to logits; its state dict is unchanged.
        head: path of the last linear layer; None takes the last one.
        maps: the modules whose outputs are activation maps, shallow to deep; None takes those of the network's family
            (torchvision, timm), which may be none.
        embedding: the module whose output is the embedding; None is the input of the head.
        stages: the modules to call from the images to each map and on to the embedding, for spot-adaptive routing.

    Raises:
        UserError: a wrong path, or no linear layer to take as the head.
    """
    linear = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)]
    path = head or (linear[-1] if linear else None)
    if path is None:
        raise UserError(
            f"The {type(module).__name__} has no nn.Linear to take as its head; name the last layer: "
            "tap(network, head='classifier.1').",
            code="no-head",
        )
    taps = (
        default_maps(module)
        if maps is None
        else [entry if isinstance(entry, Tap) else Tap(entry) for entry in maps]
    )
    if stages is None:
        stages = () if embedding else default_stages(module, [entry.path for entry in taps], path)
    return TappedNetwork(
        module, head=path, maps=taps, embedding=embedding, stages=stages, lenient=maps is None
    )


def default_maps(module: nn.Module) -> list[Tap]:
    """The taps of a family, shallow to deep; none where the family is not known.

    Stage ends where the resolution changes, with the stem where it has a map of its own; four depths of a
    transformer of one width, whose tokens become maps.
    """
    paths = dict(module.named_modules())
    for part in ("visual", "trunk"):  # of an open_clip tower, and of one of timm's in it
        if isinstance(paths.get(part), nn.Module) and type(module).__name__ in ("ImageTower", "TimmModel"):
            return [replace(tap, path=f"{part}.{tap.path}") for tap in default_maps(paths[part])]
    for taps in (_by_timm(module), _of_transformer(module)):
        if taps and all(tap.path in paths for tap in taps):
            return taps
    for stages in _STAGES:
        if all(path in paths for path in stages):
            return [Tap(path) for path in stages]
    for name in ("features", "layers"):
        if isinstance(paths.get(name), nn.Sequential):
            return [Tap(f"{name}.{number}") for number in _stage_ends(paths[name])]
    return []


def default_stages(module: nn.Module, maps: Sequence[str], head: str) -> list[Sequence[str]]:
    """The modules that lead to each map and on to the head; none where the class is not in ``_CHAINS``.

    Args:
        module: the network.
        maps: paths of the maps, shallow to deep.
        head: path of the head.
    """
    chain = _CHAINS.get(f"{type(module).__module__}.{type(module).__qualname__}", ())
    ends = [chain.index(path) if path in chain else -1 for path in (*maps, head)]
    # timm's drop_rate is a function between pooling and head, which no list of modules holds
    drops = bool(getattr(module, "drop_rate", 0))
    if drops or -1 in ends or ends != sorted(set(ends)):
        return []
    return parts(chain, [*ends[:-1], ends[-1] - 1])  # the head itself is no part of its stage


def _by_timm(module: nn.Module) -> list[Tap]:
    """The modules that timm itself reads features from."""
    info = getattr(module, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, Sequence) or not all(
        isinstance(e, Mapping) and "module" in e for e in entries
    ):
        return []
    # An entry without a module is read by a rule of timm's own.
    entries = [entry for entry in entries if entry["module"]]
    channels = {str(entry["module"]): entry.get("num_chs") for entry in entries}
    paths = [str(entry["module"]) for entry in entries]
    if len(channels) < len(paths):
        return []  # several features of one module, which a hook cannot tell apart
    # One prefix token or none is read off the number of tokens: a class token may join after the tapped blocks.
    prefix = getattr(module, "num_prefix_tokens", 0)
    layout: Any = "nhwc" if getattr(module, "output_fmt", None) == "NHWC" else None
    if len({(entry.get("num_chs"), entry.get("reduction")) for entry in entries}) == 1:
        paths = _depths(paths)
    return [Tap(path, layout, prefix if prefix > 1 else None, channels[path]) for path in paths]


def _of_transformer(module: nn.Module) -> list[Tap]:
    """torchvision's ViT and open_clip's, which have one class token; torchvision's Swin, of stages between patches."""
    kind = type(module).__name__
    if kind == "VisionTransformer" and hasattr(module, "encoder"):
        blocks = [
            f"encoder.layers.{name}" for name, _ in module.get_submodule("encoder.layers").named_children()
        ]
        return [Tap(path, "tokens", 1) for path in _depths(blocks)]
    if kind == "VisionTransformer" and hasattr(module, "transformer"):  # open_clip's
        inner = "transformer.resblocks"
        blocks = [f"{inner}.{name}" for name, _ in module.get_submodule(inner).named_children()]
        return [Tap(path, "tokens", 1) for path in _depths(blocks)]
    if kind == "SwinTransformer" and hasattr(module, "features"):
        count = len(list(module.get_submodule("features").children()))
        return [Tap(f"features.{number}", "nhwc") for number in range(1, count, 2)]
    return []


def _depths(paths: Sequence[str]) -> list[str]:
    """The ends of the quarters of a list of equal blocks; all of four or fewer."""
    count = min(_DEPTHS, len(paths))
    return [paths[(number + 1) * len(paths) // count - 1] for number in range(count)]


def _stage_ends(sequence: nn.Module) -> list[int]:
    """Positions before a stride in a sequence (VGG, MobileNet, EfficientNet, ConvNeXt), and the last one."""
    strides = [any(_halves(part) for part in child.modules()) for child in sequence.children()]
    following = [*strides[1:], not strides[-1] if strides else False]
    return [number for number, ends in enumerate(following) if ends]


def _halves(part: nn.Module) -> bool:
    stride = getattr(part, "stride", 1)
    return max(stride if isinstance(stride, tuple) else (stride,)) > 1


def _head(module: nn.Module, name: str, num_classes: int) -> str:
    """The path of the last linear layer with one output per class."""
    linear = [
        path
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == num_classes
    ]
    if not linear:
        raise UserError(
            f"The network {name!r} has no nn.Linear with {num_classes} outputs to take as its head; name the head "
            "with taps.head (student.taps or teacher.taps), or take another network.",
            code="no-head",
        )
    return linear[-1]


def _tap(entry: Any) -> Tap:
    return Tap(**entry) if isinstance(entry, Mapping) else Tap(str(entry))
