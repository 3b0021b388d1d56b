"""gkd export: a student as one file for other programs."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.export import export_student, load_student
from gkd.core.text import say
from gkd.experiment.run_folder import unchecked
from gkd.storage.preprocessing import HEAD


def main(arguments: argparse.Namespace, console: Console) -> int:
    student = load_student(arguments.run, arguments.weights, arguments.overrides)
    path, difference = export_student(student, arguments.format, arguments.out)
    say(
        console,
        f"{path}: {path.stat().st_size:,} bytes, {student.metadata.network}, {len(student.metadata.classes)} classes; "
        f"read back, its logits differ by {difference:.1e} at most",
    )
    note = unchecked(arguments.run)
    if note is not None:
        say(console, f"note      {note}")
    if student.preprocessing.fit is None:
        say(
            console,
            f"note      {student.source} does not say how photographs of other sizes become its input; add "
            "data.fit=stretch, or crop",
        )
    if student.preprocessing.answers != HEAD and student.program_means is not None:
        say(
            console,
            f"note      the file answers by the {student.preprocessing.answers}, as its run was judged",
        )
    elif student.preprocessing.answers != HEAD:
        say(
            console,
            f"note      the run is judged by the {student.preprocessing.answers}; the file's logits are the head's, "
            "which answers otherwise",
        )
    return 0
