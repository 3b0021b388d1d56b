"""Terms: the weighted losses of a stage, as data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticKnownError

from gkd.core.errors import UserError, shown
from gkd.losses.needs import NEEDS
from gkd.losses.registry import Loss, loss_entry
from gkd.methods.spots import SIDELESS_SPOTS, MapSpot, PlacePair, Preact, SpotPair, Spots
from gkd.methods.term_checks import ALL, Mistake, mistakes


class WeightSchedule(BaseModel):
    """A factor on a term's ``weight`` that changes over its stage.

    Epochs are the method's own and rescale with the stage.

    Attributes:
        kind: ``constant``: 1; ``linear``: rises from 0 to 1 over ``warmup_epochs``; ``exponential``:
            exp(-rate * epoch), epochs in the method's own.
        warmup_epochs: of ``linear``.
        rate: of ``exponential``, an epoch.
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


class RelativeWeight(BaseModel):
    """A weight that is measured: it makes a term pull on the student so hard, relative to the cross-entropy.

    Before a stage's first step ``gkd.distill.pulls`` compares the two gradients on the student's outputs; the weight is
    then frozen, and saved with the run.

    Attributes:
        relative: the norm of the weighted term's gradient over that of the weighted cross-entropy's.
        batches: how many of the stage's first batches they are measured on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    relative: float = Field(gt=0)
    batches: int = Field(default=8, ge=1)

    def __str__(self) -> str:
        return f"{self.relative:g} of cross_entropy"


def _weight(value: Any) -> float | RelativeWeight:
    """A number, or a section on how it is measured; one sentence on anything else, as pydantic has of a number."""
    if isinstance(value, RelativeWeight):
        return value
    if isinstance(value, Mapping):
        try:
            return RelativeWeight.model_validate(dict(value))
        except ValidationError as error:
            wrong = error.errors()[0]
            raise ValueError(
                f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}; a measured weight is written {{relative: 0.5}}, "
                "or with the number of batches it is measured on {relative: 0.5, batches: 8}"
            ) from None
    try:
        number = float(value)
    except OverflowError:
        raise PydanticKnownError("finite_number") from None
    except (TypeError, ValueError):
        raise PydanticKnownError("float_parsing" if isinstance(value, str) else "float_type") from None
    if not number >= 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0.0})
    return number


ClassScale = Literal["old-share", "new-share", "ucir", "podnet"]


def class_scale(kind: ClassScale, num_old: int, num_new: int) -> float:
    """The factor on a term's weight by the numbers of classes that the teacher has (old) and has not (new).

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


Combination = Literal["sum", "mean", "drop"]


class _Told(type(BaseModel)):  # type: ignore[misc]  # pydantic's own metaclass has no public name
    """Lets a call of the class, which a user writes in Python, end with a `UserError`; a config is told otherwise."""

    def __call__(cls, *args: Any, **keys: Any) -> Any:
        try:
            return super().__call__(*args, **keys)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, item['loc']))}: {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors()
            ]
            raise UserError(f"{cls.__name__}: {'; '.join(lines)}.", code="invalid-term") from None


