"""What each loss reads, as a resnet32x4 teacher and a resnet8x4 student give it for images of 32x32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.network import Features
from gkd.losses import LOSSES, NEEDS

STUDENT, TEACHER = "resnet8x4", "resnet32x4"
# Both networks have the same widths; the embedding is the last map, pooled.
MAPS = ((32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8))
WIDTH, CLASSES, SAMPLES = 256, 100, 50_000

Spot = int | str
# The spots that a loss reads, as in configs/methods: one reading each (two spots: a map and the one after it; more: all
# at once). A loss that is not listed reads the last map where its parameters name a map, or what they name.
READINGS: dict[str, tuple[tuple[Spot, ...], ...]] = {
    "affinity": (("embedding",),),
    "at": ((1,), (2,), (3,)),
    "nst": ((1,), (2,), (3,)),
    "fsp": ((0, 1), (1, 2), (2, 3)),
    "fitnet": ((2,),),
    "vid": ((1,), (2,), (3,)),
    "pod": ((1,), (2,), (3,)),
    "ofa_branches": ((1, 2, 3),),
    "reviewkd": ((1, 2, 3, "embedding"),),
    "ofd": ((1, 2, 3),),
    "ab": ((1, 2, 3),),
    "semckd": ((1, 2, 3),),
    "kdsvd": ((1, 2), (2, 3)),
}


def readings(loss: str) -> tuple[tuple[Spot, ...], ...]:
    """The spots of each reading of a loss; () where its parameters name what it reads."""
    entry = LOSSES[loss]
    if loss in READINGS or not entry.spot_needs:
        return READINGS.get(loss, ((),))
    return ((2, 3),) if entry.reads_pairs_of_spots else ((3,),)


class Gone(Exception):
    """A reading of a loss that is no more."""


def check_readings() -> None:
    """Refuses readings of losses that are not in the registry."""
    gone = sorted(READINGS.keys() - LOSSES.keys())
    if gone:
        raise Gone(f"READINGS in benchmarks/_loss_inputs.py names {gone}, which are no losses; drop them.")


@dataclass(frozen=True)
class Inputs:
    """What a step hands to a loss; ``leaves``: what the gradient is taken with respect to.

    ``cosines``: those of a head with the embedding; None computes them with the centres as its weights.
    """

    student: Features
    teacher: Features
    labels: Tensor
    index: Tensor
    centres: Tensor
    way: Tensor
    support: Tensor
    leaves: list[Tensor] = field(default_factory=list)
    cosines: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Bool ``[C]``: the first half of the classes are old."""
        return torch.arange(CLASSES, device=self.labels.device) < CLASSES // 2

    @property
    def peer_logits(self) -> Tensor:
        """``[B, C]``: those of a second student, for which the teacher's stand."""
        return self.teacher.logits

    @property
    def student_scale(self) -> Tensor:
        """0-dim: a head's scale."""
        return self.centres.new_full((), 10.0)

    @property
    def student_weight(self) -> Tensor:
        """``[C, D]``: a head's weight."""
        return self.centres

    @property
    def teacher_weight(self) -> Tensor:
        """``[C, D]``: a head's weight."""
        return self.centres

    @property
    def teacher_bias(self) -> Tensor:
        """``[C]``: a head's bias."""
        return self.centres.new_zeros(CLASSES)

    @property
    def epoch(self) -> Tensor:
        """0-dim: the third epoch."""
        return self.centres.new_full((), 2.0)

    @property
    def student_cosines(self) -> Tensor:
        """``[B, C]``: a head's cosines."""
        if self.cosines is not None:
            return self.cosines
        return F.normalize(self.student.embedding.float(), dim=1) @ self.centres.T

    def at(self, side: str, spot: Spot) -> Tensor:
        """The student's or the teacher's output at a spot."""
        features: Features = getattr(self, side)
        if isinstance(spot, int):
            return features.maps[spot]
        value: Tensor = getattr(features, spot)
        return value

    def named(self, need: str, reading: Sequence[Spot]) -> Any:
        """What a loss calls ``need`` (one of ``gkd.losses.NEEDS``): a tensor, or one a spot."""
        if hasattr(self, need):
            value: Tensor = getattr(self, need)
            if isinstance(value, Tensor):
                return value
        side, _, what = need.partition("_")
        if NEEDS[need].every:
            return [self.at(side, spot) for spot in reading]
        if what == "pooled_map":
            return self.at(side, len(MAPS) - 1)
        if what in ("", "map", "map_after"):
            return self.at(side, reading[-1] if what == "map_after" else reading[0])
        return self.at(side, what)


