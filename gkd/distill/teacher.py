"""Teacher: a network with its label space, frozen by construction."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.class_vectors import ClassVectors
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace, unnamed_classes
from gkd.core.network import Features, as_network
from gkd.data.augment.normalise import normalise, per_channel
from gkd.distill.chunks import Chunks, joined
from gkd.storage.weights import state_hash


class Teacher(nn.Module):
    """A network that cannot change: eval mode for good, no gradient, no optimiser.

    ``teacher(images)`` takes pixels and normalises them; ``teacher.features(images)`` takes images that are normalised
    already, as a `Batch` carries them, in a loop of one's own ``Batch(..., view=teacher.normalised(pixels))``.

    Args:
        network: a trained gkd network (or a ``TappedNetwork``).
        space: its classes, in the order of its columns; None gives them names that no other data has.
        mean, std: per-channel statistics of the input it was trained on, in [0, 1] pixel units; None: it takes
            images normalised as the student's are.
        built_as: how the network was built and tapped, as far as its weights do not determine it.
        statistics_from: where mean and std are from, for messages.
        names: vectors of class names in its embedding, for terms with ``centres: names``.

    Raises:
        UserError: a module that is no gkd network, one with another number of classes, or a mean without a std.
    """

    def __init__(
        self,
        network: nn.Module,
        space: LabelSpace | None = None,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        built_as: str = "",
        statistics_from: str = "",
        names: ClassVectors | None = None,
    ) -> None:
        super().__init__()
        self.network: Any = as_network(network)
        columns: int = self.network.num_classes
        space = unnamed_classes(columns) if space is None else space
        if columns != len(space):
            raise UserError(
                f"The teacher network has {columns} classes, but its label space has {len(space)}; "
                "give the classes it was trained on.",
                code="other-classes",
            )
        if (mean is None) != (std is None):
            raise UserError(
                "A teacher's mean and std go together; give both, or neither.", code="mean-without-std"
            )
        self.space = space
        self.mean = mean
        self.std = std
        self.built_as = built_as
        self.statistics_from = statistics_from
        self.names = names
        self._chunks = Chunks()
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        """Do nothing: the teacher stays in eval mode when a parent module changes its own."""
        return self

    def state_hash(self) -> str:
        """SHA-256 over all parameters and buffers; equal before and after training."""
        return state_hash(self.network)

    def outputs_key(self) -> str:
        """A cache key for the outputs: the weights' hash, the normalisation and how the network was built."""
        return f"{self.state_hash()} {self.mean} {self.std} {self.built_as}"

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels under the teacher's own mean and std; unchanged where it has none.

        Args:
            pixels: ``[B, C, H, W]``, uint8 or floats in [0, 1].

        Raises:
            UserError: floats far outside [0, 1], which are normalised already.
        """
        if self.mean is None or self.std is None:
            return pixels
        if pixels.dtype == torch.uint8:
            return normalise(pixels, self.mean, self.std)
        if not torch.compiler.is_compiling() and pixels.numel():
            low, high = (float(end) for end in pixels.aminmax())
            if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
                raise UserError(
                    f"The teacher has a mean and std of its own and takes pixels in [0, 1], which it normalises; these "
                    f"go from {low:.3g} to {high:.3g}. Give pixels, or call teacher.features(images) with images that "
                    "are normalised for it already.",
                    code="normalised-already",
                )
        mean, std = (per_channel(values, pixels.device).to(pixels.dtype) for values in (self.mean, self.std))
        return (pixels - mean) / std

    # no_grad, not inference_mode: losses save teacher outputs for the student's backward pass.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits of pixels ``[B, C, H, W]``, which `normalised` puts under the teacher's own mean and std."""
        logits = [self.network(part) for part in self._chunks.split(self.normalised(images), self.network)]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    @torch.no_grad()
    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """``images`` must already carry the teacher's own normalisation (``Batch.teacher_images``).

        A batch that does not fit into the free memory goes through in parts.

        Args:
            images: ``[B, C, H, W]``.
            preact: give the maps before their last activation, too.
        """
        run = partial(self.network.features, preact=True) if preact else self.network.features
        return joined([run(part) for part in self._chunks.split(images, run)])


_OVERSHOOT = 0.25  # of pixels resized by a cubic rule
