"""Links of a chain as text."""

from __future__ import annotations

import pytest

from gkd.data.augment.link import parse_link
from tests.refusals import refused


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" crop-flip ", ("crop-flip", {})),
        ("cutout(size=0.25)", ("cutout", {"size": 0.25})),
        ("random-erasing(fill=random, p=1)", ("random-erasing", {"fill": "random", "p": 1})),
        ("v2:GaussianBlur(kernel_size=3)", ("v2:GaussianBlur", {"kernel_size": 3})),
        (
            "v2:RandomAffine(degrees=[-10, 10], fill=none, interpolation=bilinear, expand = True)",
            ("v2:RandomAffine", {"degrees": (-10, 10), "fill": None, "interpolation": "bilinear", "expand": True}),
        ),
        ("v2:X(a=[], b=[0.1], c=1e-3)", ("v2:X", {"a": (), "b": (0.1,), "c": 0.001})),
    ],
)  # fmt: skip
def test_a_link_is_a_name_with_options(text: str, expected: object) -> None:
    assert parse_link(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "crop flip", "Crop", "cutout(size)", "cutout(size=big)", "cutout(size=[1])", "cutout(size=true)", "v2:",
     "v2:X(a)", "v2:X(a=)", "v2:X(a=[[1]])", "v2:X(a=[1)", "v2:X(a=b c)", "v3:X", "cutout(size=random)(a=1)"],
)  # fmt: skip
def test_another_form_is_refused(text: str) -> None:
    with refused("augmentation-form"):
        parse_link(text)
