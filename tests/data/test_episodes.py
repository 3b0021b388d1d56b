"""Episodes: what the protocol asks of them, the same everywhere, and refused where they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gkd.data.episodes import Episodes, draw_episodes, load_episodes
from tests.refusals import refused

SIZES = (30, 20, 47, 33, 20, 25)
PINNED_CLASSES = [[5, 3, 1], [5, 3, 4]]
PINNED_INDEX = [[[11, 29, 41], [15, 33, 9], [19, 37, 25]], [[29, 23, 11], [39, 51, 9], [40, 4, 34]]]


def labels(sizes: tuple[int, ...] = SIZES) -> Tensor:
    """Unequal classes in no order."""
    ordered = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(1))]


def draw(count: int = 50, seed: int = 3, ways: int = 4, shots: int = 5, queries: int = 15) -> Episodes:
    return draw_episodes(labels(), count=count, ways=ways, shots=shots, queries=queries, seed=seed)


def test_samples_are_of_their_class_and_stand_once() -> None:
    episodes, of = draw(), labels()
    assert episodes.index.shape == (50, 4, 20)
    assert (len(episodes), episodes.ways, episodes.shots, episodes.queries) == (50, 4, 5, 15)
    assert torch.equal(of[episodes.index], episodes.classes.unsqueeze(2).expand(-1, -1, 20))
    for index, classes in zip(episodes.index, episodes.classes, strict=True):
        assert len(set(index.flatten().tolist())) == 4 * 20
        assert len(set(classes.tolist())) == 4


def test_no_support_image_is_a_query() -> None:
    episodes = draw(shots=3, queries=17)
    for support, query in zip(episodes.support, episodes.query, strict=True):
        assert not set(support.flatten().tolist()) & set(query.flatten().tolist())


def test_classes_and_samples_are_uniform() -> None:
    episodes = draw_episodes(labels((20,) * 6), count=6000, ways=3, shots=2, queries=3, seed=0)
    classes = torch.bincount(episodes.classes.flatten(), minlength=6).double()
    assert (classes / 3000 - 1).abs().max() < 0.06  # 3.9 standard errors
    for part, each in ((episodes.support, 300.0), (episodes.query, 450.0)):
        counts = torch.bincount(part.flatten(), minlength=120).double()
        assert (counts / each - 1).abs().max() < 4.5 / each**0.5
    first = torch.bincount(episodes.classes[:, 0], minlength=6).double()  # every place is uniform by itself
    assert (first / 1000 - 1).abs().max() < 0.12


def test_a_seed_is_the_same_episodes_in_another_process() -> None:
    code = (
        "import torch; from gkd.data.episodes import draw_episodes as d\n"
        "e = d(torch.arange(600) % 6, count=7, ways=5, shots=5, queries=15, seed=11)\n"
        "print(e.index.sum().item(), e.index[6, 4].tolist(), e.classes[0].tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    torch.rand(3)
    mine = draw_episodes(torch.arange(600) % 6, count=7, ways=5, shots=5, queries=15, seed=11)
    assert other.split(" ", 1) == [
        str(mine.index.sum().item()),
        f"{mine.index[6, 4].tolist()} {mine.classes[0].tolist()}\n",
    ]
    assert not torch.equal(draw(seed=4).index, draw(seed=5).index)


def test_the_numbers_of_a_seed_are_pinned() -> None:
    """Another machine or version must draw these very ones."""
    episodes = draw_episodes(torch.arange(60) % 6, count=2, ways=3, shots=1, queries=2, seed=0)
    assert episodes.classes.tolist() == PINNED_CLASSES
    assert episodes.index.tolist() == PINNED_INDEX


def test_fewer_shots_are_the_first_of_more() -> None:
    five = draw()
    one = five.with_shots(1)
    assert torch.equal(one.support, five.support[:, :, :1])
    assert torch.equal(one.query, five.query)
    assert torch.equal(one.classes, five.classes)
    with refused("shots-out-of-range"):
        five.with_shots(6)


def test_they_are_saved_and_read(tmp_path: Path) -> None:
    episodes = draw()
    episodes.save(tmp_path / "episodes.safetensors")
    again = load_episodes(tmp_path / "episodes.safetensors")
    assert torch.equal(again.index, episodes.index)
    assert torch.equal(again.classes, episodes.classes)
    assert again.shots == 5
    (tmp_path / "other").write_bytes(b"no")
    with refused("episodes-unreadable"):
        load_episodes(tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"ways": 7}, "too-few-classes"),
        ({"ways": 1}, "episodes-out-of-range"),
        ({"queries": 0}, "episodes-out-of-range"),
        ({"shots": 6}, "too-few-images"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, int], code: str) -> None:
    with refused(code):
        draw(**options)


def test_more_episodes_than_the_memory_holds_are_refused_before_they_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gkd.core.memory.available_memory", lambda: 2**30)
    with refused("memory-missing"):
        draw_episodes(torch.arange(40) % 4, count=10**12, ways=2, shots=1, queries=4, seed=0)
    assert len(draw_episodes(torch.arange(40) % 4, count=10, ways=2, shots=1, queries=4, seed=0).index) == 10
