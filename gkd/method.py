"""A method is data: named stages of weighted terms, read from ``configs/methods/*.yaml``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from gkd.errors import UserError, unknown
from gkd.labels import LabelRelation
from gkd.losses import AT_SPOTS, LOSSES, Loss, range_problem
from gkd.mixup import Mixup
from gkd.optimiser import Optimiser
from gkd.spots import SpotPair, Spots


class WeightSchedule(BaseModel):
    """How a term's weight moves over its stage: a factor on ``weight``.

    ``constant``: 1. ``linear``: rises from 0 to 1 over ``warmup_epochs``. ``exponential``:
    exp(-rate * epoch). Epochs are the method's own and rescale with the stage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["constant", "linear", "exponential"] = "constant"
    warmup_epochs: float = Field(default=0.0, ge=0)
    rate: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _each_kind_has_its_number(self) -> WeightSchedule:
        wanted = {"constant": (0, 0), "linear": (1, 0), "exponential": (0, 1)}[self.kind]
        if (int(self.warmup_epochs > 0), int(self.rate > 0)) != wanted:
            raise ValueError(
                "a linear schedule needs warmup_epochs above 0, an exponential one a rate above 0, and neither takes "
                "the other's; as in {kind: linear, warmup_epochs: 20} or {kind: exponential, rate: 0.05}"
            )
        return self

    def factor(self, epoch: float) -> float:
        """The factor at ``epoch`` (fractional, in the method's own epochs)."""
        if self.kind == "linear":
            return min(epoch / self.warmup_epochs, 1.0)
        if self.kind == "exponential":
            return math.exp(-self.rate * epoch)
        return 1.0


class Term(BaseModel):
    """One weighted loss of a stage. Keys that are not listed here are the loss's own options.

    Attributes:
        loss: a name in ``gkd.losses.LOSSES``.
        weight: multiplies the loss; 0 or more.
        schedule: how the weight moves over the stage.
        at: the spots of a loss on maps.
        rows: over overlapping spaces, which rows a loss on the teacher's logits sees: ``known``
            (labels that the teacher has) or ``all``; None leaves it to the task.
        centres: class centres of the ``train`` set (computed once, in eval mode, over un-augmented
            images) or of each ``batch``.
        confidence: weights each sample by how sure the teacher is in its own label space.
        samples: the ``clean`` images, or ``virtual`` samples that the stage's ``mixup`` makes of them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    loss: str
    weight: float = Field(default=1.0, ge=0)
    schedule: WeightSchedule = WeightSchedule()
    at: Spots = Spots()
    rows: Literal["known", "all"] | None = None
    centres: Literal["train", "batch"] = "train"
    confidence: Literal["pseudo-label", "entropy", "max-logit"] | None = None
    samples: Literal["clean", "virtual"] = "clean"

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(unknown("loss", loss, LOSSES))
        return loss

    @model_validator(mode="wrap")
    @classmethod
    def _options_fit_the_loss(cls, data: Any, handler: ModelWrapValidatorHandler[Term]) -> Term:
        """Checks the loss's own options beside the term's keys, so that all mistakes come at once."""
        errors: list[InitErrorDetails] = []
        if isinstance(data, Mapping) and data.get("loss") in LOSSES:
            entry = LOSSES[data["loss"]]
            for name in data.keys() - cls.model_fields.keys():
                problem = _option_problem(
                    data["loss"], entry, name, data[name], [*entry.options, *cls.model_fields]
                )
                if problem:
                    errors.append(_mistake(problem, name, data[name]))
            if not errors and entry.refusal is not None:
                given = {key: value for key, value in data.items() if key in entry.options}
                problem = entry.refusal({**entry.options, **given})
                if problem:
                    errors.append(_mistake(problem, "loss", data["loss"]))
            stated = data.get("at") not in (None, Spots().model_dump())
            if stated and not set(entry.needs) & set(AT_SPOTS):
                problem = (
                    f"the loss {data['loss']!r} reads {', '.join(entry.needs)}, so it has no spots to choose"
                )
                errors.append(_mistake(problem, "at", data["at"]))
            target = {"labels", "teacher_logits"} <= set(entry.needs) and not entry.takes_mixed_labels
            if data.get("rows") == "all" and target:
                problem = (
                    f"the loss {data['loss']!r} needs a target among the shared classes; use rows: known"
                )
                errors.append(_mistake(problem, "rows", data["rows"]))
            if data.get("confidence") is not None and not entry.takes_weights:
                problem = f"the loss {data['loss']!r} takes no sample weights, so confidence cannot be set"
                errors.append(_mistake(problem, "confidence", data["confidence"]))
        try:
            term = handler(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                errors.append(
                    InitErrorDetails(
                        type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {})
                    )
                )
        if not errors and "student_map_after" in term.needs and len(term.at.pairs()) < 2:
            problem = f"the loss {term.loss!r} reads a map and the one after it; name two spots or more on each side"
            errors.append(_mistake(problem, "at", data.get("at")))
        if errors:
            raise ValidationError.from_exception_data("Term", errors)
        return term

    @property
    def entry(self) -> Loss:
        return LOSSES[self.loss]

    @property
    def options(self) -> dict[str, Any]:
        """The loss's own keyword arguments, with its defaults where the method says nothing."""
        return {**self.entry.options, **(self.model_extra or {})}

    @property
    def needs(self) -> tuple[str, ...]:
        """What the term reads: the loss's positional arguments."""
        return self.entry.needs

    @property
    def needs_teacher(self) -> bool:
        return any(need.startswith("teacher") or need == "centres" for need in self.needs)

    @property
    def readings(self) -> list[tuple[SpotPair, SpotPair]]:
        """The (student, teacher) spots of each value that the term sums, and those that follow them."""
        pairs = self.at.pairs()
        if "student_map_after" in self.needs:
            return list(itertools.pairwise(pairs))
        return [(pair, pair) for pair in pairs]

    @property
    def teacher_maps(self) -> set[int]:
        """The teacher's maps that the term reads, of the images as they are."""
        reads = self.samples == "clean" and any(need in AT_SPOTS for need in self.needs)
        return {spot for _, spot in self.at.pairs() if reads and isinstance(spot, int)}

    @property
    def needs_shared_classes(self) -> bool:
        """Whether student and teacher logits are compared column by column."""
        return "teacher_logits" in self.needs


