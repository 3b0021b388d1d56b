"""Position embeddings of weights that were trained on images of another size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gkd.storage.weight_sets import WeightFile, WeightSets


def with_positions_for(network: nn.Module, name: str, file: WeightFile) -> tuple[WeightFile, bool]:
    """A file's weights with the positions of a library's transformer resampled, by that library, to the network's.

    Args:
        network: made for the size of its images.
        name: the network's name.
        file: what was read of one.

    Returns:
        What was read, unchanged where its positions are as many or of another kind; and whether it was changed.
    """
    key, resample = _POSITIONS[name.partition("/")[0]]
    module: Any = getattr(network, "module", network)
    ours = network.state_dict().get(key)
    if ours is None:
        return file, False
    sets: WeightSets = {}
    changed = False
    for place, tensors in file.sets.items():
        found = [each for each in tensors if each == key or each.endswith(f".{key}")]
        sets[place] = dict(tensors)
        for each in found:
            theirs = tensors[each]
            if (
                theirs.dim() == ours.dim()
                and theirs.shape[-1] == ours.shape[-1]
                and theirs.shape != ours.shape
            ):
                sets[place][each] = resample(theirs.float(), module)
                changed = True
    return replace(file, sets=sets), changed


def _by_timm(positions: Tensor, module: Any) -> Tensor:
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if getattr(module, "no_embed_class", False) else int(getattr(module, "num_prefix_tokens", 0))
    resampled: Tensor = resample_abs_pos_embed(
        positions, list(module.patch_embed.grid_size), num_prefix_tokens=prefix
    )
    return resampled


def _by_torchvision(positions: Tensor, module: Any) -> Tensor:
    from torchvision.models.vision_transformer import interpolate_embeddings

    key = _POSITIONS["torchvision"][0]
    resampled: Tensor = interpolate_embeddings(module.image_size, module.patch_size, {key: positions})[key]
    return resampled


def _by_open_clip(positions: Tensor, module: Any) -> Tensor:
    from open_clip.model import resize_pos_embed

    key = _POSITIONS["open_clip"][0]
    state = {key: positions}
    resize_pos_embed(state, module)
    return state[key]


# Library -> the name of its transformers' position embeddings, and what resamples them.
_POSITIONS: dict[str, tuple[str, Callable[[Tensor, Any], Tensor]]] = {
    "timm": ("pos_embed", _by_timm),
    "torchvision": ("encoder.pos_embedding", _by_torchvision),
    "open_clip": ("visual.positional_embedding", _by_open_clip),
}
