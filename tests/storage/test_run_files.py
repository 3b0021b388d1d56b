"""What a run packs into its files comes back."""

from __future__ import annotations

import torch

from gkd.storage.run_files import pack, unpack


def test_packed_correctness_comes_back() -> None:
    correct = torch.rand(37) < 0.5
    assert (unpack(pack(correct), 37) == correct.numpy()).all()