class Term(BaseModel, metaclass=_Told):
    """One weighted loss of a stage. Keys that are not listed here are the loss's own options.

    Attributes:
        loss: a name in ``gkd.losses.LOSSES``, one of an installed package, or ``pkg.module:name``.
        weight: multiplies the loss; 0 or more, or ``{relative: 0.5}``, measured against the cross-entropy.
        schedule: a factor on the weight that changes over the stage.
        scale: a factor on the weight by the numbers of old and new classes (`class_scale`), which incremental steps
            change; without a teacher or a previous step, every class is new.
        at: the spots of a loss on maps.
        rows: over overlapping spaces, which rows a loss on the teacher's logits sees: ``known``
            (labels that the teacher has) or ``all``; None leaves it to the task.
        where: ``shared`` leaves the term out where its teacher shares fewer than two classes with the student,
            ``all-shared`` where it lacks one of the student's, too; None leaves no term out, so that one that compares
            shared classes refuses the method where there are fewer than two.
        centres: class centres of the ``train`` set (computed once, in eval mode, over un-augmented
            images) or of each ``batch``; or the vectors that the teacher gives for the classes' ``names``.
        confidence: weights each sample by the teacher's confidence in its own label space.
        teacher: the name of the teacher that the term reads, where there are several, a list of names, or ``all``; None
            is the first. Over several the loss is computed for each, with a projector or queue of its own.
        combine: how the losses of several teachers become one: their ``sum``, their ``mean``, or ``drop``: in each step
            the mean over the teacher with the largest loss and those of the others that are not dropped
            (``gkd.distill.several``).
        drop_rate: the probability with which ``drop`` leaves each of the others out.
        balance: ``phi-s`` gives all dimensions of the teacher's embedding the same variance, by a rotation and one
            factor that are taken of the training images (``gkd.losses.phi_s``); None leaves it as it is.
        samples: the ``clean`` images, or ``virtual`` samples that the stage's ``mixup`` makes of them.
        head: the head whose logits a loss on logits and labels reads: the ``student``'s, or an ``auxiliary``
            one over the part that an incremental step added to the embedding, with one column for all old
            classes together and one for each new class. The term owns that head; a first step goes without
            the term.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    loss: str
    weight: Annotated[float | RelativeWeight, PlainValidator(_weight)] = 1.0
    schedule: WeightSchedule = WeightSchedule()
    scale: ClassScale | None = None
    at: Spots = Spots()
    rows: Literal["known", "all"] | None = None
    where: Literal["shared", "all-shared"] | None = None
    centres: Literal["train", "batch", "names"] = "train"
    confidence: Literal["pseudo-label", "entropy", "max-logit"] | None = None
    teacher: str | tuple[str, ...] | None = None
    combine: Combination = "sum"
    drop_rate: float = Field(default=0.5, ge=0, le=1)
    balance: Literal["phi-s"] | None = None
    samples: Literal["clean", "virtual"] = "clean"
    head: Literal["student", "auxiliary"] = "student"

    @field_validator("teacher", mode="before")
    @classmethod
    def _names_of_teachers(cls, teacher: Any) -> Any:
        named = teacher if isinstance(teacher, (list, tuple)) else () if teacher is None else (teacher,)
        if not all(isinstance(name, str) for name in named):
            raise ValueError(f"{shown(teacher)} is no name of a teacher, list of names, or {ALL}")
        return teacher

    @field_validator("loss")
    @classmethod
    def _the_loss_exists(cls, loss: str) -> str:
        loss_entry(loss)
        return loss

    @model_validator(mode="wrap")
    @classmethod
    def _fits_its_loss(cls, data: Any, handler: ModelWrapValidatorHandler[Term]) -> Term:
        """Check the term against its loss beside pydantic's checks, so that all mistakes come at once."""
        found = list(mistakes(data, list(cls.model_fields))) if isinstance(data, Mapping) else []
        errors = [_detail(mistake, data) for mistake in found]
        try:
            term = handler(data)
        except ValidationError as error:
            errors += [
                InitErrorDetails(
                    type=item["type"], loc=item["loc"], input=item["input"], ctx=item.get("ctx", {})
                )
                for item in error.errors(include_url=False)
            ]
        if not errors:
            errors = [_detail(mistake, data) for mistake in _too_few_spots(term)]
        if errors:
            raise ValidationError.from_exception_data("Term", errors)
        return term

    @property
    def shown_weight(self) -> str:
        """The weight for the eye, as ``3000`` or ``0.5 of cross_entropy``."""
        return str(self.weight) if isinstance(self.weight, RelativeWeight) else f"{self.weight:g}"

    @property
    def entry(self) -> Loss:
        """The loss's entry in the registry."""
        return loss_entry(self.loss)

    @property
    def options(self) -> dict[str, Any]:
        """The loss's own keyword arguments, with its defaults where the method sets none."""
        return {**self.entry.options, **(self.model_extra or {})}

    @property
    def needs(self) -> tuple[str, ...]:
        """The term's inputs: the names of the loss's positional arguments."""
        return self.entry.needs

    @property
    def needs_teacher(self) -> bool:
        return self.entry.needs_teacher

    @property
    def reads_peer(self) -> bool:
        """Whether the term reads a second student that is trained beside the first."""
        return any(NEEDS[need].from_peer for need in self.needs)

    @property
    def needs_new_classes(self) -> bool:
        """Whether the term needs a class that the teacher does not have."""
        return "known" in self.needs or self.scale in ("ucir", "podnet") or self.head == "auxiliary"

    @property
    def reads_names(self) -> bool:
        """Whether the term reads the teacher's vectors of the class names."""
        return "centres" in self.needs and self.centres == "names"

    @property
    def reads_labels(self) -> bool:
        """Whether the term reads the samples' labels, so that it is on labelled samples alone."""
        of_batch = "centres" in self.needs and self.centres == "batch"
        return of_batch or self.entry.takes_labels or any(NEEDS[need].from_labels for need in self.needs)

    @property
    def reads_teachers_columns(self) -> bool:
        """Whether the term reads the teacher's logits, as a loss's input, at a spot or for its confidence."""
        at_logits = any(pair[1] == "logits" for pairs in self.readings for pair in pairs)
        return self.needs_shared_classes or self.confidence is not None or (self.needs_teacher and at_logits)

    @property
    def readings(self) -> list[tuple[PlacePair, ...]]:
        """The (student, teacher) spots of each value that the term sums: a pair, two that follow each other, or all."""
        places = self.at.places()
        if self.entry.reads_every_spot:
            return [tuple(places)]
        if self.entry.reads_pairs_of_spots:
            return list(itertools.pairwise(places))
        return [(pair,) for pair in places]

    @property
    def spot_pairs(self) -> list[SpotPair]:
        """The (student, teacher) spots that the term compares; none where it reads two outputs of different kinds."""
        if self.entry.spot_needs:
            return self.at.pairs()
        for spot in SIDELESS_SPOTS:
            if {f"student_{spot}", f"teacher_{spot}"} <= set(self.needs):
                return [(spot, spot)]
        return []

    @property
    def teacher_maps(self) -> set[MapSpot]:
        """The teacher's maps of the clean images that the term reads."""
        reads = self.samples == "clean" and bool(self.entry.spot_needs)
        maps: set[MapSpot] = {
            spot for _, spot in self.at.places() if reads and isinstance(spot, (int, Preact))
        }
        pooled = self.samples == "clean" and "teacher_pooled_map" in self.needs
        return maps | {"pooled"} if pooled else maps

    def reads_preact(self, side: Literal["student", "teacher"]) -> bool:
        """Whether the term reads maps of a side before their last activation."""
        if self.at.preact not in (side, "both") or not self.entry.spot_needs:
            return False
        return any(isinstance(pair[int(side == "teacher")], int) for pair in self.at.pairs())

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is the cross-entropy of the student's own head."""
        return self.loss == "cross_entropy" and self.head == "student"

    @property
    def needs_shared_classes(self) -> bool:
        """Whether what student and teacher say of their shared classes is compared class by class."""
        return self.entry.compares_classes


