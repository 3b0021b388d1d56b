"""Settings of training and evaluation that every method shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from gkd.methods.stage import Stage
from gkd.training.caches import Caches


@dataclass(frozen=True)
class Settings:
    """How a student is trained, whatever the method: data, precision, evaluation and checkpoint intervals.

    Attributes:
        augment: of the student's images (``gkd.data.augmentation``).
        teacher_augment: of the teacher's; None is the same.
        own_draws: whether the teacher's augmentation draws random numbers apart from the student's.
        images_per_class: K of class-balanced batches in stages on all images; None shuffles.
        mean, std: per-channel statistics of the student's input, in [0, 1] pixel units.
        dtype: float32, or bfloat16 for autocast; losses stay in float32 either way.
        evaluate_every: epochs between validations; the last epoch of a stage is always validated.
        checkpoint_seconds: at most this much work is lost when the process is killed.
        views: V augmented views an image, whose teacher outputs are kept; None augments anew every epoch.
        cache_bytes: the most that the kept teacher outputs may take.
        outputs_folder: where they are kept on disk, shared with other processes; None keeps them in memory.
        outputs_rounded: whether those of a float32 run are kept in bfloat16.
        caches: what is kept in memory; runs that share it compute them once.
    """

    seed: int
    batch_size: int
    augment: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    dtype: torch.dtype
    teacher_augment: str | None = None
    own_draws: bool = False
    images_per_class: int | None = None
    evaluate_every: int = 1
    evaluate_batch_size: int = 512
    checkpoint_seconds: float = 60.0
    views: int | None = None
    cache_bytes: float = 8 * 2**30
    outputs_folder: Path | None = None
    outputs_rounded: bool = False
    caches: Caches = field(default_factory=Caches, compare=False, repr=False)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


def images_per_class(stage: Stage, everywhere: int | None) -> int | None:
    """K of a stage's class-balanced batches, ``everywhere`` of one on all images; None where it shuffles."""
    if stage.data == "all":
        return everywhere
    return stage.images_per_class if stage.data == "balanced" else None
