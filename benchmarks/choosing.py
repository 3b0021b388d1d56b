"""Which method to take: the finished cells of the choosing grids as one table, a column a problem.

Nothing is trained; ``gkd compare cross_task/choosing`` makes the cells, and so ``choosing_imagenet_named``,
``choosing_imagenet`` and ``choosing_cifar10``. A problem whose grid lacks a cell has no column.

    python benchmarks/choosing.py --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from gkd.commands.compare import solve
from gkd.commands.grid_cells import rows, section
from gkd.config.load import load
from gkd.core.errors import UserError
from gkd.report.accuracy_table import AccuracyRow, table_rows

SINGLE = "queue_similarity"  # the best single method of choosing_tuning, over its three relations
# A problem's name -> its config, and the value of its grid's axis.
PROBLEMS: dict[str, tuple[str, Any]] = {
    "same": ("cross_task/choosing", 0),
    "overlapping": ("cross_task/choosing", 25),
    "disjoint": ("cross_task/choosing", 50),
    "ImageNet, all shared": ("cross_task/choosing_imagenet_named", None),
    "ImageNet, half hidden": ("cross_task/choosing_imagenet_named", {"fraction": 0.5, "seed": 0}),
    "ImageNet, no names": ("cross_task/choosing_imagenet", None),
    "CIFAR-10": ("cross_task/choosing_cifar10", None),
}
METHODS = ("student", "kd", "sp", "refilled", "refilled_joint", SINGLE, "auto")


def problem(config: str, value: Any) -> dict[str, Any]:
    """Method -> its accuracy on one problem, and its differences to the student and to the best single method.

    Raises:
        UserError: the grid is not whole.
    """
    resolved = load(config)
    asked = section(resolved)
    solved = solve(resolved, Console(quiet=True), finished_only=True)
    if solved.missing:
        raise UserError(f"{solved.missing} cells of {config} are not finished.", code="no-finished-cells")
    cells = [cell for cell in solved.cells if list(cell.axes.values()) in ([value], [])]
    order = [row.label for row in rows(asked)]
    found: dict[str, Any] = {}
    for baseline in ("student", SINGLE):
        for row in table_rows(cells, [], baseline=baseline, report="last", order=order):
            if not isinstance(row, AccuracyRow):
                continue
            method = found.setdefault(row.label, {"mean": row.mean, "std": row.std, "n": row.n})
            if row.compared is not None:
                method[f"to_{baseline}"] = {
                    "difference": row.compared.difference,
                    "over_images": row.compared.difference_interval,
                    "over_seeds": row.compared.difference_interval_over_seeds,
                }
    return found


def _bounds(compared: dict[str, Any] | None) -> str:
    """A difference; with its interval where it is over seeds."""
    if compared is None:
        return ""
    bounds = compared["over_seeds"]
    return f"{compared['difference']:+.1f}" + (f" [{bounds[0]:+.1f}, {bounds[1]:+.1f}]" if bounds else "")


def table(problems: dict[str, dict[str, Any]]) -> str:
    """A row a method and a column a problem: accuracy, and the difference to the student."""
    lines = [["method", *problems], ["---"] * (1 + len(problems))]
    for label in METHODS:
        line = [label]
        for found in problems.values():
            row = found.get(label)
            line.append(
                "–" if row is None else f"{row['mean']:.1f} {_bounds(row.get('to_student'))}".rstrip()
            )
        lines.append(line)
    last = [_bounds(found.get("auto", {}).get(f"to_{SINGLE}")) or "–" for found in problems.values()]
    lines.append([f"auto − {SINGLE}", *last])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def finished() -> dict[str, dict[str, Any]]:
    """The problems whose grids are whole; it says what the others lack."""
    problems = {}
    for name, where in PROBLEMS.items():
        try:
            problems[name] = problem(*where)
        except UserError as error:
            if error.code != "no-finished-cells":
                raise
            print(f"{name}: {error}", file=sys.stderr)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the numbers as JSON, and the table beside it")
    args = parser.parse_args()
    problems = finished()
    print(table(problems))
    if args.out:
        args.out.write_text(json.dumps(problems, indent=1, ensure_ascii=False) + "\n")
        args.out.with_suffix(".md").write_text(table(problems))
    return 0


if __name__ == "__main__":
    sys.exit(main())