def reduces_cross_entropy(terms: Iterable[Term]) -> bool:
    """Whether the weights of the cross-entropies of the student's own head are numbers, above 0 and below 1 in all."""
    weights = [term.weight for term in terms if term.is_cross_entropy]
    numbers = [weight for weight in weights if not isinstance(weight, RelativeWeight)]
    return len(numbers) == len(weights) and 0 < sum(numbers) < 1


def checked_terms(terms: Mapping[str, Term]) -> dict[str, Term]:
    """The terms of a distiller by name.

    Raises:
        UserError: something else than terms by name.
    """
    if not isinstance(terms, Mapping):
        raise UserError(
            f"terms is a {type(terms).__name__}; give names and terms, such as {{'kd': Term(loss='kd')}}.",
            code="not-terms",
        )
    for name, term in terms.items():
        if not isinstance(term, Term):
            raise UserError(
                f"The term {name!r} is a {type(term).__name__}; give a gkd.Term, such as Term(loss='kd', weight=0.9).",
                code="not-a-term",
            )
    return dict(terms)


def _too_few_spots(term: Term) -> Iterator[Mistake]:
    """A loss on pairs of successive spots, with one spot."""
    if term.entry.reads_pairs_of_spots and len(term.at.pairs()) < 2:
        yield (
            "at",
            f"the loss {term.loss!r} reads a map and the one after it; name two spots or more on each side",
        )


def _detail(mistake: Mistake, data: Mapping[str, Any]) -> InitErrorDetails:
    """A mistake in pydantic's form."""
    key, problem = mistake
    return InitErrorDetails(
        type="value_error", loc=(key,), input=data.get(key), ctx={"error": ValueError(problem)}
    )
