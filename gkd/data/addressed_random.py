"""Counter-based random numbers: data order and augmentation as pure functions, without a generator.

A generator is state: how many numbers it has given depends on the batch size, the workers, the ranks and
the step at which a run was resumed. Here a number is a *hash of its address* (seed, stage, epoch, sample
index, view, draw), so each sample's crop in each epoch is fixed before the run starts and is the same bits
on every device, with any number of threads, ranks or restarts.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the sequence key + index · γ, whose
key is itself a hash of the other parts of the address. Each step of it is a bijection of 64-bit words, so
two indices under one key never collide.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


_MULTIPLIER_1 = 0xBF58476D1CE4E5B9


_MULTIPLIER_2 = 0x94D049BB133111EB


# The first part of every key says what the number is for, so that no two uses share a stream.
PURPOSE_AUGMENT, PURPOSE_ORDER, PURPOSE_CLASSES, PURPOSE_LIMIT, PURPOSE_VALIDATION, PURPOSE_DIGITS = range(6)


PURPOSE_EPISODES = 6


PURPOSE_MEMORY = 7


PURPOSE_UNLABELLED = 8


PURPOSE_GENERATION = 9  # of the initial weights of a generation's student


PURPOSE_PEER = 10  # of the initial weights of the second of two students


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the int64 with the same bits (torch has no arithmetic on uint64)."""
    return word - (1 << 64) if word >> 63 else word


def _mix_word(word: int) -> int:
    """The SplitMix64 finaliser on one unsigned 64-bit Python integer."""
    word = ((word ^ (word >> 30)) * _MULTIPLIER_1) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLIER_2) & _MASK
    return word ^ (word >> 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """A logical shift: torch's ``>>`` copies the sign bit, so the copies are masked away."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    """The SplitMix64 finaliser on int64 words; torch's int64 product wraps, which is what is wanted."""
    words = (words ^ _shift_right(words, 30)) * _signed(_MULTIPLIER_1)
    words = (words ^ _shift_right(words, 27)) * _signed(_MULTIPLIER_2)
    return words ^ _shift_right(words, 31)


def key_of(*parts: int) -> int:
    """A 64-bit key from integers of any size and sign (taken modulo 2^64); their order matters."""
    key = _GAMMA
    for part in parts:
        key = _mix_word((_mix_word((part + _GAMMA) & _MASK) + key * 3) & _MASK)
    return key


def hashed(key: int, index: Tensor) -> Tensor:
    """Pseudo-random 64-bit words, one for each counter.

    Args:
        key: from :func:`key_of`.
        index: int64 of any shape, on any device.

    Returns:
        int64 of the same shape and device, uniform over all 2^64 words, distinct for distinct counters.
    """
    return _mix(index * _signed(_GAMMA) + _signed(key))


def uniform(seed: int, stage: int, epoch: int, index: Tensor, *, view: int = 0, draw: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) as a pure function of their address.

    Args:
        seed: the run's seed.
        stage: the method's stage, from 0.
        epoch: the epoch within the stage, from 0.
        index: int64 ``[B]``, each sample's number in its data set; the result lives on its device.
        view: which view of the sample, from 0.
        draw: which of the numbers that one view needs, from 0.

    Returns:
        float32 ``[B]``: multiples of 2^-24 in [0, 1), the same bits on every device.
    """
    words = hashed(key_of(PURPOSE_AUGMENT, seed, stage, epoch, view, draw), index)
    # 24 bits fit a float32 exactly: no rounding, so 1.0 cannot appear and devices cannot disagree.
    return _shift_right(words, 40).to(torch.float32) * 2.0**-24


def hash_order(key: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The permutation of ``0 … count-1`` that sorts their hashes: int64 ``[count]`` on ``device``."""
    # One key's hashes are distinct, so there are no ties for a device to break in its own way.
    return torch.argsort(hashed(key, torch.arange(count, device=device)), stable=True)


def epoch_order(
    seed: int, stage: int, epoch: int, num_samples: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The order in which an epoch visits the samples.

    Args:
        seed, stage, epoch: the address, as in :func:`uniform`.
        num_samples: N, the size of the data set.
        device: where the result lives; it does not change the result.

    Returns:
        int64 ``[N]``, a permutation of ``0 … N-1``.
    """
    return hash_order(key_of(PURPOSE_ORDER, seed, stage, epoch), num_samples, device)
