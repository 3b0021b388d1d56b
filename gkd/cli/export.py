"""gkd export: a student as one file for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gkd.commands.export import FORMATS, export_student, load_student
from gkd.experiment.run_folder import finished
from gkd.storage.run_files import WEIGHTS

HELP = "write a run's student, with its classes and input normalisation, for other programs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a weight file that gkd wrote")
    parser.add_argument(
        "overrides",
        metavar="a.b=c",
        nargs="*",
        default=[],
        help="student.network=pkg.module:name, where it is your own",
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="the file's format")
    parser.add_argument("--weights", choices=tuple(WEIGHTS), default="last", help="whose weights (last)")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where to; beside the weights where left out"
    )


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
