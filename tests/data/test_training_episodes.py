"""Episodes to train on: their size, their number, and those of an epoch."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gkd.data import EpisodePlan
from gkd.data.training_episodes import episodes_of_epoch

PLAN = EpisodePlan(ways=3, shots=2, queries=4)


def test_rows_stand_by_class_support_first() -> None:
    assert PLAN.size == 18
    assert PLAN.way.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert PLAN.support.tolist() == [True, True, False, False, False, False] * 3


@pytest.mark.parametrize(
    ("images", "episodes"), [(10, 1), (18, 1), (26, 1), (28, 2), (180, 10), (38400, 2133)]
)
def test_an_epoch_shows_about_as_many_images_as_there_are(images: int, episodes: int) -> None:
    assert PLAN.count(images) == episodes
    assert EpisodePlan(per_epoch=7).count(images) == 7


@pytest.mark.parametrize("wrong", [{"ways": 1}, {"shots": 0}, {"queries": 0}, {"per_epoch": 0}, {"shot": 1}])
def test_a_plan_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        EpisodePlan(**wrong)


def test_episodes_keep_the_columns_of_classes_that_have_images() -> None:
    labels = torch.tensor([5, 1, 8, 3]).repeat(9)
    classes = torch.tensor([1, 3, 5, 8])
    drawn = episodes_of_epoch(labels, classes, PLAN, seed=1, stage=0, epoch=0)
    assert drawn.index.shape == (2, 3, 6)
    assert torch.equal(labels[drawn.index], drawn.classes.unsqueeze(2).expand(-1, -1, 6))


def test_the_draw_depends_on_seed_stage_and_epoch_alone() -> None:
    labels, classes = torch.arange(4).repeat(20), torch.arange(4)
    base = {"seed": 1, "stage": 0, "epoch": 0}
    drawn = [episodes_of_epoch(labels, classes, PLAN, **{**base, key: base[key] + 1}).index for key in base]
    torch.manual_seed(5)
    drawn += [episodes_of_epoch(labels, classes, PLAN, **base).index for _ in range(2)]
    assert torch.equal(drawn[-1], drawn[-2])
    assert len({tuple(index.flatten().tolist()) for index in drawn}) == 4
