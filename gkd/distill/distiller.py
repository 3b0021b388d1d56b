"""Distiller: a student, its teacher and weighted terms, as one module that returns scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation
from gkd.core.network import Features, as_network
from gkd.core.tapped import Shapes, TappedNetwork
from gkd.distill.fit_check import both_shapes, check_head, check_terms, shapes_of_pair
from gkd.distill.mixing import Mixture, draw_mixture, interpolated_logits, mix_batch
from gkd.distill.router import Decision, build_router
from gkd.distill.teacher import Teacher
from gkd.losses import AT_SPOTS, IN_EPISODES, NEEDS, class_centres, teacher_confidence
from gkd.methods.mixup import Mixup
from gkd.methods.routing import Routing
from gkd.methods.spots import SpotPair, output_at
from gkd.methods.terms import Term, class_scale
from gkd.models import AuxiliaryHead, frozen_parameters, newest_dim, newest_part


@dataclass(frozen=True)
class _Outputs:
    """What a step's losses read: a batch, both networks' outputs for it, and what it was mixed from."""

    batch: Batch
    student: Features
    teacher: Features | None
    mixture: Mixture | None = None  # where the teacher's distributions are to be interpolated


class Distiller(nn.Module):
    """What is matched between student and teacher in one stage; it never steps an optimiser.

    Args:
        student: the network that learns.
        teacher: the frozen teacher; None where no term reads it.
        terms: name -> term, as a stage lists them.
        relation: teacher against student classes; None without a teacher, unless some classes are old all the same.
        rows: which rows a loss on the teacher's logits sees where the term does not say.
        centres: ``[C, D_T]`` L2-normalised class centres of the training images in the teacher's
            embedding, zero rows for absent classes; needed by terms with ``centres: train``.
        image_shape: ``(C, H, W)`` of the images; needed by losses that own parameters, whose shapes follow from it.
        teacher_image_shape: that of what the teacher sees; None where it sees the same.
        train_labels: int64 ``[N]``, the training set's labels by sample number; needed by losses with memory banks.
        mixup: how virtual samples are made, for terms with ``samples: virtual``.
        routing: where the terms that read the teacher distil, sample by sample; needs ``image_shape``.

    Raises:
        UserError: a term reads a teacher, centres, labels, a map or a head's cosines that are not there.
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
        image_shape: Sequence[int] | None = None,
        teacher_image_shape: Sequence[int] | None = None,
        train_labels: Tensor | None = None,
        mixup: Mixup | None = None,
        routing: Routing | None = None,
    ) -> None:
        super().__init__()
        self.student = as_network(student)
        # Not a sub-module: the teacher stays out of state_dict, parameters and DDP.
        object.__setattr__(self, "teacher", teacher)
        self.terms = dict(terms)
        self.rows = rows
        self.mixup = mixup
        self.epoch = 0.0
        for name, term in self.terms.items():
            if term.needs_teacher and (teacher is None or relation is None):
                raise UserError(f"The term {name!r} reads {', '.join(term.needs)}, but there is no teacher.")
            if "centres" in term.needs and term.centres == "train" and centres is None:
                raise UserError(
                    f"The term {name!r} reads train-set centres; give them, or set centres: batch."
                )
            check_head(name, term, self.student)
            if term.samples == "virtual" and mixup is None:
                raise UserError(
                    f"The term {name!r} is on virtual samples, but no mixup says how to make them."
                )
        # Buffers that a run can recompute stay out of checkpoints: they hold the teacher's values.
        self.register_buffer("centres", centres, persistent=False)
        known = relation.known if relation else torch.zeros(self.student.num_classes, dtype=torch.bool)
        self.register_buffer("known", known, persistent=False)
        if relation is not None:
            self.register_buffer("student_index", relation.student_index, persistent=False)
            self.register_buffer("teacher_index", relation.teacher_index, persistent=False)
            shared_column = torch.zeros(len(relation.student), dtype=torch.int64)
            shared_column[relation.student_index] = torch.arange(relation.num_shared)
            self.register_buffer("shared_column", shared_column, persistent=False)
            self.all_known = bool(relation.known.all())
        num_old = int(known.sum())
        num_new = len(known) - num_old
        self.scales = {
            name: term.weight * (class_scale(term.scale, num_old, num_new) if term.scale else 1.0)
            for name, term in self.terms.items()
        }
        shapes = None
        if image_shape is not None:
            shapes = both_shapes(self.student, teacher, image_shape, teacher_image_shape or image_shape)
        self.adapters = self._build_adapters(shapes, train_labels)
        self.router = build_router(self.student, teacher, self.terms, routing, shapes, relation)

    def _build_adapters(
        self, shapes: tuple[Shapes, Shapes | None] | None, train_labels: Tensor | None
    ) -> nn.ModuleDict:
        """The modules of terms that own parameters: term name -> one for each pair of spots."""
        adapters = nn.ModuleDict()
        if shapes is not None:
            check_terms(self.terms, *shapes, train_labels)
        for name, term in self.terms.items():
            if term.head == "auxiliary":
                adapters[name] = nn.ModuleList([AuxiliaryHead(newest_dim(self.student), self.known)])
            if term.entry.module is None:
                continue
            if shapes is None:
                raise UserError(
                    f"The term {name!r} owns parameters; give image_shape=(C, H, W), from which theirs follow."
                )
            more = {}
            if term.entry.takes_labels:
                if train_labels is None:
                    raise UserError(f"The term {name!r} keeps memory banks; give train_labels, one a sample.")
                more["labels"] = train_labels
            adapters[name] = nn.ModuleList(
                term.entry.module(*shapes_of_pair(term, pair, *shapes), **term.options, **more)
                for pair, _ in term.readings
            )
        return adapters

    @property
    def reads_clean_teacher(self) -> bool:
        """Whether a step reads the teacher's outputs for the images as they are."""
        interpolates = self.mixup is not None and self.mixup.teacher == "interpolated"
        return any(
            term.needs_teacher and (term.samples == "clean" or interpolates) for term in self.terms.values()
        )

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
            ``loss``: the weighted sum, with graph, and ``loss/routing`` on top where a policy is trained;
            ``loss/<term>``: each term before weighting; ``empty/<term>``: 1 where a counting term found nothing to
            average over; ``share/<spot>``: the share of the batch that is distilled there. All 0-dim.
        """
        outputs = self._outputs(batch)
        decision = self._route(outputs)
        values: dict[str, Tensor] = {}
        report: dict[str, Tensor] = {}
        # Losses pick their own precision (R4); autocast would turn their products into bf16.
        with torch.autocast(batch.images.device.type, enabled=False):
            for name, term in self.terms.items():
                read, parts, counts = outputs[term.samples], [], []
                for number, reading in enumerate(term.readings):
                    inputs = self._inputs(name, reading, read)
                    options = self._selection(term, read)
                    share = self._narrow(options, term, reading, decision)
                    value, count = self._value(name, number, inputs, options)
                    parts.append(value if share is None else share.to(value.dtype) * value)
                    counts.append(count)
                values[name] = _sum(parts)
                if term.entry.counted is not None:
                    report[f"empty/{name}"] = (
                        _sum([count for count in counts if count is not None]) == 0
                    ).float()
            weights = {n: self.scales[n] * term.schedule.factor(self.epoch) for n, term in self.terms.items()}
            loss = weighted_sum(values, weights)
            if decision is not None:
                assert self.router is not None
                shares = decision.gates.float().mean(0).unbind()
                report |= {
                    f"share/{name}": share for name, share in zip(self.router.names, shares, strict=True)
                }
                # Its own parameters alone get this gradient, so one backward serves both; a stage whose terms train
                # nothing is told by a loss without a graph.
                if decision.loss is not None and loss.requires_grad:
                    loss = loss + decision.loss
                    report["loss/routing"] = decision.loss.detach()
        return {"loss": loss, **{f"loss/{name}": value.detach() for name, value in values.items()}, **report}

    def _value(
        self, name: str, number: int, inputs: list[Tensor], options: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """One reading of a term, before weighting, and what a counting loss averaged over."""
        term = self.terms[name]
        if term.entry.module is not None:
            modules = self.adapters[name]
            assert isinstance(modules, nn.ModuleList)
            return modules[number](*inputs, **options), None
        if term.entry.counted is None:
            return term.entry.function(*inputs, **term.options, **options), None
        return term.entry.counted(*inputs, **term.options, **options)

    def _route(self, outputs: Mapping[str, _Outputs]) -> Decision | None:
        """Where each sample is distilled; None where all are, everywhere."""
        if self.router is None:
            return None
        (samples,) = {term.samples for term in self.terms.values() if term.needs_teacher}
        read = outputs[samples]
        assert read.teacher is not None  # checked when the distiller was built
        decision: Decision = self.router(read.student, read.teacher, read.batch.images, read.batch.labels)
        return decision

    def _narrow(
        self,
        options: dict[str, Tensor],
        term: Term,
        reading: tuple[SpotPair, SpotPair],
        decision: Decision | None,
    ) -> Tensor | None:
        """Keeps the rows that are distilled at a reading's spots; their share of those it would have had."""
        if decision is None or not term.needs_teacher:
            return None
        assert self.router is not None
        spots = set(reading) if set(term.needs) & set(AT_SPOTS) else set(term.spot_pairs)
        distilled = torch.stack([decision.gates[:, self.router.column[spot]] for spot in spots]).all(0)
        rows = options.get("mask", torch.ones_like(distilled))
        options["mask"] = rows & distilled
        return options["mask"].sum().double() / rows.sum().clamp_min(1)

    def _outputs(self, batch: Batch) -> dict[str, _Outputs]:
        """The outputs that the terms read, for the images as they are and for virtual samples made of them."""
        outputs = {}
        on = {term.samples for term in self.terms.values()}
        teacher = batch.teacher
        if teacher is None and self.teacher is not None and self.reads_clean_teacher:
            teacher = self.teacher.features(batch.teacher_images)
        if "clean" in on:
            outputs["clean"] = _Outputs(batch, self.student.features(batch.images), teacher)
        if "virtual" in on:
            assert self.mixup is not None  # checked when the distiller was built
            mixture = draw_mixture(self.mixup, len(batch.labels), batch.images.device)
            virtual = mix_batch(batch, mixture, self.student.num_classes)
            student = self.student.features(virtual.images)
            reads = any(term.needs_teacher and term.samples == "virtual" for term in self.terms.values())
            if self.mixup.teacher == "interpolated":
                outputs["virtual"] = _Outputs(virtual, student, teacher, mixture)
            else:
                mixed = self.teacher.features(virtual.teacher_images) if self.teacher and reads else None
                outputs["virtual"] = _Outputs(virtual, student, mixed)
        return outputs

    def _inputs(self, name: str, reading: tuple[SpotPair, SpotPair], read: _Outputs) -> list[Tensor]:
        """The tensors that a term's loss names as its positional arguments."""
        (student_spot, teacher_spot), (student_after, teacher_after) = reading
        spots = {
            "student": (read.student, student_spot),
            "student_map": (read.student, student_spot),
            "student_map_after": (read.student, student_after),
            "teacher": (read.teacher, teacher_spot),
            "teacher_map": (read.teacher, teacher_spot),
            "teacher_map_after": (read.teacher, teacher_after),
        }
        inputs = []
        for need in self.terms[name].needs:
            if need in spots:
                features, spot = spots[need]
                assert features is not None  # checked when the distiller was built
                inputs.append(output_at(features, spot))
            else:
                inputs.append(self._input(need, name, read))
        return inputs

    def _input(self, need: str, name: str, read: _Outputs) -> Tensor:
        """The tensor that a term's loss names and no spot decides."""
        term = self.terms[name]
        batch, student, teacher = read.batch, read.student, read.teacher
        if term.head == "auxiliary":  # of a loss that reads logits and labels alone
            head = self.adapters.get_submodule(f"{name}.0")
            assert isinstance(head, AuxiliaryHead)
            if need == "labels":
                return head.targets(batch.labels)
            return head(newest_part(self.student, student.embedding))
        if need == "labels":
            if not term.needs_shared_classes:
                return batch.labels
            if not term.entry.takes_mixed_labels:
                return self.shared_column[batch.labels]
            mixed = batch.labels
            if mixed.dim() == 1:
                mixed = F.one_hot(mixed, self.student.num_classes)
            return mixed[:, self.student_index]  # zeros in a row whose class is not shared
        if need in ("index", *IN_EPISODES):
            value: Tensor | None = getattr(batch, need)
            if value is None:
                raise UserError(f"The loss {term.loss!r} reads {need}, but the batch is no episode.")
            return value
        if need == "known":
            return self.known
        if need == "student_logits":
            return student.logits[:, self.student_index] if term.needs_shared_classes else student.logits
        if need == "student_embedding":
            return student.embedding
        if need == "student_cosines":
            return self.student.head.cosines(student.embedding)
        if need == "student_scale":
            return self.student.head.scale
        assert teacher is not None  # checked when the distiller was built
        if need == "teacher_logits":
            logits = teacher.logits[:, self.teacher_index]
            if read.mixture is not None:
                logits = interpolated_logits(logits, read.mixture, term.options["temperature"])
            return logits
        if need == "teacher_embedding":
            return teacher.embedding
        if need == "centres":
            if term.centres == "train":
                assert self.centres is not None
                return self.centres
            return class_centres(teacher.embedding, batch.labels, self.student.num_classes)[0]
        raise UserError(unknown("need", need, NEEDS))

    def _selection(self, term: Term, read: _Outputs) -> dict[str, Tensor]:
        """The rows that a term sees and the weight of each, where it asks for either."""
        chosen: dict[str, Tensor] = {}
        labels = read.batch.labels
        # A loss with a target among the shared classes cannot take a row whose class is not one.
        target = "labels" in term.needs and not term.entry.takes_mixed_labels
        known = (term.rows or self.rows) == "known" or target
        if term.needs_shared_classes and known and not self.all_known:
            chosen["mask"] = self.known[labels] if labels.dim() == 1 else ~((labels > 0) & ~self.known).any(1)
        if term.confidence is not None:
            assert read.teacher is not None
            chosen["weights"] = teacher_confidence(read.teacher.logits, term.confidence)
        return chosen

    def param_groups(self, train: Sequence[str] = ("student",)) -> list[dict[str, Any]]:
        """The parameters that a stage trains; all others are frozen, as are for good a network's older extractors.

        Args:
            train: ``student``, ``head``, ``backbone``, ``adapters`` or module paths of the student.

        Returns:
            Groups with ``params``, ``lr_scale`` and ``decay_scale`` for ``Optimiser.build``.

        Raises:
            UserError: a name that is none of these.
        """
        head = {id(parameter) for parameter in self.student.head.parameters()}
        everything = list(self.student.parameters())
        # Of a tapped network the paths are the wrapped module's, as in its state dict.
        named = self.student.module if isinstance(self.student, TappedNetwork) else self.student
        modules = dict(named.named_modules())
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
        adapters = [parameter for parameter in self.adapters.parameters() if parameter.requires_grad]
        kept = {id(parameter) for parameter in frozen_parameters(self.student)}
        trained = [p for key, p in {id(p): p for p in chosen}.items() if key not in kept]
        for parameter in everything:
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        groups = [{"params": trained, "lr_scale": 1.0, "decay_scale": 1.0}]
        if adapters:
            groups.append({"params": adapters, "lr_scale": 1.0, "decay_scale": 1.0})
        if self.router is not None and self.router.policy is not None:
            scales = self.router.options.model_dump(include={"lr_scale", "decay_scale"})
            groups.append({"params": list(self.router.parameters()), **scales})
        return groups

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """The parameters whose gradients share a norm: the student's with the adapters', and the router's own."""
        own = list(self.router.parameters()) if self.router is not None else []
        apart = {id(parameter) for parameter in own}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in apart]
        return [rest, own] if own else [rest]


def weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ weight · value over the terms, 0-dim: the only place where terms are weighted."""
    total = torch.zeros((), device=next(iter(values.values())).device)
    for name, value in values.items():
        total = total + weights[name] * value
    return total


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum of one or more 0-dim tensors; one is itself."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()
