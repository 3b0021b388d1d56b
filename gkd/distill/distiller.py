"""Distiller: the module that computes a stage's losses from a student, its teachers and weighted terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.labels import LabelSpace
from gkd.core.network import as_network, module_key
from gkd.core.tapped import Shapes, output_shapes
from gkd.distill.adapters import build_adapters
from gkd.distill.fit_check import check_term, check_terms
from gkd.distill.inputs import Reading
from gkd.distill.measured_weights import MeasuredWeights
from gkd.distill.outputs import Outputs, reads_clean, run_networks
from gkd.distill.router import Decision, Router, build_router, routed_teacher
from gkd.distill.several import combined
from gkd.distill.side import Side, Teachers, teacher_sides
from gkd.distill.teacher import Teacher
from gkd.distill.trained_parts import train_parts
from gkd.distill.unknown_rows import rest_of_cross_entropy, share_of, traded
from gkd.losses.signature import Filled
from gkd.methods.mixup import Mixup
from gkd.methods.readers import parts_of, teachers_of
from gkd.methods.refusal import fitting_terms
from gkd.methods.routing import Routing
from gkd.methods.spots import MapSpot, PlacePair
from gkd.methods.stage import UnknownRows
from gkd.methods.terms import RelativeWeight, Term, checked_terms, class_scale


class Distiller(nn.Module):
    """The losses between student and teachers in one stage; it never steps an optimiser.

    Args:
        student: the network that is trained.
        teacher: a frozen teacher, its side (relation, centres, view), or several by name; None where no term reads
            one. ``teacher_sides`` relates the classes of a teacher without a side to the student's.
        terms: name -> term, as a stage lists them; one that names no teacher reads the first.
        classes: the student's classes in the order of its columns, where teachers are given without a relation.
        old_classes: Bool ``[C]``, the student's columns of old classes; None: those of the first teacher's classes.
        image_shape: ``(C, H, W)`` of the images; needed by losses that own parameters, whose shapes follow from it.
        train_labels: int64 ``[N]``, the training set's labels by sample number; needed by losses with memory banks.
        mixup: how virtual samples are made, for terms with ``samples: virtual``.
        routing: which samples the terms that read a teacher distil at which spots; needs ``image_shape``.
        unknown_rows: what counts of the cross-entropy, where it has a weight below 1 beside a term on the teacher's
            logits, in what the teacher cannot say: ``full`` or ``published`` (`gkd.distill.unknown_rows`).
        batch_size: B, the rows of a full batch; in training the loss of a batch, or of a part of one, of b < B rows is
            scaled by b / B. None takes the largest batch so far, which is not saved: give it where a loop is resumed.

    Raises:
        UserError: a term reads a teacher, centres, labels, a map or a head's cosines that do not exist.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teachers | None,
        terms: Mapping[str, Term],
        *,
        classes: LabelSpace | None = None,
        old_classes: Tensor | None = None,
        image_shape: Sequence[int] | None = None,
        train_labels: Tensor | None = None,
        mixup: Mixup | None = None,
        routing: Routing | None = None,
        unknown_rows: UnknownRows = "full",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.student = as_network(student)
        self.mixup = mixup
        self.epoch = 0.0
        # Whether a step gives the losses of terms on a teacher and of the others apart, each with its graph.
        self.apart = False
        sides = teacher_sides(teacher, self.student.num_classes, classes)
        self.side_names = tuple(sides)
        self._sides = nn.ModuleList(Side(side) for side in sides.values())
        relations = {name: side.relation for name, side in sides.items()}
        self._groups = parts_of(fitting_terms(checked_terms(terms), relations), self.side_names)
        # As the stage lists them; the parts of one over several teachers differ in the teacher alone.
        self.groups = {name: next(iter(parts.values())) for name, parts in self._groups.items()}
        # From here on each term is one for each teacher that it reads.
        self.terms = {name: part for parts in self._groups.values() for name, part in parts.items()}
        self._old_given = old_classes is not None
        if old_classes is None:
            old_classes = torch.zeros(self.student.num_classes, dtype=torch.bool)
        # Buffers that a run can recompute stay out of checkpoints.
        self.register_buffer("_old_classes", old_classes, persistent=False)
        # Each term's teacher by its name; None of a term that reads none.
        self.readers = {
            name: next(iter(teachers_of(name, term, self.side_names)), None)
            for name, term in self.terms.items()
        }
        for name, term in self.terms.items():
            reader = self.readers[name]
            check_term(name, term, self.sides[reader] if reader else None, self.student, mixup)
        num_old = int(self.known.sum())
        num_new = len(self.known) - num_old
        # Terms that count by the share of rows that their teacher knows; the coarse cross-entropy has the rest.
        read = {name: self.sides[reader] for name, reader in self.readers.items() if reader}
        self._traded = traded(self.terms, read) if unknown_rows == "full" else {}
        self._batch_size = batch_size or 0
        self.scales: dict[str, float] = {}
        for name, term in self.groups.items():
            weight = 1.0 if isinstance(term.weight, RelativeWeight) else term.weight
            self.scales[name] = weight * (class_scale(term.scale, num_old, num_new) if term.scale else 1.0)
        self.measured = MeasuredWeights({name: term.weight for name, term in self.groups.items()})
        shapes, teacher_shapes = None, {}
        if image_shape is not None:
            shapes = output_shapes(self.student, image_shape)
            teacher_shapes = {
                name: output_shapes(side.teacher.network, side.image_shape(image_shape))
                for name, side in sides.items()
            }
        if shapes is not None:
            check_terms(self.terms, shapes, teacher_shapes, train_labels)
        self.adapters = build_adapters(
            self.terms,
            self.student,
            self.known,
            (shapes, teacher_shapes),
            train_labels,
            {name: side.relation.num_shared for name, side in read.items()},
        )
        self.router = self._build_router(routing, shapes, teacher_shapes)

    @property
    def sides(self) -> dict[str, Side]:
        """The teachers' sides by name, the first being the one that a term reads without naming it."""
        return dict(zip(self.side_names, self._sides, strict=True))  # type: ignore[arg-type]

    @property
    def teacher(self) -> Teacher | None:
        """The first teacher."""
        return self._sides[0].teacher if len(self._sides) else None  # type: ignore[return-value]

    @property
    def known(self) -> Tensor:
        """Bool ``[C]``: the student's columns of old classes, where they are given, or of the first teacher's."""
        if self._old_given or not len(self._sides):
            return self._old_classes  # type: ignore[return-value]
        return self._sides[0].known  # type: ignore[return-value]

    def _build_router(
        self, options: Routing | None, student: Shapes | None, teachers: Mapping[str, Shapes]
    ) -> Router | None:
        """Build the router of the terms that read a teacher, which must all read the same one."""
        if options is None or options.policy == "always":
            return None
        name = routed_teacher(self.readers, self.terms, options)
        side = self.sides[name] if name else None
        shapes = (student, teachers[name]) if student is not None and name else None
        return build_router(
            self.student,
            side.teacher if side else None,
            self.terms,
            options,
            shapes,
            side.relation if side else None,
        )

    @property
    def read_clean(self) -> list[str]:
        """The teachers whose outputs for the clean images a step reads."""
        return [n for n in self.side_names if reads_clean(n, self.readers, self.terms, self.mixup)]

    def teacher_maps(self, teacher: str) -> set[MapSpot]:
        """The maps of a teacher that the terms read for the clean images."""
        read = [term for name, term in self.terms.items() if self.readers[name] == teacher]
        return {spot for term in read for spot in term.teacher_maps}

    def set_epoch(self, epoch: float) -> None:
        """Set the epoch of the weight schedules; ``epoch`` is fractional, in the method's own epochs."""
        self.epoch = epoch

    def train(self, mode: bool = True) -> Distiller:
        """Set train mode except for frozen modules, so that a frozen BatchNorm keeps its statistics."""
        super().train(mode)
        for module in self.student.modules():
            parameters = list(module.parameters(recurse=False))
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.train(False)
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute one step's losses.

        Returns:
            ``loss``: the weighted sum, with graph, plus ``loss/routing`` where a policy is trained; where ``apart`` is
            set, its parts ``taught`` and ``untaught`` too, of the terms that read a teacher and of all else;
            ``loss/<term>``: each term before weighting, and of one over several teachers
            ``loss/<term>/<teacher>``, its loss with each; ``empty/<term>``: 1 where a counting term had nothing
            to average over; ``share/<spot>``: the share of the batch that is distilled there. All 0-dim.
        """
        return self.losses(batch, self.outputs(batch))

    def losses(self, batch: Batch, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
        """``forward`` on outputs that are there."""
        decision = self._route(outputs)
        # Losses pick their own precision (R4); autocast would turn their products into bf16.
        with torch.autocast(batch.images.device.type, enabled=False):
            values, report = self.term_values(outputs, decision)
            weights = {name: self._weight(name) for name in values}
            sums = {
                kind: weighted_sum({name: values[name] for name in names}, weights)
                for kind, names in self._kinds().items()
            }
            first = next(iter(sums))
            rest = self.rest_of_cross_entropy(outputs)
            if rest is not None:
                sums[first] = sums[first] + rest
            # Losses of the order 1 / B would pull hardest in the smallest batch.
            if self.training:
                self._batch_size = max(self._batch_size, len(batch.labels))
                if len(batch.labels) < self._batch_size:
                    part = len(batch.labels) / self._batch_size
                    sums = {kind: value * part for kind, value in sums.items()}
            if decision is not None and self.router is not None:
                shares = decision.gates.float().mean(0).unbind()
                report |= {f"share/{n}": share for n, share in zip(self.router.names, shares, strict=True)}
                # This gradient reaches the router's parameters alone, so one backward pass serves both; a
                # loss without a graph marks a stage whose terms train nothing.
                if decision.loss is not None and any(value.requires_grad for value in sums.values()):
                    sums[first] = sums[first] + decision.loss
                    report["loss/routing"] = decision.loss.detach()
        return {
            "loss": _sum([*sums.values()]),
            **(sums if self.apart else {}),
            **{f"loss/{name}": value.detach() for name, value in values.items()},
            **report,
        }

    def _kinds(self) -> dict[str, list[str]]:
        """The terms of each sum that a step gives: all in one, or those that read no teacher apart from the others."""
        if not self.apart:
            return {"loss": [*self.groups]}
        kinds: dict[str, list[str]] = {"untaught": [], "taught": []}
        for name, term in self.groups.items():
            kinds["taught" if term.needs_teacher else "untaught"].append(name)
        return {kind: names for kind, names in kinds.items() if names}

    def outputs(self, batch: Batch) -> dict[str, Outputs]:
        """The networks' outputs that the terms read, by the terms' samples."""
        return run_networks(batch, self.student, self.sides, self.readers, self.terms, self.mixup)

    def term_values(
        self, outputs: Mapping[str, Outputs], decision: Decision | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every term before weighting, and the report on terms that count and on several teachers."""
        values: dict[str, Tensor] = {}
        report: dict[str, Tensor] = {}
        for name, parts in self._groups.items():
            losses: dict[str, Tensor] = {}
            counts: list[Tensor] = []
            for part, term in parts.items():
                losses[part], counted = self._term(part, term, outputs[term.samples], decision)
                counts += counted
            values[name] = combined(list(losses.values()), term.combine, drop_rate=term.drop_rate)
            if counts:
                report[f"empty/{name}"] = (_sum(counts) == 0).float()
            if len(losses) > 1:
                report |= {f"loss/{part}": value.detach() for part, value in losses.items()}
        return values, report

    def rest_of_cross_entropy(self, outputs: Mapping[str, Outputs]) -> Tensor | None:
        """The cross-entropy's part where the teachers have nothing to say, weighted; None where nothing is traded."""
        if not self._traded:
            return None
        hard = [name for name, term in self.groups.items() if term.is_cross_entropy]
        given = max(0.0, 1 - sum(float(self._weight(name)) for name in hard))
        return given * rest_of_cross_entropy(self.groups[hard[0]], outputs, self._traded.values())

    def _weight(self, name: str) -> float | Tensor:
        """The weight of a term at this epoch; a 0-dim tensor where it was measured."""
        term = self.groups[name]
        weight = self.scales[name] * term.schedule.factor(self.epoch)
        return weight * self.measured(name) if name in self.measured else weight

    def _term(
        self, name: str, term: Term, outputs: Outputs, decision: Decision | None
    ) -> tuple[Tensor, list[Tensor]]:
        """A term before weighting, and for a counting loss the number it averaged over in each reading."""
        reader = self.readers[name]
        teacher_name = reader or (self.side_names[0] if self.side_names else None)
        side = self.sides[teacher_name] if teacher_name else None
        known_columns = side.known if reader and side is not None else self.known
        key = module_key(name)
        modules = self.adapters[key] if key in self.adapters else None  # noqa: SIM401 -- a ModuleDict has no get
        auxiliary = modules[0] if isinstance(modules, nn.ModuleList) and term.head == "auxiliary" else None
        parts, counts = [], []
        for number, spots in enumerate(term.readings):
            reading = Reading(
                term,
                spots,
                outputs,
                self.student,
                side,
                teacher_name,
                known_columns,
                auxiliary,  # type: ignore[arg-type]
                name in self._traded,
                self.epoch,
            )
            inputs, filled = reading.inputs(), reading.selection()
            share = (
                share_of(filled[term.entry.filled[Filled.MASK]], outputs.batch) if reading.traded else None
            )
            routed = self._narrow(filled, term, spots, decision)
            if routed is not None:
                share = routed if share is None else share * routed
            entry = term.entry
            if entry.module is not None:
                value = entry.call(modules[number], inputs, filled)  # type: ignore[index]
            elif entry.counted is not None:
                value, count = entry.call(entry.counted, inputs, {**term.options, **filled})
                counts.append(count)
            else:
                value = entry.call(entry.function, inputs, {**term.options, **filled})
            parts.append(value if share is None else share.to(value.dtype) * value)
        return _sum(parts), counts

    def _route(self, outputs: Mapping[str, Outputs]) -> Decision | None:
        """The router's decision for the batch; None where every sample is distilled at every spot."""
        if self.router is None:
            return None
        (samples,) = {term.samples for term in self.terms.values() if term.needs_teacher}
        (teacher,) = {reader for reader in self.readers.values() if reader is not None}
        read = outputs[samples]
        decision: Decision = self.router(
            read.student, read.teachers[teacher], read.batch.images, read.batch.labels
        )
        return decision

    def _narrow(
        self,
        filled: dict[str, Tensor],
        term: Term,
        reading: tuple[PlacePair, ...],
        decision: Decision | None,
    ) -> Tensor | None:
        """Restrict the mask in ``filled`` to rows distilled at the spots; return their share of its rows."""
        if decision is None or self.router is None or not term.needs_teacher:
            return None
        spots = set(reading) if term.entry.spot_needs else set(term.spot_pairs)
        # ``routing_problem`` refuses maps before their activation, so a reading's places are spots.
        columns = [self.router.column[spot] for spot in spots]  # type: ignore[index]
        distilled = torch.stack([decision.gates[:, column] for column in columns]).all(0)
        mask = term.entry.filled[Filled.MASK]
        rows = filled.get(mask, torch.ones_like(distilled))
        filled[mask] = rows & distilled
        return filled[mask].sum().double() / rows.sum().clamp_min(1)

    def param_groups(self, train: Sequence[str] = ("student",)) -> list[dict[str, Any]]:
        """The parameters that a stage trains; freezes all others, and always a network's older extractors.

        Args:
            train: ``student``, ``head``, ``backbone``, ``adapters`` or module paths of the student.

        Returns:
            Groups with ``params``, ``lr_scale`` and ``decay_scale`` for ``Optimiser.build``.

        Raises:
            UserError: a name that is none of these.
        """
        trained = train_parts(self.student, train)
        adapters = [parameter for parameter in self.adapters.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "lr_scale": 1.0, "decay_scale": 1.0}]
        if adapters:
            groups.append({"params": adapters, "lr_scale": 1.0, "decay_scale": 1.0})
        if self.router is not None and self.router.policy is not None:
            scales = self.router.options.model_dump(include={"lr_scale", "decay_scale"})
            groups.append({"params": list(self.router.parameters()), **scales})
        return groups

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Groups of parameters whose gradients are clipped together: student with adapters, and router."""
        routing = list(self.router.parameters()) if self.router is not None else []
        apart = {id(parameter) for parameter in routing}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in apart]
        return [rest, routing] if routing else [rest]


def weighted_sum(values: Mapping[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """Σ weight · value over the terms, 0-dim: the only place where terms are weighted."""
    total = torch.zeros((), device=next(iter(values.values())).device)
    for name, value in values.items():
        total = total + weights[name] * value
    return total


def _sum(values: Sequence[Tensor]) -> Tensor:
    """The sum of one or more 0-dim tensors; a single one is returned as it is."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).sum()
