"""How a photograph becomes the input of a network, and what its output is: JSON that a file of a network carries.

It is written for readers without gkd, in the words of torchvision and timm, its keys in the order of the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

KEY = (
    "preprocessing"  # in the header of a weight file, the extra files of a pt2, the metadata_props of an ONNX
)

# Which classifier answers, as summaries and files say it.
HEAD, CLASS_MEANS, EXEMPLAR_MEANS = "head", "nearest class mean", "nearest class mean of the exemplars"

COSINE_SCALE = 10.0  # to a softmax's input, where Meta-Baseline (Chen et al., ICCV 2021) starts to learn it

Fit = Literal["stretch", "crop"]
Exif = Literal["apply", "ignore"]
Interpolation = Literal["bilinear", "bicubic"]

_SHORTER = "shorter side"
_ORDERS = {1: "L", 3: "RGB"}


def shorter_side(crop: int) -> int:
    """Pixels of the shorter side before the middle is cropped: 256 for 224, as ImageNet's networks are judged."""
    return round(crop * 8 / 7)


@dataclass(frozen=True)
class Preprocessing:
    """The part of the preprocessing that a network's weights do not say by themselves.

    Attributes:
        fit: how photographs become squares, as ``data.fit``; None where nobody knows.
        exif: whether they are turned as their EXIF orientation says; None where nobody knows.
        answers: the classifier by which the run was judged: ``head``, or another over the embedding.
    """

    fit: Fit | None = None
    exif: Exif | None = None
    answers: str = HEAD

    @classmethod
    def of_former(cls, data: Any, answers: str) -> Preprocessing:
        """That of a weight file from before it was written there.

        Args:
            data: the ``data`` section of its run's config; of a file without a run, None.
            answers: the classifier by which the run was judged.
        """
        if not isinstance(data, Mapping):
            return cls(answers=answers)
        fit, exif = data.get("fit", "stretch"), data.get("exif", "apply")
        return cls(fit if fit in get_args(Fit) else None, exif if exif in get_args(Exif) else None, answers)

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """Read what ``describe`` wrote.

        Raises:
            ValueError: other text.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"{text[:60]!r} is no mapping")
        resize = content.get("resize")
        rule = resize.get("rule") if isinstance(resize, dict) else None
        exif, answers = content.get("exif"), content.get("answers", HEAD)
        known = rule in (None, "stretch", _SHORTER) and exif in (None, *get_args(Exif))
        if not known or not isinstance(answers, str):
            raise ValueError(f"{text[:60]!r} holds steps that gkd does not know")
        return cls("crop" if rule == _SHORTER else rule, exif, answers)

    def data_keys(self) -> dict[str, str]:
        """The keys of a ``data`` section by which photographs are read so; those that nobody knows are left out."""
        known = {"fit": self.fit, "exif": self.exif}
        return {key: value for key, value in known.items() if value is not None}

    def describe(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_shape: Sequence[int],
        classes: Sequence[str],
        inside: bool,
        by_means: bool = False,
    ) -> dict[str, Any]:
        """Every step from a photograph to the answer, as plain data for JSON.

        Args:
            mean, std: one number a channel, of pixels in [0, 1].
            image_shape: ``(C, H, W)`` of the input.
            classes: in the order of the columns.
            by_means: whether a program gives cosines to class means, by which its run was judged, and no logits.
            inside: whether the file normalises, as a program does, or its reader has to, as for bare weights.
        """
        channels, height, width = image_shape
        resize: dict[str, Any] | None = None
        crop: dict[str, Any] | None = None
        if self.fit == "stretch":
            resize = {"rule": "stretch", "size": [height, width]}
        elif self.fit == "crop":
            resize = {"rule": _SHORTER, "size": shorter_side(height)}
            crop = {"rule": "center", "size": [height, width]}
        return {
            "exif": self.exif,
            "channel_order": _ORDERS.get(channels),
            "alpha": "dropped",
            "resize": resize,
            "interpolation": "bilinear",
            "antialias": True,
            "crop": crop,
            "pixel_range": [0.0, 1.0],
            "normalisation": {
                "where": "inside the file" if inside else "outside the file, before the network",
                "formula": "(pixel - mean) / std",
                "mean": list(mean),
                "std": list(std),
            },
            "input_name": "images",
            "input_size": [channels, height, width],
            "layout": "NCHW",
            "dtype": "float32",
            "output": f"{'cosines to the class means' if by_means else 'logits of the head'}, one column a class",
            "probabilities": {
                "formula": "softmax(scale * output)",
                "scale": COSINE_SCALE if by_means else 1.0,
            },
            "classes": list(classes),
            "answers": self.answers,
        }
