"""What a loss may read."""

from __future__ import annotations

from gkd.losses import LOSSES, NEEDS


def test_every_need_is_read_by_a_loss() -> None:
    assert {need for loss in LOSSES.values() for need in loss.needs} == NEEDS.keys()
