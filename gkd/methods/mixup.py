"""Mixup as data: how virtual samples are mixed from the images of a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gkd.core.errors import UserError
from gkd.data.augment.chain import parse_link


class Mixup(BaseModel):
    """How a stage makes virtual samples, for its terms with ``samples: virtual``.

    Attributes:
        images: how many images of the batch make one virtual sample.
        alpha: the weights come from Dirichlet(alpha, ...), for two images Beta(alpha, alpha).
        weight: the first image's weight, fixed, the others sharing the rest (alpha and per are then unused);
            None draws all weights.
        per: one draw for the whole ``batch``, or one for each ``sample``.
        teacher: the target is the teacher's output for the ``mixed`` image, or its distributions for the images,
            ``interpolated`` with their weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(default=2, ge=2)
    alpha: float = Field(default=1.0, gt=0)
    weight: float | None = Field(default=None, gt=0, lt=1)
    per: Literal["batch", "sample"] = "batch"
    teacher: Literal["mixed", "interpolated"] = "mixed"


def without_mixup(augment: str) -> tuple[str, Mixup | None]:
    """Split an augmentation into the part before a last link ``mixup``, and that link's options.

    Raises:
        UserError: a last link of another form than mixup's, or an invalid option.
    """
    *before, last = augment.split("+")
    if not last.strip().startswith("mixup"):
        return augment, None
    name, options = parse_link(last)
    if name != "mixup" or options.keys() - {"alpha", "images"}:
        raise UserError(
            f"The augmentation {last.strip()!r} is not of the form mixup or mixup(alpha=0.2, images=2).",
            code="augmentation-form",
        )
    try:
        return "+".join(before) or "none", Mixup.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(
            f"The augmentation {last.strip()!r}: {problem['loc'][0]}: {problem['msg']}.",
            code="invalid-option",
        ) from None
