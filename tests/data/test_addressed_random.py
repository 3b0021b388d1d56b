"""Counter-based random numbers: pure, uniform, and without the correlations that weak hashes have."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from gkd.data.addressed_random import _MASK, _mix_word, epoch_order, hashed, key_of, uniform

INDEX = torch.arange(100_000)


def test_the_hash_is_splitmix64() -> None:
    """The published first outputs of SplitMix64 from state 1234567, and big integers as the reference."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    words = hashed(1234567, torch.arange(1, 4)).tolist()
    assert [word & _MASK for word in words] == published
    for key in (0, 5, 2**64 - 1, 2**63):
        index = torch.tensor([0, 1, 77, 2**40, -3])
        expected = [_mix_word((key + i * 0x9E3779B97F4A7C15) & _MASK) for i in index.tolist()]
        assert [word & _MASK for word in hashed(key, index).tolist()] == expected


def test_numbers_are_pinned() -> None:
    """A change of the hash would change every run; this says so."""
    values = uniform(1, 2, 3, torch.tensor([0, 1, 49_999]), view=1, draw=2)
    again = uniform(1, 2, 3, torch.tensor([49_999]), view=1, draw=2)
    assert values.dtype == torch.float32
    assert values[2:].equal(again)
    assert (values * 2**24).to(torch.int64).tolist() == [7925240, 14954109, 6482581]
    assert epoch_order(1, 2, 3, 8).tolist() == [0, 3, 4, 2, 5, 1, 6, 7]


def test_global_generator_plays_no_part() -> None:
    torch.manual_seed(0)
    first = uniform(1, 0, 0, INDEX[:100]), epoch_order(1, 0, 0, 100)
    torch.manual_seed(99)
    torch.rand(3)
    second = uniform(1, 0, 0, INDEX[:100]), epoch_order(1, 0, 0, 100)
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])


@pytest.mark.parametrize("seed", [0, 1, 2**31, -7, 2**70])
def test_uniformity(seed: int) -> None:
    values = uniform(seed, 0, 0, INDEX)
    assert values.min() >= 0
    assert values.max() < 1
    # chi-square over 100 bins: mean 99, standard deviation 14
    counts = torch.histc(values, bins=100, min=0, max=1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 45 < chi_square < 170
    # the low bits are as good as the high ones
    low = (values * 2**24).to(torch.int64) & 63
    counts = torch.bincount(low, minlength=64).double()
    chi_square = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    assert 25 < chi_square < 125


ADDRESSES = [
    ({}, {"shift": 1}),
    ({}, {"shift": 2}),
    ({}, {"seed": 1}),
    ({}, {"stage": 1}),
    ({}, {"epoch": 1}),
    ({}, {"view": 1}),
    ({}, {"draw": 1}),
    ({"epoch": 1}, {"stage": 1}),
    ({"view": 1}, {"draw": 1}),
    ({"seed": 1}, {"epoch": 1}),
]


@pytest.mark.parametrize(("first", "second"), ADDRESSES)
def test_neighbouring_addresses_are_uncorrelated(first: dict[str, int], second: dict[str, int]) -> None:
    """|r| of 100,000 independent pairs stays under 0.016 (five standard deviations)."""

    def values(address: dict[str, int]) -> torch.Tensor:
        parts = {"seed": 0, "stage": 0, "epoch": 0, "view": 0, "draw": 0, "shift": 0} | address
        return uniform(index=INDEX + parts.pop("shift"), **parts)

    a, b = values(first), values(second)
    assert not a.equal(b)
    assert abs(float(torch.corrcoef(torch.stack([a, b]).double())[0, 1])) < 0.016
    # jointly uniform as well: an 8×8 table of pairs, chi-square with mean 63 and deviation 11
    cells = torch.bincount((a * 8).long() * 8 + (b * 8).long(), minlength=64).double()
    assert float(((cells - cells.mean()) ** 2 / cells.mean()).sum()) < 125


def test_key_depends_on_every_part_and_their_order() -> None:
    keys = {key_of(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(keys) == 12**3
    assert key_of(1) != key_of(1, 0)
    assert key_of(-1) == key_of(2**64 - 1)


def test_order_is_a_permutation_that_changes_with_the_epoch() -> None:
    orders = [epoch_order(3, 0, epoch, 1000) for epoch in range(5)]
    for order in orders:
        assert order.sort().values.equal(torch.arange(1000))
    for first, second in pairwise(orders):
        assert (first == second).sum() < 10
        ranks = torch.stack([first, second]).double()
        assert abs(float(torch.corrcoef(ranks)[0, 1])) < 0.16
    assert epoch_order(3, 0, 0, 0).tolist() == []
    assert epoch_order(3, 0, 0, 1).tolist() == [0]


def test_thread_count_plays_no_part() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = epoch_order(0, 0, 0, 100_000), uniform(0, 0, 0, INDEX)
        torch.set_num_threads(2)
        two = epoch_order(0, 0, 0, 100_000), uniform(0, 0, 0, INDEX)
    finally:
        torch.set_num_threads(threads)
    assert one[0].equal(two[0])
    assert one[1].equal(two[1])
