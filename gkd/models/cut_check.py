"""Check that the stages declared for a network lead to the outputs of its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import as_network
from gkd.core.tapped import TappedNetwork, network_name
from gkd.core.user_code import told
from gkd.models.head_check import with_drawn_vectors

_TOLERANCE = 1e-4  # of the largest value


@torch.no_grad()
def check_stages(network: nn.Module, image_shape: Sequence[int]) -> None:
    """Refuse stages with other outputs than ``features`` on one random image ``[C, H, W]`` in eval mode.

    Neither the network nor the global generator is touched.

    Raises:
        UserError: a stage that fails, or whose map or embedding is not that of ``features``; logits that are not those
            of the embedding.
    """
    generator = torch.Generator().manual_seed(0)
    twin: Any = with_drawn_vectors(network, generator)
    like = next(network.parameters())
    images = torch.randn(1, *image_shape, generator=generator).to(like)
    features = as_network(twin).features(images)
    chain = (*twin.stages(), twin.head)
    outputs: list[Any] = [images]
    try:
        for part in chain:
            outputs.append(part(outputs[-1]))
    except Exception as error:  # any error of a module on another module's output
        outputs.append(error)
    # Compared when all have run, to notice a stage that overwrites its input in place.
    wanted = (*features.maps, features.embedding, features.logits)
    for number, (output, expected) in enumerate(zip(outputs[1:], wanted, strict=False)):
        difference = _difference(output, expected)
        if difference:
            raise UserError(f"{_stage_name(twin, number)} {difference}.", code="wrong-stages")


def _stage_name(network: Any, number: int) -> str:
    """The subject of an error about the stage of a number; the number after the last stage is the head."""
    if not isinstance(network, TappedNetwork):
        return f"Stage {number} of the {network_name(network)}"
    if number == len(network.stage_paths):
        return f"The head {network.head_path!r}, called with the embedding in which taps.stages end,"
    modules = ", ".join(network.stage_paths[number])
    ends = [*(f"the map {tap.path!r}" for tap in network.maps), "the embedding"]
    return f"taps.stages[{number}] of the {network_name(network)}, [{modules}], should lead to {ends[number]} and"


def _difference(output: Any, wanted: Tensor) -> str:
    """How a stage's output differs from the wanted one, as the end of a sentence; empty where it does not."""
    advice = (
        "name all modules that a forward pass calls from one map to the next, and to the head, in their order"
    )
    if isinstance(output, Exception):
        return f"fails ({told(output).rstrip('.')}); {advice}"
    shape = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if wanted.dim() == 4 and (not isinstance(output, Tensor) or output.dim() != 4):
        return f"gives {shape}, where only a map [B, C, H, W] can be cut; tap other maps or drop taps.stages"
    if shape != list(wanted.shape):
        return f"gives {shape} instead of {list(wanted.shape)}; {advice}"
    if (output - wanted).abs().max() > _TOLERANCE * wanted.abs().max():
        return (
            f"gives other values than an uncut pass; {advice}, and cut where no function stands between them"
        )
    return ""
