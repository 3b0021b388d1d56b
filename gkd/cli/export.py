"""gkd export: a student as one file for other programs."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.export import export_student, load_student
from gkd.storage.preprocessing import HEAD


def main(arguments: argparse.Namespace, console: Console) -> int:
    student = load_student(arguments.run, arguments.weights, arguments.overrides)
    path, difference = export_student(student, arguments.format, arguments.out)
    console.print(
        f"{path}: {path.stat().st_size:,} bytes, {student.metadata.network}, {len(student.metadata.classes)} classes; "
        f"read back, its logits differ by {difference:.1e} at most",
        markup=False,
        highlight=False,
    )
    if student.preprocessing.fit is None:
        console.print(
            f"note      {student.source} does not say how photographs of other sizes become its input; add "
            "data.fit=stretch, or crop",
            markup=False,
            highlight=False,
        )
    if student.preprocessing.answers != HEAD:
        console.print(
            f"note      the run is judged by the {student.preprocessing.answers}; the file's logits are the head's, "
            "which answers otherwise",
            markup=False,
            highlight=False,
        )
    return 0