def training_labels() -> Tensor:
    """int64 ``[SAMPLES]``: as many samples of each class, as in CIFAR-100."""
    return torch.arange(SAMPLES) % CLASSES


def random_inputs(loss: str, batch: int, device: torch.device, width: int = WIDTH) -> Inputs:
    """Random outputs of both networks, of which the maps that the loss does not read have no entries.

    Embeddings lie around one direction a class with noise 1.5 times as long, so that tuples have semi-hard negatives.
    """
    generator = torch.Generator().manual_seed(batch)
    read = {spot for reading in readings(loss) for spot in reading}
    if any(need.endswith("_pooled_map") for need in LOSSES[loss].needs):
        read.add(len(MAPS) - 1)
    index = torch.randperm(SAMPLES, generator=generator)[:batch]
    labels = training_labels()[index]
    sides = []
    for _ in ("student", "teacher"):
        centres = torch.randn(CLASSES, width, generator=generator)
        embedding = centres[labels] + 1.5 * torch.randn(batch, width, generator=generator)
        maps = [
            torch.randn(batch if number in read else 0, *shape, generator=generator).relu_()
            for number, shape in enumerate(MAPS)
        ]
        logits = 3 * torch.randn(batch, CLASSES, generator=generator)
        parts = [tensor.to(device) for tensor in (logits, embedding, *maps)]
        sides.append(Features(parts[0], parts[1], tuple(parts[2:])))
    student, teacher = sides
    centres = F.normalize(torch.randn(CLASSES, width, generator=generator), dim=1)
    cosines = torch.rand(batch, CLASSES, generator=generator).mul_(2).sub_(1).to(device)
    leaves = [student.logits, student.embedding, *student.maps, cosines]
    for leaf in leaves:
        leaf.requires_grad_()
    episode = [tensor.to(device) for tensor in episode_of(batch)]
    return Inputs(
        student, teacher, labels.to(device), index.to(device), centres.to(device), *episode, leaves, cosines
    )


def episode_of(batch: int) -> tuple[Tensor, Tensor]:
    """The ways and the support flags of an episode: five ways, a quarter of the rows support."""
    ways = max(min(5, batch // 2), 1)
    return torch.arange(batch) % ways, torch.arange(batch) < max(batch // 4, ways)


def build(loss: str, width: int = WIDTH, device: torch.device | None = None) -> list[Callable[..., Tensor]]:
    """What computes the loss: for each reading its function, or its module for the shapes there."""
    entry = LOSSES[loss]
    if entry.module is None:
        return [entry.function for _ in readings(loss)]
    torch.manual_seed(0)
    modules: list[Callable[..., Tensor]] = []
    for reading in readings(loss):
        shapes: list[Any] = [MAPS[spot] if isinstance(spot, int) else (width,) for spot in reading]
        shape = shapes if entry.reads_every_spot else shapes[0] if shapes else (width,)
        built = entry.build((shape, shape), {}, training_labels(), CLASSES)
        modules.append(built.to(device))
    return modules


def arguments(loss: str, inputs: Inputs) -> list[list[Any]]:
    """For each reading, the loss's positional arguments."""
    needs = LOSSES[loss].needs
    return [[inputs.named(need, reading) for need in needs] for reading in readings(loss)]


def evaluate(calls: Sequence[Callable[..., Tensor]], tensors: Sequence[Sequence[Any]]) -> Tensor:
    """The sum over the readings."""
    values = [call(*read) for call, read in zip(calls, tensors, strict=True)]
    return values[0] if len(values) == 1 else torch.stack(values).sum()


def trained(calls: Sequence[Callable[..., Tensor]]) -> list[nn.Parameter]:
    """The parameters that the loss trains beside the student."""
    return [p for call in calls if isinstance(call, nn.Module) for p in call.parameters() if p.requires_grad]
