"""Stages whose terms are routed, as data: what can be, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gkd.config.shipped import load_method
from gkd.methods.stage import Stage


def stage(**keys: Any) -> Stage:
    return Stage.model_validate(
        {"epochs": 1, "terms": {"cross_entropy": {}, "sp": {}}, "spots": "adaptive", **keys}
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"terms": {"cross_entropy": {}}}, "no term of the stage reads a teacher"),
        ({"terms": {"induced_classifier": {}}}, "'induced_classifier' reads .* declare spots: always"),
        ({"train": ["adapters"]}, "trains adapters alone"),
        (
            {"terms": {"kd": {"samples": "virtual"}, "sp": {}}, "mixup": {}},
            "all terms on clean images, or all on virtual samples",
        ),
        (
            {"terms": {"kd": {"samples": "virtual"}}, "mixup": {"teacher": "interpolated"}},
            "teacher: mixed",
        ),
        ({"spots": {"keep": 0.9}}, "keep is read by adaptive and anti alone; add policy: adaptive"),
        ({"spots": {"policy": "adaptive", "initial_bias": float("inf")}}, "finite"),
        ({"spots": "sometimes"}, "'always', 'adaptive', 'anti' or 'random'"),
        ({"spots": {"policy": "adaptive", "keep": 2}}, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_routed_is_refused(keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        stage(**keys)


def test_every_shipped_stage_can_be_routed_or_says_why_not() -> None:
    for name in ("fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ft", "nst", "crd", "kd", "dkd"):
        last = list(load_method(name).stages.values())[-1]
        assert Stage.model_validate({**last.model_dump(), "spots": "adaptive"}).spots.policy == "adaptive"
    stages = load_method("refilled").stages
    assert Stage.model_validate({**stages["embedding"].model_dump(), "spots": "adaptive"})


def test_virtual_samples_can_be_routed() -> None:
    assert stage(terms={"kd": {"samples": "virtual"}, "cross_entropy": {"samples": "virtual"}}, mixup={})
