"""Image towers of open_clip's networks: built without the text tower, with a head over the projected features."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.user_code import told
from gkd.storage.weight_sets import WeightFile

PREFIX = "open_clip/"
TOWER = "visual."  # before the names of an image tower's weights, in open_clip's files and here


class ImageTower(nn.Module):
    """A CLIP's image tower under a linear head; the head's input, and so the embedding, is the projected features.

    The names in its state dict are those of the whole CLIP, ``visual.…``, beside the head's.

    Args:
        visual: open_clip's tower, from images ``[B, 3, H, W]`` to features ``[B, D]``.
        dim: D, of the space that it shares with the text tower.
        num_classes: columns of the head.
    """

    def __init__(self, visual: nn.Module, dim: int, num_classes: int) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]``."""
        features = self.visual(images)
        # CoCa's tower gives its tokens too.
        logits: Tensor = self.head(features[0] if isinstance(features, tuple) else features)
        return logits


def open_clip(name: str) -> ModuleType:
    """The package, for a network's name; a UserError where it is not installed."""
    try:
        import open_clip as module
    except ImportError:
        raise UserError(
            f"The network {name!r} needs open_clip: pip install 'gkd-torch[clip]'", code="package-missing"
        ) from None
    package: ModuleType = module
    return package


def check_clip_name(name: str) -> None:
    """Refuse a name that open_clip does not have."""
    names = open_clip(name).list_models()
    if name.removeprefix(PREFIX) not in names:
        raise unknown_in_library(name, names, "open_clip.list_models()")


def unknown_in_library(name: str, names: Sequence[str], where: str) -> UserError:
    """A library's network that there is not, with the closest names; all of them would be too many.

    Args:
        name: ``LIBRARY/NAME``.
        names: those that the library has.
        where: where it lists them.
    """
    library, _, network = name.partition("/")
    close = difflib.get_close_matches(network, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return UserError(
        f"Unknown network {name!r}.{hint} Allowed: {library}/ and a name of {where}.", code="unknown-network"
    )


def clip_config(name: str) -> dict[str, Any]:
    """open_clip's own configuration of a network, such as ``embed_dim`` and ``vision_cfg``."""
    config: dict[str, Any] = open_clip(name).get_model_config(name.removeprefix(PREFIX))
    return copy.deepcopy(config)


def build_image_tower(
    name: str, *, num_classes: int, image_size: int | None = None, quick_gelu: bool | None = None
) -> ImageTower:
    """An image tower with random weights.

    Args:
        name: ``open_clip/NAME``.
        num_classes: columns of the head.
        image_size: side of the images in pixels; None takes the network's own.
        quick_gelu: with the activation of OpenAI's weights; None as the network's name says.
    """
    # No public function builds a tower alone, and a text tower may need other packages and files.
    from open_clip.model import _build_vision_tower

    config = clip_config(name)
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if image_size is not None:
        vision["image_size"] = image_size
    gelu = bool(config.get("quick_gelu", False)) if quick_gelu is None else quick_gelu
    return ImageTower(
        _build_vision_tower(config["embed_dim"], vision, gelu), config["embed_dim"], num_classes
    )


def whole_clip(name: str, weights: str, options: Mapping[str, Any]) -> Any:
    """A CLIP with both towers and the weights of a set or a file, in eval mode.

    Args:
        name: ``open_clip/NAME``.
        weights: the tag of a set, or the path of a file of both towers.
        options: ``image_size`` and ``quick_gelu``, as of ``build_image_tower``.
    """
    package, config = open_clip(name), clip_config(name)
    more = {} if "timm_model_name" not in config["vision_cfg"] else {"pretrained_image": False}
    model = package.create_model(
        name.removeprefix(PREFIX),
        pretrained=weights,
        require_pretrained=True,
        force_image_size=options.get("image_size"),
        force_quick_gelu=bool(options.get("quick_gelu", False)),
        pretrained_text=False,
        **more,
    )
    return model.eval()


def tower_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's part of a CLIP's state dict under ``visual.``; all of one that has no such part."""
    bare = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    own = {key: tensor for key, tensor in bare.items() if key.startswith((TOWER, "head."))}
    return own if any(key.startswith(TOWER) for key in own) else {TOWER + key: bare[key] for key in bare}


def of_image_tower(file: WeightFile) -> WeightFile:
    """What a file holds for an image tower: of a whole CLIP its part, of a tower alone all."""
    sets = {key: tower_weights(tensors) for key, tensors in file.sets.items()}
    return replace(file, sets=sets)


def clip_file(path: Path | str, name: str, options: Mapping[str, Any]) -> Any:
    """``whole_clip`` of a file.

    Raises:
        UserError: a file without the text tower, or of another network.
    """
    try:
        return whole_clip(name, str(path), options)
    except UserError:
        raise
    except Exception as error:  # of open_clip or torch: many kinds
        raise UserError(
            f"The file {path} gives no text tower of {name}: {told(error)} Give one of both towers, or the vectors of "
            "the class names in teacher.names=FILE.safetensors.",
            code="no-text-tower",
        ) from error
