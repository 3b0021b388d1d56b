"""The peer of an experiment's student: a second one that is trained beside it, by methods that read one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gkd.config.side_sections import Peer
from gkd.problems.task import task_class

if TYPE_CHECKING:
    from gkd.config.schema import Experiment


def peer_of(experiment: Experiment) -> Peer | None:
    """The second student's section, by default that of a network as the student's; None where the method has none."""
    if not experiment.method.reads_peer:
        return None
    student = experiment.student
    return student.peer or Peer(network=student.network, options=student.options, taps=student.taps)


def check_peer(experiment: Experiment) -> None:
    """Refuse a method that trains two students in a task that judges one alone.

    Raises:
        ValueError: such a method.
    """
    method, name = experiment.method, experiment.task.name
    if method.reads_peer and not getattr(task_class(name), "judges_peers", False):
        raise ValueError(
            f"the method {method.name} trains a second student beside the first, and the task {name} has one; use "
            "standard or cross_task, or another method"
        )


def leave_out_unread_peer(section: dict[str, Any], experiment: Experiment) -> None:
    """Drop the peer of a student's section, as it names a run, where none is trained or it is as by default."""
    usual = experiment.model_copy(update={"student": experiment.student.model_copy(update={"peer": None})})
    if peer_of(experiment) == peer_of(usual):
        section.pop("peer", None)
