"""The adapters: how they are found."""

from __future__ import annotations

from gkd.problems.task import TASKS
from gkd.tasks.cross_task import CrossTask
from gkd.tasks.standard import Standard


def test_adapters_are_found_by_entry_point() -> None:
    assert {"standard", "cross_task"} <= set(TASKS)
    for name, adapter in (("standard", Standard), ("cross_task", CrossTask)):
        assert TASKS[name].load() is adapter
        assert adapter.Options().name == name
