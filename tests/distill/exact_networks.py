"""Networks whose outputs are fixed numbers, so that only the losses can round."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Features
from gkd.distill.teacher import Teacher


class Exact(nn.Module):
    """A network whose features are given numbers, so that only the losses can round."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.given = features
        self.num_classes = features.logits.shape[1]
        self.embedding_dim = features.embedding.shape[1]
        self.fc = nn.Linear(self.embedding_dim, self.num_classes)

    @property
    def head(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.given.logits

    def features(self, images: Tensor) -> Features:
        return self.given


def exact(num_classes: int, *, seed: int, size: int = 8) -> Exact:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=generator).requires_grad_()
    embedding = torch.randn(size, 6, generator=generator).requires_grad_()
    maps = (torch.randn(size, 4, 2, 2, generator=generator), torch.randn(size, 6, 2, 2, generator=generator))
    return Exact(Features(logits, embedding, tuple(m.requires_grad_() for m in maps)))


def exact_pair(student: str, teacher: str) -> tuple[Exact, Teacher, LabelRelation]:
    pupil, master = exact(len(student), seed=1), exact(len(teacher), seed=2)
    frozen = Teacher(master, LabelSpace([*teacher]), mean=(0.5,), std=(0.25,))
    return pupil, frozen, LabelRelation(LabelSpace([*teacher]), LabelSpace([*student]))
