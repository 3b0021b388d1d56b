"""Teacher: a network with its label space, frozen by construction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.network import Features, as_network
from gkd.storage.weights import state_hash


class Teacher(nn.Module):
    """Wraps a network so that it cannot change: eval mode for good, no gradient, no optimiser.

    Args:
        network: a trained gkd network (or a ``TappedNetwork``).
        space: its classes, in the order of its columns.
        mean, std: per-channel statistics of the input it was trained on, in [0, 1] pixel units.
        built_as: how the network was built and tapped, where its weights do not tell.

    Raises:
        UserError: a module that is no gkd network, or one with another number of classes.
    """

    def __init__(
        self,
        network: nn.Module,
        space: LabelSpace,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        built_as: str = "",
    ) -> None:
        super().__init__()
        network = as_network(network)
        if network.num_classes != len(space):
            raise UserError(
                f"The teacher network has {network.num_classes} classes, but its label space has {len(space)}; "
                "give the classes it was trained on."
            )
        self.network: Any = network
        self.space = space
        self.mean = mean
        self.std = std
        self.built_as = built_as
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode whatever a parent module asks for."""
        return self

    def state_hash(self) -> str:
        """SHA-256 over all parameters and buffers; equal before and after training."""
        return state_hash(self.network)

    def outputs_key(self) -> str:
        """Names all that decides the outputs for an image, so that they can be kept."""
        return f"{self.state_hash()} {self.mean} {self.std} {self.built_as}"

    # no_grad, not inference_mode: losses save teacher outputs for the student's backward pass.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """``images`` must already carry the teacher's own normalisation (``Batch.teacher_images``)."""
        features: Features = self.network.features(images)
        return features