def _mistake(text: str, key: str, value: Any) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=(key,), input=value, ctx={"error": ValueError(text)})


def _option_problem(loss: str, entry: Loss, name: str, value: Any, allowed: list[str]) -> str | None:
    """Why a loss would refuse an option, or None: known by name, then by type, then by range."""
    if name not in entry.options:
        return unknown(f"option of the loss {loss!r}", str(name), allowed)
    default, choices = entry.options[name], entry.choices.get(name)
    if choices:
        return None if value in choices else unknown(name, str(value), choices)
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"{value!r} is not true or false"
    problem = range_problem(name, value)
    if problem is None and isinstance(default, int) and not isinstance(value, int):
        problem = f"{name}={value!r} is not a whole number"
    return f"{problem}; the loss {loss!r} takes one such as {default!r}" if problem else None


class Stage(BaseModel):
    """One training phase: what is matched, on which data, by which part, from where.

    Attributes:
        epochs: the published length; the unit of every schedule in the stage.
        share: the stage's part of ``run.epochs`` where that is given; None is its part of the
            method's published total.
        train: the parts that get gradients: ``student``, ``head``, ``backbone``, ``adapters`` or a
            module path of the student.
        data: ``all`` of the training images, class-``balanced`` batches of them, or the ``held-out``
            validation images.
        images_per_class: k of the P x k batches where data is ``balanced``.
        start: the student at the beginning: ``last`` or ``best`` of the stage before, or ``initial``.
        mixup: how virtual samples are made, for terms with ``samples: virtual``.
        select: what chooses the best epoch on validation: classifier ``accuracy`` or ``ncm``
            (nearest class mean, where no head is trained).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(gt=0)
    share: float | None = Field(default=None, gt=0, le=1)
    terms: dict[str, Term] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    train: tuple[str, ...] = ("student",)
    data: Literal["all", "balanced", "held-out"] = "all"
    images_per_class: int = Field(default=4, ge=2)
    start: Literal["last", "best", "initial"] = "last"
    mixup: Mixup | None = None
    select: Literal["accuracy", "ncm"] = "accuracy"

    @model_validator(mode="before")
    @classmethod
    def _term_key_names_the_loss(cls, data: Any) -> Any:
        """``kd: {weight: 0.9}`` is short for ``kd: {loss: kd, weight: 0.9}``."""
        if isinstance(data, Mapping) and isinstance(data.get("terms"), Mapping):
            terms = {
                key: {"loss": key, **(value or {})} if isinstance(value, Mapping) or value is None else value
                for key, value in data["terms"].items()
            }
            data = {**data, "terms": terms}
        return data

    @model_validator(mode="after")
    def _virtual_terms_can_be(self) -> Stage:
        """Terms on virtual samples need mixup, and must not read what a mixture does not have."""
        for name, term in self.terms.items():
            if term.samples == "clean":
                continue
            if self.mixup is None:
                raise ValueError(
                    f"the term {name!r} is on virtual samples; say how to make them: mixup: {{}}"
                )
            lacking = [need for need in ("labels", "index", "centres") if need in term.needs]
            if lacking and not term.entry.takes_mixed_labels:
                raise ValueError(
                    f"the term {name!r} reads {' and '.join(lacking)} of one image a row, and a virtual sample is made "
                    "of several; use samples: clean"
                )
            reads = {need for need in term.needs if need.startswith("teacher")} - {"teacher_logits"}
            beyond = reads or term.confidence or term.options.get("standardise")
            if self.mixup.teacher == "interpolated" and beyond:
                raise ValueError(
                    f"the term {name!r} reads more than the teacher's softmax, which alone can be interpolated; use "
                    "mixup: {teacher: mixed}"
                )
        if self.mixup is not None and all(term.samples == "clean" for term in self.terms.values()):
            raise ValueError("mixup makes virtual samples, but no term is samples: virtual")
        return self


class Method(BaseModel):
    """A published (or our own) way to distil, as an ordered set of stages.

    Attributes:
        name: the file's name under ``configs/methods``.
        paper: authors, title, venue, year.
        summary: one line for tables.
        stages: in the order in which they run.
        sources: dotted path of a number -> where it is from (paper, code@commit, benchmark or ours).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    paper: str
    summary: str
    stages: dict[str, Stage] = Field(min_length=1)
    sources: dict[str, str] = {}

    @model_validator(mode="after")
    def _what_must_come_first_does(self) -> Method:
        """A term whose loss is prepared in an earlier stage finds it there, under its own name."""
        earlier: list[Stage] = []
        for stage_name, stage in self.stages.items():
            for name, term in stage.terms.items():
                wanted = term.entry.prepared_by(term.options) if term.entry.prepared_by else None
                before = [other.terms[name] for other in earlier if name in other.terms]
                if wanted is not None and not any(_prepares(one, term, wanted) for one in before):
                    options = ", ".join(f"{key}: {value}" for key, value in wanted.items())
                    raise ValueError(
                        f"the term {name!r} of stage {stage_name!r} needs an earlier stage with the same term, at the "
                        f"same spots, and {options}"
                    )
            earlier.append(stage)
        return self

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for stage in self.stages.values() for term in stage.terms.values())

    @property
    def needs(self) -> tuple[str, ...]:
        """Everything that the method's losses read, in a fixed order."""
        found = {
            need for stage in self.stages.values() for term in stage.terms.values() for need in term.needs
        }
        return tuple(sorted(found))

    def epochs(self, total: int | None) -> dict[str, int]:
        """How many epochs each stage runs: the published ones, or shares of a given total.

        Raises:
            UserError: a total too small for the stages.
        """
        if total is None:
            return {name: max(round(stage.epochs), 1) for name, stage in self.stages.items()}
        if total < len(self.stages):
            raise UserError(
                f"run.epochs={total} leaves a stage of {self.name!r} without an epoch; use at least "
                f"{len(self.stages)} for its stages {', '.join(self.stages)}."
            )
        published = sum(stage.epochs for stage in self.stages.values())
        shares = {name: stage.share or stage.epochs / published for name, stage in self.stages.items()}
        scale = sum(shares.values())
        # Rounding the ends, not the lengths, keeps the total exact.
        ends = [round(done / scale * total) for done in itertools.accumulate(shares.values())]
        lengths = {name: end - start for name, end, start in zip(shares, ends, [0, *ends], strict=False)}
        for name in lengths:
            if lengths[name] < 1:  # no stage is skipped
                longest = max(lengths, key=lambda other: lengths[other])
                lengths[longest], lengths[name] = lengths[longest] - 1, 1
        return lengths


