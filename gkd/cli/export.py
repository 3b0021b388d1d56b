"""gkd export: a student as one file for other programs."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.export import export_student, load_student
from gkd.experiment.run_folder import finished


def main(arguments: argparse.Namespace, console: Console) -> int:
    student = load_student(arguments.run, arguments.weights, arguments.overrides)
    path, difference = export_student(student, arguments.format, arguments.out)
    console.print(
        f"{path}: {path.stat().st_size:,} bytes, {student.metadata.network}, {len(student.metadata.classes)} classes; "
        f"read back, its logits differ by {difference:.1e} at most",
        markup=False,
        highlight=False,
    )
    summary = finished(arguments.run) if arguments.run.is_dir() else None
    if summary is not None and summary.judged_by != "head":
        console.print(
            f"note      the run is judged by the {summary.judged_by}; the file's logits are the head's, "
            "which answers otherwise",
            markup=False,
            highlight=False,
        )
    return 0
