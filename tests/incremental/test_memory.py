"""Exemplars as numbers of samples: the choice of a plain loop, the first m of any larger one, within the budget."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.incremental.memory import (
    SELECTIONS,
    Memory,
    choose_exemplars,
    closest_to_mean,
    exemplars_per_class,
    herding,
    memory_of_lists,
    samples_of,
)
from tests.refusals import refused

Make = Callable[..., ImageSet]


def features(count: int, width: int = 16, seed: int = 0) -> Tensor:
    """In float64, so that no rounding decides between two candidates."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + 0.5


def naive_herding(embedding: Tensor, count: int) -> list[int]:
    """The definition: every candidate's mean with those before, from scratch."""
    unit = [row.double() / row.double().norm() for row in embedding]
    mean = sum(unit) / len(unit)
    picks: list[int] = []
    for _ in range(min(count, len(unit))):
        left = [i for i in range(len(unit)) if i not in picks]
        far = [float((mean - sum(unit[j] for j in [*picks, i]) / (len(picks) + 1)).norm()) for i in left]
        picks.append(left[far.index(min(far))])
    return picks


@pytest.mark.parametrize(("count", "of"), [(1, 40), (12, 40), (40, 40), (60, 25)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_herding_is_the_naive_loop(count: int, of: int, seed: int) -> None:
    embedding = features(of, seed=seed) * torch.linspace(0.1, 9, of).unsqueeze(1)  # lengths that play no part
    picks = herding(embedding, count).tolist()
    assert picks == naive_herding(embedding, count)
    assert len(set(picks)) == min(count, of)
    assert herding(embedding.float(), count).tolist() == picks  # as networks give them


def test_closest_is_the_naive_sort() -> None:
    embedding = features(50) * torch.linspace(0.1, 9, 50).unsqueeze(1)
    unit = [row.double() / row.double().norm() for row in embedding]
    mean = sum(unit) / len(unit)
    expected = sorted(range(50), key=lambda i: float((unit[i] - mean).norm()))
    assert closest_to_mean(embedding, 20).tolist() == expected[:20]
    assert herding(embedding, 20).tolist() != expected[:20]  # herding spreads
    assert herding(embedding, 1).tolist() == expected[:1]


@pytest.mark.parametrize("choose", [herding, closest_to_mean])
def test_equal_and_zero_embeddings_are_chosen_once_each(choose: Callable[[Tensor, int], Tensor]) -> None:
    same = torch.ones(5, 3)
    assert choose(same, 9).tolist() == [0, 1, 2, 3, 4]
    assert choose(torch.zeros(4, 3), 2).tolist() == [0, 1]
    # The zero row is at the mean of these, which no product of rows with the mean can tell.
    some = torch.tensor([[3.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
    assert choose(some, 3).tolist() == [2, 0, 1]
    assert choose(same.bfloat16(), 2).tolist() == [0, 1]
    lengths = 7 * torch.ones(2, 3, dtype=torch.float64)
    choose(lengths, 1)
    assert (lengths == 7).all()  # the caller's stay as they are
    with refused("embedding-not-finite"):
        choose(torch.tensor([[1.0], [float("nan")]]), 1)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_exemplars_are_of_their_class_and_the_first_of_a_larger_choice(
    make_images: Make, selection: str
) -> None:
    images = make_images(60, 4)
    embedding = features(60)
    many, few = (
        choose_exemplars(images, ["c2", "c0"], count, selection=selection, embedding=embedding, seed=5)
        for count in (9, 4)
    )
    assert list(many) == ["c2", "c0"]
    for name, samples in many.items():
        assert (images.labels[samples] == images.space.column(name)).all()
        assert len(set(samples.tolist())) == 9
        assert torch.equal(few[name], samples[:4])
    everything = choose_exemplars(
        images, ["c1"], 99, selection=selection, embedding=embedding, samples=samples_of(images, images.space)
    )
    assert sorted(everything["c1"].tolist()) == samples_of(images, ["c1"]).tolist()


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_choice_needs_no_other_class_and_no_order(make_images: Make, selection: str) -> None:
    images, embedding = make_images(60, 4), features(60)
    own = samples_of(images, ["c1", "c3"])
    mixed = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]
    whole, part, moved = (
        choose_exemplars(
            images, ["c3"], 5, selection=selection, samples=samples, embedding=embedding[samples], seed=1
        )
        for samples in (torch.arange(60), own, mixed)
    )
    assert torch.equal(whole["c3"], part["c3"])
    assert torch.equal(whole["c3"], moved["c3"])
    if selection == "herding":
        three = samples_of(images, ["c3"])
        assert whole["c3"].tolist() == three[naive_herding(embedding[three], 5)].tolist()


def test_random_exemplars_follow_the_seed_and_the_name(make_images: Make) -> None:
    images = make_images(80, 4)
    one, same, other = (
        choose_exemplars(images, images.space.names, 6, selection="random", seed=seed) for seed in (0, 0, 1)
    )
    assert [s.tolist() for s in one.values()] == [s.tolist() for s in same.values()]
    assert all(one[name].tolist() != other[name].tolist() for name in one)
    assert len({tuple((samples // 4).tolist()) for samples in one.values()}) == 4  # ranks within the class
    alone = images.restrict(LabelSpace(["c2"]))
    files = [images.files[i] for i in one["c2"].tolist()]
    picked = choose_exemplars(alone, ["c2"], 6, selection="random", seed=0)["c2"]
    assert [alone.files[i] for i in picked.tolist()] == files


def test_a_total_shrinks_by_class_and_keeps_the_first(make_images: Make) -> None:
    images, embedding = make_images(100, 5), features(100)

    def grow(memory: Memory, classes: list[str]) -> Memory:
        share = exemplars_per_class(len(memory.classes) + len(classes), memory_total=20)
        return memory.cut(share).add(choose_exemplars(images, classes, share, embedding=embedding))

    memory = Memory({})
    assert (len(memory), memory.samples.tolist()) == (0, [])
    first = grow(memory, ["c4", "c1"])
    second = grow(first, ["c0"])
    third = grow(second, ["c2", "c3"])
    assert [len(m) for m in (first, second, third)] == [20, 18, 20]
    assert third.classes == ("c4", "c1", "c0", "c2", "c3")
    assert torch.equal(third.exemplars["c4"], first.exemplars["c4"][:4])
    assert torch.equal(images.labels[third.samples], torch.tensor([4, 1, 0, 2, 3]).repeat_interleave(4))
    assert third.samples.dtype == torch.int64
    # Cut in two steps or chosen at once: the same memory.
    at_once = choose_exemplars(images, ["c4", "c1"], 4, embedding=embedding)
    assert torch.equal(third.exemplars["c1"], at_once["c1"])
    with pytest.raises(ValueError, match=r"exemplars of \['c0'\] already"):
        third.add({"c0": torch.tensor([1])})


def test_budgets() -> None:
    assert exemplars_per_class(30, memory_total=2000) == 66
    assert exemplars_per_class(30, memory_total=30) == 1
    assert exemplars_per_class(30, memory_per_class=20) == 20
    assert exemplars_per_class(30) == 0
    with refused("budgets-not-together"):
        exemplars_per_class(3, memory_total=20, memory_per_class=2)
    with refused("memory-out-of-range"):
        exemplars_per_class(100, memory_total=99)
    with refused("memory-out-of-range"):
        exemplars_per_class(100, memory_total=0)
    with refused("memory-out-of-range"):
        exemplars_per_class(100, memory_per_class=0)


def test_a_memory_goes_through_json_and_is_checked_against_its_images(make_images: Make) -> None:
    images = make_images(60, 4)
    memory = Memory(choose_exemplars(images, ["c3", "c1"], 4, embedding=features(60)))
    lists = json.loads(json.dumps(memory.as_lists()))
    again = memory_of_lists(lists, images)
    assert again.classes == memory.classes
    assert torch.equal(again.samples, memory.samples)
    assert again.samples.dtype == torch.int64
    for wrong in (60, -1, int(memory.exemplars["c1"][0])):
        with refused("other-images"):
            memory_of_lists({"c3": [wrong]}, images)


def test_mistakes_are_named(make_images: Make) -> None:
    images = make_images(12, 3)
    with refused("unknown-selection-of-exemplars"):
        choose_exemplars(images, ["c0"], 2, selection="herd")
    with refused("class-without-images"):
        choose_exemplars(images, ["c0"], 2, selection="random", samples=samples_of(images, ["c1"]))
    with refused("unknown-class"):
        samples_of(images, ["c9"])
    with pytest.raises(ValueError, match="herding needs an embedding of each of 12 samples; got none"):
        choose_exemplars(images, ["c0"], 2)
    with pytest.raises(ValueError, match="of each of 12 samples; got 11"):
        choose_exemplars(images, ["c0"], 2, selection="closest", embedding=features(11))
