"""An experiment from its file, and from the one that it extends."""

from __future__ import annotations

from gkd.config.load import load
from tests.config_helpers import TINY, Write
from tests.refusals import refused


def test_extends_goes_one_level_deep(write: Write) -> None:
    write("first", TINY)
    write("second", {"extends": "first"})
    third = write("third", {"extends": "second"})
    with refused("nested-extends"):
        load(third)
    assert load(write("other", {"extends": "quickstart"})).experiment.task.size == 5
