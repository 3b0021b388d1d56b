"""Mixup and CutMix as data: how virtual samples are mixed from the images of a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gkd.core.errors import UserError
from gkd.data.augment.link import parse_link


class Mixup(BaseModel):
    """How a stage makes virtual samples, for its terms with ``samples: virtual``.

    Attributes:
        kind: ``mixup``, a weighted sum of images (Zhang et al., ICLR 2018), or ``cutmix``, a box of the second image in
            the first, whose weights are their shares of the area (Yun et al., ICCV 2019). Labels are mixed by the
            weights either way, and so are a teacher's distributions that are ``interpolated``.
        probability: of a draw that mixes at all; without it images and labels stay as they are.
        images: how many images of the batch make one virtual sample.
        alpha: the weights come from Dirichlet(alpha, ...), for two images Beta(alpha, alpha).
        weight: the first image's weight, fixed, the others sharing the rest (alpha and per are then unused);
            None draws all weights. Of ``cutmix`` they are such where the box lies inside the image; what of a box lies
            outside is lost, and counts for the first image.
        per: one draw for the whole ``batch``, or one for each ``sample``.
        teacher: the target is the teacher's output for the ``mixed`` image, or its distributions for the images,
            ``interpolated`` with their weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mixup", "cutmix"] = "mixup"
    probability: float = Field(default=1.0, gt=0, le=1)
    images: int = Field(default=2, ge=2)
    alpha: float = Field(default=1.0, gt=0)
    weight: float | None = Field(default=None, gt=0, lt=1)
    per: Literal["batch", "sample"] = "batch"
    teacher: Literal["mixed", "interpolated"] = "mixed"

    @model_validator(mode="after")
    def _a_box_is_of_one_image(self) -> Mixup:
        if self.kind == "cutmix" and self.images != 2:
            raise ValueError(
                f"kind: cutmix puts a box of one image into another, so images is 2, not {self.images}"
            )
        return self


# The options of each kind as the last link of data.augment; the others are set in a method file.
_IN_A_CHAIN = {"mixup": ("alpha", "images"), "cutmix": ("alpha", "probability")}
_FORM = {"mixup": "mixup(alpha=0.2, images=2)", "cutmix": "cutmix(alpha=1, probability=0.5)"}


def without_mixup(augment: str) -> tuple[str, Mixup | None]:
    """Split an augmentation into the part before a last link ``mixup`` or ``cutmix``, and that link's options.

    Raises:
        UserError: a last link of another form than theirs, or an invalid option.
    """
    *before, last = augment.split("+")
    kind = next((kind for kind in _IN_A_CHAIN if last.strip().startswith(kind)), None)
    if kind is None:
        return augment, None
    name, options = parse_link(last)
    if name != kind or options.keys() - set(_IN_A_CHAIN[kind]):
        raise UserError(
            f"The augmentation {last.strip()!r} is not of the form {kind} or {_FORM[kind]}.",
            code="augmentation-form",
        )
    named = {} if kind == "mixup" else {"kind": kind}
    try:
        return "+".join(before) or "none", Mixup.model_validate({**named, **options})
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(
            f"The augmentation {last.strip()!r}: {problem['loc'][0]}: {problem['msg']}.",
            code="invalid-option",
        ) from None
