"""Spots: pairs of outputs, and the output that one names."""

import pytest
import torch
from pydantic import ValidationError

from gkd.core.network import Features
from gkd.core.tapped import Shapes
from gkd.methods.spots import Spots, output_at
from tests.refusals import refused

FEATURES = Features(torch.zeros(2, 3), torch.ones(2, 4), (torch.zeros(2, 5, 6, 6), torch.zeros(2, 7, 3, 3)))


def test_lists_are_paired_one_by_one() -> None:
    assert Spots().pairs() == [(-1, -1)]
    spots = Spots(student=[1, 3], teacher=[2, "embedding"])
    assert spots.pairs() == [(1, 2), (3, "embedding")]


@pytest.mark.parametrize("sides", [{"student": [1, 2]}, {"student": [1], "teacher": [1, 2]}, {"student": []}])
def test_unequal_lists_are_refused(sides: dict[str, list[int]]) -> None:
    with pytest.raises(ValidationError, match="need as many spots, one or more"):
        Spots.model_validate(sides)


def test_a_spot_names_an_output_or_its_shape() -> None:
    assert output_at(FEATURES, "logits") is FEATURES.logits
    assert output_at(FEATURES, "embedding") is FEATURES.embedding
    assert output_at(FEATURES, -1) is FEATURES.maps[1]
    assert output_at(Shapes((3,), (4,), ((5, 6, 6),)), 0) == (5, 6, 6)
    with refused("spot-out-of-range"):
        output_at(FEATURES, 2)
