"""Distiller: a student, its teacher and weighted terms, as one module that returns scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gkd.errors import UserError, unknown
from gkd.features import Batch, Features, as_network
from gkd.labels import LabelRelation
from gkd.losses import NEEDS, class_centres, teacher_confidence
from gkd.method import Spot, SpotPair, Term
from gkd.teacher import Teacher


class Distiller(nn.Module):
    """What is matched between student and teacher in one stage; it never steps an optimiser.

    Args:
        student: the network that learns.
        teacher: the frozen teacher; None where no term reads it.
        terms: name -> term, as a stage lists them.
        relation: teacher against student classes; None without a teacher.
        rows: which rows a loss on the teacher's logits sees where the term does not say.
        centres: ``[C, D_T]`` L2-normalised class centres of the training images in the teacher's
            embedding, zero rows for absent classes; needed by terms with ``centres: train``.

    Raises:
        UserError: a term reads a teacher, centres or a map that is not there.
    """

    teacher: Teacher | None
    centres: Tensor | None
    student_index: Tensor
    teacher_index: Tensor
    known: Tensor
    shared_column: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        terms: Mapping[str, Term],
        *,
        relation: LabelRelation | None = None,
        rows: Literal["known", "all"] = "known",
        centres: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.student = as_network(student)
        # Not a sub-module: the teacher stays out of state_dict, parameters and DDP.
        object.__setattr__(self, "teacher", teacher)
        self.terms = dict(terms)
        self.rows = rows
        self.adapters = nn.ModuleDict()
        self.epoch = 0.0
        for name, term in self.terms.items():
            if term.needs_teacher and (teacher is None or relation is None):
                raise UserError(f"The term {name!r} reads {', '.join(term.needs)}, but there is no teacher.")
            if "centres" in term.needs and term.centres == "train" and centres is None:
                raise UserError(
                    f"The term {name!r} reads train-set centres; give them, or set centres: batch."
                )
        # Buffers that a run can recompute stay out of checkpoints: they hold the teacher's values.
        self.register_buffer("centres", centres, persistent=False)
        if relation is not None:
            self.register_buffer("student_index", relation.student_index, persistent=False)
            self.register_buffer("teacher_index", relation.teacher_index, persistent=False)
            self.register_buffer("known", relation.known, persistent=False)
            shared_column = torch.zeros(len(relation.student), dtype=torch.int64)
            shared_column[relation.student_index] = torch.arange(relation.num_shared)
            self.register_buffer("shared_column", shared_column, persistent=False)
            self.all_known = bool(relation.known.all())

    @property
    def uses_teacher(self) -> bool:
        """Whether a step runs the teacher at all."""
        return any(term.needs_teacher for term in self.terms.values())

    def set_epoch(self, epoch: float) -> None:
        """Moves the weight schedules; ``epoch`` is fractional, in the method's own epochs."""
        self.epoch = epoch

    def train(self, mode: bool = True) -> Distiller:
        """Train mode for what is trained: a frozen BatchNorm keeps its statistics."""
        super().train(mode)
        for module in self.student.modules():
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.train(False)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One step's losses.

        Returns:
            ``loss``: the weighted sum, with graph; ``loss/<term>``: each term before weighting;
            ``empty/<term>``: 1 where a counting term found nothing to average over. All 0-dim.
        """
        student = self.student.features(batch.images)
        teacher = batch.teacher
        if teacher is None and self.teacher is not None and self.uses_teacher:
            teacher = self.teacher.features(batch.teacher_images)
        values: dict[str, Tensor] = {}
        report: dict[str, Tensor] = {}
        # Losses pick their own precision (R4); autocast would turn their products into bf16.
        with torch.autocast(batch.images.device.type, enabled=False):
            for name, term in self.terms.items():
                options = {**term.options, **self._selection(term, teacher, batch)}
                inputs = [self._inputs(term, spots, student, teacher, batch) for spots in term.readings]
                if term.entry.counted is None:
                    values[name] = _sum([term.entry.function(*read, **options) for read in inputs])
                else:
                    results = [term.entry.counted(*read, **options) for read in inputs]
                    values[name] = _sum([value for value, _ in results])
                    report[f"empty/{name}"] = (_sum([count for _, count in results]) == 0).float()
            weights = {n: term.weight * term.schedule.factor(self.epoch) for n, term in self.terms.items()}
            loss = weighted_sum(values, weights)
        return {"loss": loss, **{f"loss/{name}": value.detach() for name, value in values.items()}, **report}

    def _inputs(
        self,
        term: Term,
        reading: tuple[SpotPair, SpotPair],
        student: Features,
        teacher: Features | None,
        batch: Batch,
    ) -> list[Tensor]:
        """The tensors that a loss names as its positional arguments."""
        (student_spot, teacher_spot), (student_after, teacher_after) = reading
        spots = {
            "student": (student, student_spot),
            "student_map": (student, student_spot),
            "student_map_after": (student, student_after),
            "teacher": (teacher, teacher_spot),
            "teacher_map": (teacher, teacher_spot),
            "teacher_map_after": (teacher, teacher_after),
        }
        inputs = []
        for need in term.needs:
            if need in spots:
                features, spot = spots[need]
                assert features is not None  # checked when the distiller was built
                inputs.append(_spot(features, spot))
            else:
                inputs.append(self._input(need, term, student, teacher, batch))
        return inputs

    def _input(
        self, need: str, term: Term, student: Features, teacher: Features | None, batch: Batch
    ) -> Tensor:
        """The tensor that a loss names and no spot decides."""
        if need == "labels":
            return self.shared_column[batch.labels] if term.needs_shared_classes else batch.labels
        if need == "index":
            return batch.index
        if need == "student_logits":
            return student.logits[:, self.student_index] if term.needs_shared_classes else student.logits
        if need == "student_embedding":
            return student.embedding
        assert teacher is not None  # checked when the distiller was built
        if need == "teacher_logits":
            return teacher.logits[:, self.teacher_index]
        if need == "teacher_embedding":
            return teacher.embedding
        if need == "centres":
            if term.centres == "train":
                assert self.centres is not None
                return self.centres
            return class_centres(teacher.embedding, batch.labels, self.student.num_classes)[0]
        raise UserError(unknown("need", need, NEEDS))

    def _selection(self, term: Term, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        """The rows that a term sees and the weight of each, where it asks for either."""
        chosen: dict[str, Tensor] = {}
        # A loss that reads the label among the shared classes cannot take a row whose class is not one.
        known = (term.rows or self.rows) == "known" or "labels" in term.needs
        if term.needs_shared_classes and known and not self.all_known:
            chosen["mask"] = self.known[batch.labels]
        if term.confidence is not None:
            assert teacher is not None
            chosen["weights"] = teacher_confidence(teacher.logits, term.confidence)
        return chosen

    def param_groups(self, train: Sequence[str] = ("student",)) -> list[dict[str, Any]]:
        """The parameters that a stage trains; all others are frozen.

        Args:
            train: ``student``, ``head``, ``backbone``, ``adapters`` or module paths of the student.

        Returns:
            Groups with ``params``, ``lr_scale`` and ``decay_scale`` for ``Optimiser.build``.

        Raises:
            UserError: a name that is none of these.
        """
        head = {id(parameter) for parameter in self.student.head.parameters()}
        everything = list(self.student.parameters())
        modules = dict(self.student.named_modules())
        chosen: list[nn.Parameter] = []
        for name in train:
            if name == "student":
                chosen += everything
            elif name == "head":
                chosen += [parameter for parameter in everything if id(parameter) in head]
            elif name == "backbone":
                chosen += [parameter for parameter in everything if id(parameter) not in head]
            elif name == "adapters":
                continue  # always trained where a stage's terms own any
            elif name in modules:
                chosen += list(modules[name].parameters())
            else:
                parts = ["student", "head", "backbone", "adapters", *filter(None, modules)]
                raise UserError(unknown("part to train", name, parts))
        adapters = list(self.adapters.parameters())
        trained = list({id(parameter): parameter for parameter in chosen}.values())
        for parameter in everything:
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        groups = [{"params": trained, "lr_scale": 1.0, "decay_scale": 1.0}]
        if adapters:
            groups.append({"params": adapters, "lr_scale": 1.0, "decay_scale": 1.0})
        return groups


def weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ weight · value over the terms, 0-dim: the only place where terms are weighted."""
    total = torch.zeros((), device=next(iter(values.values())).device)
    for name, value in values.items():
        total = total + weights[name] * value
    return total


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum of one or more 0-dim tensors; one is itself."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()


def _spot(features: Features, spot: Spot) -> Tensor:
    """The output that a spot names."""
    if spot == "embedding":
        return features.embedding
    if spot == "logits":
        return features.logits
    if not -len(features.maps) <= spot < len(features.maps):
        raise UserError(
            f"The spot {spot} is outside the network's {len(features.maps)} maps; "
            f"use {-len(features.maps)} to {len(features.maps) - 1}, 'embedding' or 'logits'."
        )
    return features.maps[spot]
