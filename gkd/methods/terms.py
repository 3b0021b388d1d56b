"""Terms: the weighted losses of a stage, as data."""

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

from gkd.core.errors import unknown
from gkd.losses import AT_SPOTS, LOSSES, Loss, range_problem, reads_teacher
from gkd.methods.spots import SIDELESS_SPOTS, SpotPair, Spots


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


ClassScale = Literal["old-share", "new-share", "ucir", "podnet"]


def class_scale(kind: ClassScale, num_old: int, num_new: int) -> float:
    """How a term's weight follows the numbers of classes that the teacher has (old) and has not (new).

    ``old-share``: old / (old + new), and ``new-share``: new / (old + new), of BiC and WA; ``ucir``: √(old / new);
    ``podnet``: √((old + new) / new).

    Args:
        kind: the factor's name.
        num_old, num_new: how many of the student's classes the teacher has, and has not; for ``ucir`` and ``podnet``
            at least one is new.
    """
    if kind == "old-share":
        return num_old / (num_old + num_new)
    if kind == "new-share":
        return num_new / (num_old + num_new)
    return math.sqrt((num_old if kind == "ucir" else num_old + num_new) / num_new)


class Term(BaseModel):
    """One weighted loss of a stage. Keys that are not listed here are the loss's own options.

    Attributes:
        loss: a name in ``gkd.losses.LOSSES``.
        weight: multiplies the loss; 0 or more.
        schedule: how the weight moves over the stage.
        scale: a factor on the weight by the numbers of old and new classes (`class_scale`), which incremental steps
            change; without a teacher or a step before, every class is new.
        at: the spots of a loss on maps.
        rows: over overlapping spaces, which rows a loss on the teacher's logits sees: ``known``
            (labels that the teacher has) or ``all``; None leaves it to the task.
        centres: class centres of the ``train`` set (computed once, in eval mode, over un-augmented
            images) or of each ``batch``.
        confidence: weights each sample by how sure the teacher is in its own label space.
        samples: the ``clean`` images, or ``virtual`` samples that the stage's ``mixup`` makes of them.
        head: whose logits a loss on logits and labels reads: the ``student``'s, or those of an ``auxiliary`` head over
            what an incremental step added to the embedding, with one column for all old classes together and one for
            each new class. The term owns that head; a first step goes without the term.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    loss: str
    weight: float = Field(default=1.0, ge=0)
    schedule: WeightSchedule = WeightSchedule()
    scale: ClassScale | None = None
    at: Spots = Spots()
    rows: Literal["known", "all"] | None = None
    centres: Literal["train", "batch"] = "train"
    confidence: Literal["pseudo-label", "entropy", "max-logit"] | None = None
    samples: Literal["clean", "virtual"] = "clean"
    head: Literal["student", "auxiliary"] = "student"

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
            if data.get("head") == "auxiliary" and (
                set(entry.needs) != {"student_logits", "labels"} or entry.module
            ):
                problem = (
                    f"the loss {data['loss']!r} reads {', '.join(entry.needs)}, where an auxiliary head gives "
                    "student_logits and their labels alone, as for cross_entropy"
                )
                errors.append(_mistake(problem, "head", data["head"]))
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
        return reads_teacher(self.needs)

    @property
    def needs_new_classes(self) -> bool:
        """Whether there must be a class that the teacher does not have."""
        return "known" in self.needs or self.scale in ("ucir", "podnet") or self.head == "auxiliary"

    @property
    def readings(self) -> list[tuple[SpotPair, SpotPair]]:
        """The (student, teacher) spots of each value that the term sums, and those that follow them."""
        pairs = self.at.pairs()
        if "student_map_after" in self.needs:
            return list(itertools.pairwise(pairs))
        return [(pair, pair) for pair in pairs]

    @property
    def spot_pairs(self) -> list[SpotPair]:
        """The (student, teacher) spots that the term compares; none where it reads two outputs of different kinds."""
        if set(self.needs) & set(AT_SPOTS):
            return self.at.pairs()
        for spot in SIDELESS_SPOTS:
            if {f"student_{spot}", f"teacher_{spot}"} <= set(self.needs):
                return [(spot, spot)]
        return []

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
