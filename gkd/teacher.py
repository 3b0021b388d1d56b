"""Teacher: a network with its label space, frozen by construction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd.checkpoint import state_hash
from gkd.errors import UserError
from gkd.features import Features, Network
from gkd.labels import LabelSpace


class Teacher(nn.Module):
    """Wraps a network so that it cannot change: eval mode for good, no gradient, no optimiser.

    Args:
        network: a trained gkd network (or a ``TappedNetwork``).
        space: its classes, in the order of its columns.
        mean, std: per-channel statistics of the input it was trained on, in [0, 1] pixel units.

    Raises:
        UserError: the network has another number of classes than the space.
    """

    def __init__(
        self, network: nn.Module, space: LabelSpace, *, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        assert isinstance(network, Network)
        if network.num_classes != len(space):
            raise UserError(
                f"The teacher network has {network.num_classes} classes, but its label space has {len(space)}; "
                "give the classes it was trained on."
            )
        self.network = network
        self.space = space
        self.mean = mean
        self.std = std
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode whatever a parent module asks for."""
        return self

    @property
    def embedding_dim(self) -> int:
        return self.network.embedding_dim

    def state_hash(self) -> str:
        """SHA-256 over all parameters and buffers; equal before and after training."""
        return state_hash(self.network)

    # no_grad, not inference_mode: losses save teacher outputs for the student's backward pass.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """``images`` must already carry the teacher's own normalisation (``Batch.teacher_images``)."""
        return self.network.features(images)