def _prepares(one: Term, other: Term, wanted: Mapping[str, Any]) -> bool:
    same = (one.loss, one.at) == (other.loss, other.at)
    return same and all(one.options[key] == value for key, value in wanted.items())


def refusal(method: Method, relation: LabelRelation | None) -> str | None:
    """Why a method cannot work over a relation, or None where it can.

    Args:
        method: the method as resolved.
        relation: teacher against student classes; None where the run has no teacher.
    """
    for stage_name, stage in method.stages.items():
        for term_name, term in stage.terms.items():
            where = f"{method.name!r} (term {term_name!r} of stage {stage_name!r})"
            if term.needs_teacher and relation is None:
                return f"The method {where} needs a teacher, but the experiment has none."
            if term.needs_shared_classes and relation is not None:
                if relation.kind == "disjoint":
                    return f"The method {where} compares logits class by class, but teacher and student share no class."
                if relation.num_shared < 2:
                    return (
                        f"The method {where} compares logits over the shared classes, but teacher and student "
                        "share only one; a softmax needs at least two."
                    )
    return None


def require(method: Method, relation: LabelRelation | None, others: Mapping[str, Method]) -> None:
    """Refuses a method that the relation denies, naming those of ``others`` that would work."""
    reason = refusal(method, relation)
    if reason is not None:
        fitting = sorted(name for name, other in others.items() if refusal(other, relation) is None)
        raise UserError(f"{reason} Methods that work here: {', '.join(fitting)}.")
