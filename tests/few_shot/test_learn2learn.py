"""learn2learn's tasks as episodes: the same statistics, the same answers, and nothing else without it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import learn2learn
import numpy as np
import pytest
import torch
from learn2learn.data import MetaDataset, Taskset
from learn2learn.data.transforms import (
    ConsecutiveLabels,
    FilterLabels,
    FusedNWaysKShots,
    KShots,
    LoadData,
    NWays,
    RemapLabels,
)
from torch import Tensor
from torch.utils.data import TensorDataset

from gkd.data.episodes import draw_episodes
from gkd.few_shot.classifiers import cosine_mean, nearest_mean
from gkd.few_shot.learn2learn import (
    shared_classes,
    taskset_episodes,
    taskset_images,
)
from tests.refusals import refused

CLASSES, EACH = 8, 20
Steps = Callable[[Any, int, int], list[Any]]


def labels_of(classes: int = CLASSES, each: int = EACH) -> Tensor:
    """Classes in no order, none of whose labels is its column."""
    generator = torch.Generator().manual_seed(5)
    return (torch.arange(classes).repeat(each) * 3 + 7)[torch.randperm(classes * each, generator=generator)]


def meta(labels: Tensor, values: Tensor | None = None) -> MetaDataset:
    values = (
        torch.rand(len(labels), 3, 4, 4, generator=torch.Generator().manual_seed(1))
        if values is None
        else values
    )
    return MetaDataset(TensorDataset(values, labels))


def fused(dataset: Any, ways: int, samples: int) -> list[Any]:
    return [
        FusedNWaysKShots(dataset, n=ways, k=samples),
        LoadData(dataset),
        RemapLabels(dataset),
        ConsecutiveLabels(dataset),
    ]


def apart(dataset: Any, ways: int, samples: int) -> list[Any]:
    return [NWays(dataset, ways), KShots(dataset, samples), LoadData(dataset), RemapLabels(dataset)]


def columns_of(labels: Tensor) -> Tensor:
    return torch.unique(labels, return_inverse=True)[1]


@pytest.mark.parametrize("steps", [fused, apart])
def test_tasks_become_episodes_and_no_image_is_read(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of()
    dataset = meta(labels)
    taskset = Taskset(dataset, steps(dataset, 4, 7))
    asked: list[Any] = []
    monkeypatch.setattr(TensorDataset, "__getitem__", lambda self, index: asked.append(index))
    episodes = taskset_episodes(taskset, columns_of(labels), shots=2, queries=5, count=30, seed=0)
    assert not asked
    assert (len(episodes), episodes.ways, episodes.shots, episodes.queries) == (30, 4, 2, 5)
    of = columns_of(labels)[episodes.index]
    assert torch.equal(of, episodes.classes.unsqueeze(2).expand_as(of))
    assert (episodes.classes.diff(dim=1) > 0).all()  # in the order of columns
    for index, classes in zip(episodes.index, episodes.classes, strict=True):
        assert len(index.unique()) == 28
        assert len(classes.unique()) == 4


@pytest.mark.parametrize("steps", [fused, apart])
def test_a_task_of_learn2learns_own_loop_has_the_same_support_and_queries(steps: Steps) -> None:
    """A taskset of a fixed number of tasks keeps them: its batches are the episodes' samples."""
    labels = labels_of()
    dataset = meta(labels, torch.arange(len(labels)))
    taskset = Taskset(dataset, steps(dataset, 4, 10), num_tasks=6)
    episodes = taskset_episodes(taskset, columns_of(labels), shots=5, queries=5, seed=0)
    assert len(episodes) == 6
    for episode, (numbers, remapped) in enumerate(taskset):
        (support, _), (query, _) = learn2learn.data.partition_task(numbers, remapped, shots=5)
        ours = {tuple(row) for row in torch.cat([episodes.support, episodes.query], 2)[episode].tolist()}
        theirs = torch.cat([support.view(4, 5), query.view(4, 5)], 1)
        assert ours == {tuple(row) for row in theirs.tolist()}


def test_a_seed_gives_the_same_tasks_and_the_global_generators_are_untouched() -> None:
    labels = labels_of()
    dataset = meta(labels)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    drawn = []
    for seed in (0, 0, 1):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        taskset = Taskset(dataset, fused(dataset, 4, 7))
        drawn.append(taskset_episodes(taskset, columns_of(labels), shots=2, queries=5, count=5, seed=seed))
        assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert torch.equal(drawn[0].index, drawn[1].index)
    assert not torch.equal(drawn[0].index, drawn[2].index)


@pytest.mark.parametrize("steps", [fused, apart])
def test_classes_and_samples_are_drawn_as_often_as_by_gkd(steps: Steps) -> None:
    """Both are uniform: frequencies within 4.5 standard errors, and chi-square against one another."""
    labels, count = labels_of(), 4000
    dataset, columns = meta(labels), columns_of(labels)
    taskset = Taskset(dataset, steps(dataset, 4, 5))
    theirs = taskset_episodes(taskset, columns, shots=2, queries=3, count=count, seed=0)
    ours = draw_episodes(columns, count=count, ways=4, shots=2, queries=3, seed=0)
    for what in (lambda e: e.classes, lambda e: e.support, lambda e: e.query):
        bins = CLASSES if what(ours).dim() == 2 else CLASSES * EACH
        counts = [torch.bincount(what(each).flatten(), minlength=bins).double() for each in (ours, theirs)]
        expected = what(ours).numel() / bins
        for found in counts:
            assert (found - expected).abs().max() < 4.5 * expected**0.5
        square = ((counts[0] - counts[1]) ** 2 / (counts[0] + counts[1])).sum()
        assert square < bins + 4.5 * (2 * bins) ** 0.5  # draws without replacement only narrow it


