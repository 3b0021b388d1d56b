"""What the losses over all spots share: checks of shapes and of what they are called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gkd.losses import LOSSES
from gkd.losses.every_map import depth_factors, pooled_to, smaller
from tests.refusals import refused

# OFA's branches read labels beside the student's maps alone.
EVERY = [name for name, loss in LOSSES.items() if loss.reads_every_spot and name != "ofa_branches"]
MAPS = [(3, 4, 4), (4, 2, 2)]


def build(name: str, student: Any = MAPS, teacher: Any = MAPS) -> Any:
    module = LOSSES[name].module
    assert module is not None
    return module(student, teacher)


def test_the_last_spot_counts_fully() -> None:
    assert depth_factors(3, 2.0) == [0.25, 0.5, 1.0]
    assert depth_factors(1, 7.0) == [1.0]


def test_both_maps_are_pooled_to_the_smaller_side_each_way() -> None:
    size = smaller((3, 4, 2), (5, 2, 8))
    assert size == (2, 2)
    assert pooled_to(torch.arange(8.0).view(1, 1, 4, 2), size).tolist() == [[[[1.0, 2.0], [5.0, 6.0]]]]


@pytest.mark.parametrize("name", EVERY)
def test_other_numbers_of_spots_are_refused(name: str) -> None:
    with refused("other-number-of-spots"):
        build(name, MAPS, MAPS[:1])
    with refused("other-number-of-spots"):
        build(name, [], [])
    maps = [torch.zeros(2, *shape) for shape in MAPS]
    with refused("other-number-of-spots"):
        build(name)(maps, maps[:1])
    with refused("other-number-of-spots"):
        build(name)(maps[:1], maps)


@pytest.mark.parametrize("name", EVERY)
def test_spots_of_other_batch_sizes_are_refused(name: str) -> None:
    maps = [torch.zeros(2, *shape) for shape in MAPS]
    with refused("other-batch-sizes"):
        build(name)([maps[0], maps[1][:1]], maps)


@pytest.mark.parametrize("name", EVERY)
def test_an_embedding_is_a_map_for_the_review_alone(name: str) -> None:
    shapes = [(3, 4, 4), (5,)]
    if name == "reviewkd":
        inputs = [torch.ones(2, *shape) for shape in shapes]
        assert build(name, shapes, shapes)(inputs, inputs) >= 0
        return
    with refused("not-a-map"):
        build(name, shapes, shapes)
