"""Stage: one training phase of a method, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gkd.data import EpisodePlan
from gkd.losses.needs import NEEDS
from gkd.losses.signature import Filled
from gkd.methods.mixup import Mixup
from gkd.methods.optimiser import Optimiser
from gkd.methods.routing import Routing, routing_problem
from gkd.methods.terms import RelativeWeight, Term, reduces_cross_entropy

StageData = Literal[
    "all", "labelled", "unlabelled", "both", "balanced", "episodes", "held-out", "new", "seen", "balanced-memory"
]  # fmt: skip
UnknownRows = Literal["full", "published"]
WITHOUT_LABELS = ("unlabelled", "both")  # the data of a stage that takes images without labels


class Stage(BaseModel):
    """One training phase: its terms, optimiser, data, trained parts and start.

    Attributes:
        epochs: the published length; the unit of every schedule in the stage.
        share: the stage's share of ``run.epochs`` where that is set; None is its share of the
            method's published total.
        terms: the weighted losses; a key that names a loss is that loss: ``kd: {weight: 0.9}``.
        optimiser: and its learning-rate schedule.
        train: the parts that are trained: ``student``, ``head``, ``backbone``, ``adapters`` or a
            module path of the student.
        data: ``all`` of the training images that have labels, for which ``labelled`` is another word, the
            ``unlabelled`` ones (``data.unlabelled``) or ``both``; class-``balanced`` batches of all, ``episodes`` of
            them (one a step, whatever the run's batch size), or the ``held-out`` validation images. In an incremental
            step ``all`` means the images of its new classes and the exemplars of old ones; further values there
            are ``new``, the new classes alone, ``seen``, all images of the classes so far, and
            ``balanced-memory``, from each class as many as the smallest has.
        unlabelled_share: the share of a batch's images that have no label, where data is ``both``.
        images_per_class: k of the P x k batches where data is ``balanced``.
        episodes: how episodes are drawn where data is ``episodes``.
        start: the student's weights at the start: ``last`` or ``best`` of the previous stage, or ``initial``.
        mixup: how virtual samples are made, for terms with ``samples: virtual``.
        select: the accuracy that chooses the best epoch on validation: the classifier's (``accuracy``) or
            that of ``ncm`` (nearest class mean, where no head is trained).
        spots: which samples the terms distil at which spots (``gkd.methods.routing.Routing``).
        unknown_rows: what the teacher cannot say of a row, where the cross-entropy has a weight below 1 beside a term
            on the teacher's logits and the task's rows are ``known``: ``full`` gives rows of classes that the teacher
            lacks, and the question whether a row is of one, the cross-entropy with weight 1; ``published`` leaves the
            weights as they are on every row (``gkd.distill.unknown_rows``). A mixture of images counts by its share
            of known labels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(gt=0)
    share: float | None = Field(default=None, gt=0, le=1)
    terms: dict[str, Term] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    train: tuple[str, ...] = ("student",)
    data: StageData = "all"
    unlabelled_share: float = Field(default=0.5, gt=0, lt=1)
    images_per_class: int = Field(default=4, ge=2)
    episodes: EpisodePlan | None = None
    start: Literal["last", "best", "initial"] = "last"
    mixup: Mixup | None = None
    select: Literal["accuracy", "ncm"] = "accuracy"
    spots: Routing = Routing()
    unknown_rows: UnknownRows = "full"

    @property
    def trades_labels(self) -> bool:
        """Whether a cross-entropy of a weight below 1 stands beside a term on the teacher's logits of known rows."""
        terms = self.terms.values()
        return reduces_cross_entropy(terms) and any(
            term.needs_shared_classes and term.rows in (None, "known") and term.weight for term in terms
        )

    @field_validator("data")
    @classmethod
    def _one_word_for_all(cls, data: StageData) -> StageData:
        """``labelled`` is ``all``, so that both words name the same run."""
        return "all" if data == "labelled" else data

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
        """``data: episodes`` alone uses the default plan."""
        if isinstance(data, Mapping) and data.get("data") == "episodes" and data.get("episodes") is None:
            data = {**data, "episodes": {}}
        return data

    @model_validator(mode="after")
    def _episodes_where_they_are_read(self) -> Stage:
        """Refuse terms that read episodes, and a plan of them, where data is not ``episodes``."""
        if self.data == "episodes":
            return self
        if self.episodes is not None:
            raise ValueError(f"episodes says how data: episodes are made, but data is {self.data}; drop one")
        for name, term in self.terms.items():
            reads = [need for need in NEEDS if need in term.needs and NEEDS[need].in_episodes]
            if reads:
                raise ValueError(
                    f"the term {name!r} reads {' and '.join(reads)}, which only an episode has; use data: episodes"
                )
        return self

    @model_validator(mode="after")
    def _measured_weights_have_a_measure(self) -> Stage:
        """Refuse a weight relative to a cross-entropy that is not there, or is itself measured."""
        measured = [name for name, term in self.terms.items() if isinstance(term.weight, RelativeWeight)]
        fixed = [
            n for n, term in self.terms.items() if term.is_cross_entropy and n not in measured and term.weight
        ]
        if measured and not fixed:
            raise ValueError(
                f"the weight of the term {measured[0]!r} is relative to the cross-entropy, and the stage has none "
                "with a number above 0 as weight; add one, or give this term a number"
            )
        return self

    @model_validator(mode="after")
    def _terms_can_do_without_labels(self) -> Stage:
        """Refuse terms that find no row among images without labels, and what reads every row's label."""
        if self.data not in WITHOUT_LABELS:
            if self.unlabelled_share != Stage.model_fields["unlabelled_share"].default:
                raise ValueError(
                    f"unlabelled_share mixes the batches of data: both, but data is {self.data}; drop one"
                )
            return self
        if self.mixup is not None or self.spots.policy != "always":
            what = "mixup mixes" if self.mixup is not None else f"spots: {self.spots.policy} reads"
            raise ValueError(
                f"{what} the labels of all images, and data: {self.data} has some without; drop one"
            )
        readers = [name for name, term in self.terms.items() if term.reads_labels]
        if self.data == "unlabelled" and readers:
            raise ValueError(
                f"the term {readers[0]!r} reads labels, which data: unlabelled has none of; drop it, or use data: both"
            )
        if len(readers) == len(self.terms):
            raise ValueError(
                f"each of the terms {', '.join(readers)} reads labels, so none can use images without, as data: both "
                "has; add one that reads no label, such as sp, or use data: all"
            )
        for name in readers:
            if Filled.MASK not in self.terms[name].entry.filled:
                raise ValueError(
                    f"the term {name!r} must leave out images without a label, but its loss takes no mask: give it a "
                    "keyword mask: gkd.losses.Mask = None"
                )
        return self

    @model_validator(mode="after")
    def _virtual_terms_can_be(self) -> Stage:
        """Refuse terms on virtual samples without mixup, and inputs that a mixture does not have."""
        for name, term in self.terms.items():
            if term.samples == "clean":
                continue
            if self.mixup is None:
                raise ValueError(
                    f"the term {name!r} is on virtual samples; say how to make them: mixup: {{}}"
                )
            lacking = [need for need in NEEDS if need in term.needs and NEEDS[need].of_one_image]
            if lacking and not term.entry.takes_mixed_labels:
                raise ValueError(
                    f"the term {name!r} reads {' and '.join(lacking)} of one image a row, and a virtual sample is made "
                    "of several; use samples: clean"
                )
            facts = [NEEDS[need] for need in term.needs]
            reads = any(need.from_teacher and not need.interpolates for need in facts)
            beyond = reads or term.confidence or term.options.get("standardise")
            if self.mixup.teacher == "interpolated" and beyond:
                raise ValueError(
                    f"the term {name!r} reads more than the teacher's softmax, which alone can be interpolated; use "
                    "mixup: {teacher: mixed}"
                )
        if self.mixup is not None and all(term.samples == "clean" for term in self.terms.values()):
            raise ValueError("mixup makes virtual samples, but no term is samples: virtual")
        return self

    @property
    def reads_peer(self) -> bool:
        """Whether a term reads a second student that is trained beside the first."""
        return any(term.reads_peer for term in self.terms.values())

    @model_validator(mode="after")
    def _peers_see_the_same(self) -> Stage:
        """Refuse what would show two students different samples, or weigh their terms by one of them."""
        measured = any(isinstance(term.weight, RelativeWeight) for term in self.terms.values())
        reasons = {
            "mixup draws the samples of each network anew; drop it": self.mixup is not None,
            "spots route what one student distils; use spots: always": self.spots.policy != "always",
            "optimiser.dot keeps apart what a teacher says; drop it": self.optimiser.dot is not None,
            "a weight relative to the cross-entropy is measured on one; give numbers": measured,
        }
        for reason, applies in reasons.items():
            if applies and self.reads_peer:
                raise ValueError(f"two students are trained together, and {reason}")
        return self

    @model_validator(mode="after")
    def _terms_can_be_routed(self) -> Stage:
        """Refuse routing unless its terms have spots and the same samples, and the student is trained."""
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
