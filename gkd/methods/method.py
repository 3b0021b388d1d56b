"""A method is data: named stages of weighted terms, read from ``configs/methods/*.yaml``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gkd.core.errors import UserError
from gkd.methods.stage import WITHOUT_LABELS, Stage
from gkd.methods.terms import Term

# The rules that may run after an incremental step.
Rule = Literal["align-weights", "fit-bias"]


class Growth(BaseModel):
    """How a student grows by the classes of an incremental step.

    Attributes:
        new: the new columns start at ``random``, or ``imprint``-ed by the new classes' mean embeddings.
        old: whether the old columns are ``trained`` on or stay ``frozen`` (a cosine head's alone can).
        extractor: the one extractor is ``kept``, or each step freezes the extractors so far and ``expand``s
            the network by a new one (``gkd.models.expanding``).
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


class Method(BaseModel):
    """A distillation method, published or our own, as an ordered set of stages.

    Attributes:
        name: the file's name under ``configs/methods``.
        paper: authors, title, venue, year.
        summary: one line for tables.
        stages: in the order in which they run.
        network: the method's options of the student's network, where the experiment sets no others.
        head: what the student ends in: its ``own`` head; one of its own behind a projector to the teacher's embedding,
            ``projected``; or the ``teacher``'s behind that, which wants the teacher's classes to be the student's
            (``gkd.models.projected``).
        exemplars: whether the method needs exemplars: an incremental step without one of an old class is
            refused.
        growth: how the student grows by the classes of an incremental step.
        held_out: the share of an incremental step's exemplars, and as many images of each new class, that is
            held out of training for a rule after it.
        after: rules after each incremental step (keys of ``gkd.incremental.head_rules.RULES``); other tasks have none.
        judge: the student's classifier when it is evaluated: its ``head``, or ``ncm``, the nearest class mean
            (in incremental steps that of the exemplars); always ``ncm`` where no head is trained.
        sources: dotted path of a number -> where it is from (paper, code@commit, benchmark or ours).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    paper: str
    summary: str
    stages: dict[str, Stage] = Field(min_length=1)
    network: dict[str, Any] = {}
    head: Literal["own", "projected", "teacher"] = "own"
    exemplars: bool = False
    growth: Growth = Growth()
    held_out: float = Field(default=0.0, ge=0, lt=1)
    after: tuple[Rule, ...] = ()
    judge: Literal["head", "ncm"] = "head"
    sources: dict[str, str] = {}

    @model_validator(mode="after")
    def _what_must_come_first_does(self) -> Method:
        """Refuse a term whose loss needs an earlier stage with the same term, where there is none."""
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
    def _peers_have_one_stage(self) -> Method:
        """Refuse further stages beside one that trains two students: they would not say whose."""
        if self.reads_peer and len(self.stages) > 1:
            raise ValueError(
                f"two students are trained together in one stage, and there are {', '.join(self.stages)}; keep one"
            )
        return self

    @model_validator(mode="after")
    def _rules_have_images(self) -> Method:
        """Refuse the rule ``fit-bias`` without held-out images to fit it on."""
        if "fit-bias" in self.after and self.held_out == 0:
            raise ValueError(
                "fit-bias is fitted on images kept from training; give their share, as in held_out: 0.1"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        return any(term.needs_teacher for stage in self.stages.values() for term in stage.terms.values())

    @property
    def reads_peer(self) -> bool:
        """Whether two students are trained together, each of which reads the other."""
        return any(stage.reads_peer for stage in self.stages.values())

    @property
    def reads_names(self) -> bool:
        """Whether a term reads the teacher's vectors of the class names."""
        return any(term.reads_names for stage in self.stages.values() for term in stage.terms.values())

    @property
    def uses_unlabelled(self) -> bool:
        """Whether a stage trains on images without labels."""
        return any(stage.data in WITHOUT_LABELS for stage in self.stages.values())

    @property
    def trains_head(self) -> bool:
        """Whether a term reads the student's logits or cosines; otherwise the head keeps its random weights."""
        return bool({"student_logits", "student_cosines"} & set(self.needs))

    @property
    def judged_by_head(self) -> bool:
        """Whether the student is evaluated by its head, rather than by the nearest class mean."""
        return (self.trains_head or self.head == "teacher") and self.judge == "head"

    @property
    def needs(self) -> tuple[str, ...]:
        """Everything that the method's losses read, in a fixed order."""
        needs = {
            need for stage in self.stages.values() for term in stage.terms.values() for need in term.needs
        }
        return tuple(sorted(needs))

    def epochs(self, total: int | None) -> dict[str, int]:
        """The number of epochs of each stage: the published ones, or shares of a total.

        Raises:
            UserError: a total too small for the stages.
        """
        if total is None:
            return {name: max(round(stage.epochs), 1) for name, stage in self.stages.items()}
        if total < len(self.stages):
            raise UserError(
                f"run.epochs={total} leaves a stage of {self.name!r} without an epoch; use at least "
                f"{len(self.stages)} for its stages {', '.join(self.stages)}.",
                code="too-few-epochs",
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
