"""A method is data: named stages of weighted terms, read from ``configs/methods/*.yaml``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gkd.data import EpisodePlan
from gkd.errors import UserError, unknown
from gkd.labels import LabelRelation
from gkd.losses import IN_EPISODES
from gkd.mixup import Mixup
from gkd.optimiser import Optimiser
from gkd.routing import Routing, routing_problem
from gkd.rules import RULES
from gkd.terms import Term

StageData = Literal["all", "balanced", "episodes", "held-out", "new", "seen", "balanced-memory"]


class Growth(BaseModel):
    """How a student grows by the classes of an incremental step.

    Attributes:
        new: the new columns start at ``random``, or ``imprint``-ed by the new classes' mean embeddings.
        old: whether the old columns are ``trained`` on or stay ``frozen`` (a cosine head's alone can).
        extractor: whether the one extractor is ``kept``, or each step freezes those there are and ``expand``s the
            network by a further one (``gkd.models.expanding``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    new: Literal["random", "imprint"] = "random"
    old: Literal["trained", "frozen"] = "trained"
    extractor: Literal["kept", "expand"] = "kept"

    @model_validator(mode="after")
    def _one_way_to_grow(self) -> Growth:
        if self.extractor == "expand" and (self.new, self.old) != ("random", "trained"):
            raise ValueError(
                "extractor: expand draws what the head is widened by and trains all of it; leave out new and old"
            )
        return self


class Stage(BaseModel):
    """One training phase: what is matched, on which data, by which part, from where.

    Attributes:
        epochs: the published length; the unit of every schedule in the stage.
        share: the stage's part of ``run.epochs`` where that is given; None is its part of the
            method's published total.
        train: the parts that get gradients: ``student``, ``head``, ``backbone``, ``adapters`` or a
            module path of the student.
        data: ``all`` of the training images, class-``balanced`` batches of them, ``episodes`` of them (one a step,
            whatever the run's batch size), or the ``held-out`` validation images. In an incremental step all are those
            of its new classes and the exemplars of old ones; then there are also those of the ``new`` classes alone,
            all images of the classes ``seen`` so far, and ``balanced-memory``: of each class as many as the one with
            the fewest has.
        images_per_class: k of the P x k batches where data is ``balanced``.
        episodes: how they are made where data is ``episodes``.
        start: the student at the beginning: ``last`` or ``best`` of the stage before, or ``initial``.
        mixup: how virtual samples are made, for terms with ``samples: virtual``.
        select: what chooses the best epoch on validation: classifier ``accuracy`` or ``ncm``
            (nearest class mean, where no head is trained).
        spots: where the terms distil, sample by sample (``gkd.routing.Routing``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(gt=0)
    share: float | None = Field(default=None, gt=0, le=1)
    terms: dict[str, Term] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    train: tuple[str, ...] = ("student",)
    data: StageData = "all"
    images_per_class: int = Field(default=4, ge=2)
    episodes: EpisodePlan | None = None
    start: Literal["last", "best", "initial"] = "last"
    mixup: Mixup | None = None
    select: Literal["accuracy", "ncm"] = "accuracy"
    spots: Routing = Routing()

    @field_validator("spots", mode="before")
    @classmethod
    def _policy_alone(cls, spots: Any) -> Any:
        """``spots: adaptive`` is short for ``spots: {policy: adaptive}``."""
        return {"policy": spots} if isinstance(spots, str) else spots

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

    @model_validator(mode="before")
    @classmethod
    def _episodes_have_a_plan(cls, data: Any) -> Any:
        """``data: episodes`` alone is those of the default plan."""
        if isinstance(data, Mapping) and data.get("data") == "episodes" and data.get("episodes") is None:
            data = {**data, "episodes": {}}
        return data

    @model_validator(mode="after")
    def _episodes_where_they_are_read(self) -> Stage:
        """Terms within episodes need a stage on them, and so does a plan."""
        if self.data == "episodes":
            return self
        if self.episodes is not None:
            raise ValueError(f"episodes says how data: episodes are made, but data is {self.data}; drop one")
        for name, term in self.terms.items():
            reads = [need for need in IN_EPISODES if need in term.needs]
            if reads:
                raise ValueError(
                    f"the term {name!r} reads {' and '.join(reads)}, which only an episode has; use data: episodes"
                )
        return self

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
            lacking = [need for need in ("labels", "index", "centres", *IN_EPISODES) if need in term.needs]
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

    @model_validator(mode="after")
    def _terms_can_be_routed(self) -> Stage:
        """Routing needs terms at spots, all on the same samples, and a student that is trained."""
        if self.spots.policy == "always":
            return self
        problem = routing_problem(self.terms)
        if problem is not None:
            raise ValueError(f"spots: {self.spots.policy} {problem}")
        if self.mixup is not None and self.mixup.teacher == "interpolated":
            raise ValueError(
                f"spots: {self.spots.policy} needs the teacher's outputs for the mixtures; use "
                "mixup: {teacher: mixed} or spots: always"
            )
        if set(self.train) <= {"adapters"}:
            raise ValueError(
                f"spots: {self.spots.policy} routes what the student learns, but the stage trains adapters alone; "
                "use spots: always"
            )
        return self


class Method(BaseModel):
    """A published (or our own) way to distil, as an ordered set of stages.

    Attributes:
        name: the file's name under ``configs/methods``.
        paper: authors, title, venue, year.
        summary: one line for tables.
        stages: in the order in which they run.
        network: options that the student's network has for this method where the experiment says no others.
        exemplars: whether an incremental step is refused where no exemplar of an old class is kept.
        growth: how the student grows by the classes of an incremental step.
        held_out: the share of an incremental step's exemplars, and as many images of each new class, that is kept
            from training for a rule after it.
        after: rules after each incremental step (``gkd.rules.RULES``); other tasks have none.
        judge: what answers for the student: its ``head``, or ``ncm``, the nearest class mean (in incremental steps
            that of the exemplars); where no head is trained it is ``ncm`` in any case.
        sources: dotted path of a number -> where it is from (paper, code@commit, benchmark or ours).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    paper: str
    summary: str
    stages: dict[str, Stage] = Field(min_length=1)
    network: dict[str, Any] = {}
    exemplars: bool = False
    growth: Growth = Growth()
    held_out: float = Field(default=0.0, ge=0, lt=1)
    after: tuple[str, ...] = ()
    judge: Literal["head", "ncm"] = "head"
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

    @model_validator(mode="after")
    def _rules_are_known(self) -> Method:
        """The rules after a step have names, and what they are fitted on is held out."""
        for name in self.after:
            if name not in RULES:
                raise ValueError(unknown("rule after a step", name, RULES))
        if "fit-bias" in self.after and self.held_out == 0:
            raise ValueError(
                "fit-bias is fitted on images kept from training; give their share, as in held_out: 0.1"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for stage in self.stages.values() for term in stage.terms.values())

    @property
    def trains_head(self) -> bool:
        """Whether some term reads the student's logits or cosines; otherwise the head stays as it was drawn."""
        return bool({"student_logits", "student_cosines"} & set(self.needs))

    @property
    def judged_by_head(self) -> bool:
        """Whether the student's head answers, rather than the nearest class mean."""
        return self.trains_head and self.judge == "head"

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


def without_teacher(method: Method) -> Method:
    """What remains of a method where nothing was learnt before: for the first step of an incremental run.

    Terms that read a teacher or an auxiliary head go, and with them stages that have no other; so does balanced
    fine-tuning, for no class is old. Where no term is left, the first stage is cross-entropy alone.
    """
    content = method.model_dump()
    stages = {}
    for name, stage in method.stages.items():
        terms = {
            key: term
            for key, term in stage.terms.items()
            if not term.needs_teacher and term.head != "auxiliary"
        }
        if terms and stage.data != "balanced-memory":
            kept = content["stages"][name]
            kept["terms"] = {key: kept["terms"][key] for key in terms}
            kept.update(start="last", spots=Routing().model_dump())
            if all(term.samples == "clean" for term in terms.values()):
                kept["mixup"] = None
            stages[name] = kept
    if not stages:
        name, first = next(iter(content["stages"].items()))
        stages[name] = {key: first[key] for key in ("epochs", "share", "optimiser")}
        stages[name]["terms"] = {"cross_entropy": {"loss": "cross_entropy"}}
    return Method.model_validate({**content, "stages": stages})


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
            if term.needs_new_classes and relation is not None and relation.overlap == 1:
                return f"The method {where} is on the classes that the teacher does not have, but it has them all."
    return None


def require(method: Method, relation: LabelRelation | None, others: Mapping[str, Method]) -> None:
    """Refuses a method that the relation denies, naming those of ``others`` that would work."""
    reason = refusal(method, relation)
    if reason is not None:
        fitting = sorted(name for name, other in others.items() if refusal(other, relation) is None)
        raise UserError(f"{reason} Methods that work here: {', '.join(fitting)}.")