@pytest.mark.parametrize(
    ("ours", "distance"), [(nearest_mean, "euclidean"), (cosine_mean, "cosine")], ids=["euclidean", "cosine"]
)
def test_protonet_answers_as_learn2learns(ours: Callable[[Tensor, Tensor], Tensor], distance: str) -> None:
    """On the same episodes every query gets the same answer; support rows are made unit rows for the cosine."""
    labels = labels_of()
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(CLASSES, 16, generator=generator, dtype=torch.float64)
    columns = columns_of(labels)
    embedding = centres[columns] + torch.randn(len(labels), 16, generator=generator, dtype=torch.float64)
    if distance == "cosine":
        embedding = torch.nn.functional.normalize(embedding, dim=1)
    dataset = meta(labels)
    taskset = Taskset(dataset, fused(dataset, 5, 12))
    episodes = taskset_episodes(taskset, columns, shots=4, queries=8, count=50, seed=0)
    answers = ours(embedding[episodes.support], embedding[episodes.query]).argmax(3)
    right = (answers == torch.arange(5).view(1, 5, 1)).double().mean()
    assert 0.5 < right < 1
    for support, query, answer in zip(episodes.support, episodes.query, answers, strict=True):
        head = learn2learn.nn.PrototypicalClassifier(
            embedding[support].flatten(0, 1), torch.arange(5).repeat_interleave(4), distance=distance
        )
        assert torch.equal(head(embedding[query].flatten(0, 1)).argmax(1), answer.flatten())


def test_the_numbers_are_those_of_the_set_that_is_loaded() -> None:
    """As in learn2learn's omniglot, whose tasksets hold one set and load another."""
    labels = labels_of()
    whole = meta(labels)
    part = learn2learn.data.FilteredMetaDataset(whole, [7, 10, 13])
    within = taskset_episodes(
        Taskset(part, fused(part, 2, 4)), labels[part.to_true_indices], shots=1, queries=3, count=20, seed=0
    )
    assert within.index.max() < 60
    around = taskset_episodes(Taskset(part, fused(whole, 2, 4)), labels, shots=1, queries=3, count=20, seed=0)
    assert around.index.max() >= 60
    assert len(taskset_images(Taskset(part, fused(part, 2, 4)))) == 60


def test_images_are_read_once_with_the_labels_as_names() -> None:
    labels = labels_of(3, 4)
    images = taskset_images(Taskset(meta(labels)), unnamed="mine ")
    assert images.space.names == ("mine 7", "mine 10", "mine 13")
    assert torch.equal(images.labels, columns_of(labels))
    expected = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images.images, (expected * 255).round().to(torch.uint8))


def task_refused(
    code: str, steps: Any = None, labels: Tensor | None = None, tasks: int = -1, **options: Any
) -> None:
    dataset = meta(labels_of())
    taskset = Taskset(dataset, (steps or (lambda d: fused(d, 4, 7)))(dataset), num_tasks=tasks)
    given = {"shots": 2, "queries": 5, "count": 3, "seed": 0, **options}
    with refused(code):
        taskset_episodes(taskset, columns_of(labels_of()) if labels is None else labels, **given)


def test_what_is_no_episode_is_refused() -> None:
    task_refused("other-task-size", queries=6)
    task_refused("uneven-classes", queries=12)
    task_refused(
        "sample-twice",
        lambda d: [FusedNWaysKShots(d, 4, 7, replacement=True)],
    )
    task_refused("undrawable-task", lambda d: fused(d, 9, 7))
    task_refused("undrawable-task", lambda d: fused(d, 4, 21))
    task_refused("needs-count", count=None)
    task_refused("count-out-of-range", tasks=2)
    task_refused("other-label-count", labels=torch.arange(5))
    task_refused("other-classes", labels=columns_of(labels_of()).roll(1))
    task_refused("other-classes", labels=columns_of(labels_of()) // 2)


def test_transforms_of_images_are_refused_by_name() -> None:
    rotation = learn2learn.vision.transforms.RandomClassRotation
    task_refused(
        "changed-images",
        lambda d: [*fused(d, 4, 7), rotation(d, [0, 90])],
    )


def test_shared_classes_are_found_where_the_data_is_one_or_has_names() -> None:
    whole = meta(labels_of())
    some = [FilterLabels(whole, [7, 10]), *apart(whole, 2, 7)]
    other = [FusedNWaysKShots(whole, 2, 7, filter_labels=[10, 13]), LoadData(whole)]
    assert shared_classes(Taskset(whole, some), Taskset(whole, other)) == ["10"]
    assert len(shared_classes(Taskset(whole, some), Taskset(whole, fused(whole, 2, 7)))) == 2
    again = meta(labels_of())
    assert shared_classes(Taskset(whole, fused(whole, 2, 7)), Taskset(again, fused(again, 2, 7))) == []
    named = [meta(torch.arange(3).repeat(7)) for _ in range(2)]
    named[0].dataset.classes, named[1].dataset.classes = ["ant", "bee", "cat"], ["cat", "dog", "eel"]
    assert shared_classes(*(Taskset(each, fused(each, 2, 7)) for each in named)) == ["cat"]
