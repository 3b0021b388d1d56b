"""Whether another form of the code changes a result: two checkouts side by side, by the `gkd` command line alone.

Each checkout has its own `.venv` in which gkd is installed from it. Nothing of gkd is imported here, so it does not
matter where its modules are. What the code before does is recorded first, on its own; the code after is compared with
that, as often as it changes. Cells that are finished are kept, so that the same command continues after a kill.

    bits        runs of a few seconds over all kinds of task: every tensor of every weight file by SHA-256, every
                accuracy, and the files that say how it went (losses, exemplars, what was right on each image, config)
    resume      runs that the code before was stopped in, continued by the code after: as the uninterrupted ones
    eval        finished runs of the code before, judged again by the code after
    tables      `gkd compare CONFIG --finished` over a copy of the committed cells of every grid: what it says, writes
    quickstart  `gkd compare quickstart`: every accuracy of its table, and all weights
    step        images a second in training, before and after in turn, as a ratio with its interval; seconds of an
                import. For a quiet machine; it needs both checkouts in one call, and is only run where it is named
    coverage    the default suite, its seconds and counts, and the lines that it reaches

    python benchmarks/refactor.py --before CHECKOUT --data FOLDER --work FOLDER --out benchmarks/results/refactor.json
    python benchmarks/refactor.py --after CHECKOUT --data FOLDER --work FOLDER --out benchmarks/results/refactor.json
    python benchmarks/refactor.py step --before CHECKOUT --after CHECKOUT --work FOLDER --out ...

The work folder of the first call is needed by the later ones: they continue and judge the runs in it. The exit code
is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _refactor_checks import ratios, step_times, suite, tables
from _refactor_halves import SIDES, Cell, Checkout, Failed, Half, Record, differences
from _refactor_runs import Work, bits, judged_again, quickstart, resume

# What measures a part, and the folders beside the code that it depends on.
PARTS: dict[str, tuple[Callable[..., Work], tuple[str, ...]]] = {
    "bits": (bits, ()),
    "resume": (resume, ()),
    "eval": (judged_again, ()),
    "tables": (tables, ("benchmarks/results/*/cells",)),
    "quickstart": (quickstart, ()),
    "coverage": (suite, ("tests",)),
}
COMPARED = tuple(part for part in PARTS if part != "coverage")  # the suite of another form has other lines
# Where things are on one machine says nothing elsewhere.
_PLACES = {"--before": "CHECKOUT", "--after": "CHECKOUT", "--data": "FOLDER", "--work": "FOLDER"}


def measure(part: str, half: Half, record: Record, work: Work, only: Sequence[str]) -> list[str]:
    """Measures what is missing of one side of a part; returns the cells that failed, each told as it did."""
    cells: dict[str, Cell] = record.side(part, half, PARTS[part][1])["cells"]
    failed = []
    for name, run in work.items():
        if name in cells or (only and name not in only):
            continue
        start = time.perf_counter()
        try:
            cell = run()
        except Failed as error:
            failed.append(name)
            print(f"{part} {half.side}, {name}: FAILED. {error}", flush=True)
            continue
        taken = round(time.perf_counter() - start, 1)
        cells[name] = {"seconds": taken, **cell}
        record.save()
        print(f"{part} {half.side}, {name}: {taken} s", flush=True)
    return failed


def compare(part: str, record: Record) -> dict[str, Any]:
    """What differs between both sides of a part; where runs are continued, from those that nobody stopped.

    Returns:
        ``cells``: of the code before. ``compared``: how many of them the code after has. ``differences``: cell ->
        where it differs, of those that do.
    """
    before, after = (record.cells(part, side) for side in SIDES)
    if part == "resume":  # neither side may tell that a run was stopped
        whole = record.cells("bits", "before")
        before = {name: {"not_started_anew": True, **whole[name]} for name in before if name in whole}
    both = [name for name in before if name in after]
    found = {name: differences(before[name], after[name]) for name in both}
    return {
        "cells": len(before),
        "compared": len(both),
        "differences": {name: lines for name, lines in found.items() if lines},
    }


def self_check(record: Record) -> dict[str, list[str]]:
    """Where runs that the code before continues itself differ from the uninterrupted ones."""
    whole = record.cells("bits", "before")
    found = {
        name: differences({"not_started_anew": True, **whole[name]}, cell)
        for name, cell in record.cells("resume", "before").items()
        if name in whole
    }
    return {name: lines for name, lines in found.items() if lines}


def verdict(record: Record) -> dict[str, Any]:
    """What all parts say, as far as they are."""
    said: dict[str, Any] = {}
    for part in COMPARED:
        if record.cells(part, "before"):
            said[part] = compare(part, record)
    if record.cells("resume", "before"):
        said["resume"]["differences_before"] = self_check(record)
    if "step" in record.content:
        said["step"] = {**ratios(record.content["step"]), "start": record.content["step"].get("start", {})}
    for side in SIDES:
        for name, cell in record.cells("coverage", side).items():
            said.setdefault("coverage", {}).setdefault(name, {})[side] = cell
    return said


def differs(said: dict[str, Any]) -> bool:
    """Whether anything is other than it was."""
    parts = [said[part] for part in COMPARED if part in said]
    return any(part["differences"] or part.get("differences_before") for part in parts)


def table(said: dict[str, Any]) -> str:
    """The verdict as a table."""
    lines = ["| part | result |", "|---|---|"]
    for part in COMPARED:
        if part in said:
            equal = said[part]["compared"] - len(said[part]["differences"])
            told = f"{equal} of {said[part]['compared']} equal"
            missing = said[part]["cells"] - said[part]["compared"]
            told += f", {missing} not compared yet" if missing else ""
            lines.append(f"| {part} | {told} |")
    for method, ratio in ((key, value) for key, value in said.get("step", {}).items() if key != "start"):
        shown = f"{ratio['ratio']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
        lines.append(f"| step time of {method}, after ÷ before | {shown}, {ratio['pairs']:.0f} pairs |")
    for what, seconds in said.get("step", {}).get("start", {}).items():
        lines.append(f"| `{what}` | {seconds['before']:.2f} s before, {seconds['after']:.2f} s after |")
    for name, sides in said.get("coverage", {}).items():
        told = "; ".join(f"{side} {_of_suite(cell)}" for side, cell in sides.items())
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def _of_suite(cell: Cell) -> str:
    lines = f", {cell['percent']:.2f} % of {cell['lines']} lines" if "percent" in cell else ""
    bad = cell.get("failed", 0) + cell.get("errors", 0) + cell.get("error", 0)
    counts = f"{cell.get('passed', 0)} passed" + (f", {bad} FAILED" if bad else "")
    return f"{counts} in {cell['seconds']:.0f} s{lines}"


def command(words: Sequence[str]) -> str:
    """The command line without where things are on this machine."""
    shown: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if shown and shown[-1] in _PLACES:
            shown.append(_PLACES[shown[-1]])
        else:
            shown.append(f"{option}={_PLACES[option]}" if equals and option in _PLACES else word)
    return shlex.join(["python", "benchmarks/refactor.py", *shown])


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} and step; default: all but step")
    add("--before", type=Path, help="the checkout before; recorded once")
    add("--after", type=Path, help="the checkout after; compared with what is recorded")
    add("--data", type=Path, help="the folder of the shared images; without it, what needs none")
    add("--work", type=Path, required=True, help="where the runs of both sides lie and stay")
    add("--out", type=Path, help="the result as JSON, which is continued; its table beside it")
    add("--only", action="append", default=[], metavar="CELL", help="these cells of a part alone")
    add("--threads", type=int, help="CPU threads of a run (default 1; 2 for step)")
    add("--pairs", type=int, default=10, help="of step times (default 10)")
    add("--workers", type=int, default=min(os.cpu_count() or 1, 4), help="processes of the suite")
    add("--cov", action="store_true", help="install coverage and pytest-cov where they are missing")
    args = parser.parse_args(words)
    unknown = set(args.parts) - {*PARTS, "step"}
    if unknown:
        parser.error(f"no part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)} and step")
    if args.before is None and args.after is None:
        parser.error("give --before, --after or both")
    if "step" in args.parts and None in (args.before, args.after):
        parser.error("step takes both sides in turn: give --before and --after")
    args.parts = args.parts or list(PARTS)
    return args


def main(words: Sequence[str] = sys.argv[1:]) -> int:
    args = arguments(words)
    record, failed = Record(args.out), []
    given = {"before": args.before, "after": args.after}
    checkouts = {side: Checkout(path.absolute()) for side, path in given.items() if path is not None}
    threads, work = args.threads or 1, args.work.absolute()
    for part in (part for part in args.parts if part != "step"):
        options = {"workers": args.workers, "install": args.cov} if part == "coverage" else {}
        for side, checkout in checkouts.items():
            half = Half(side, checkout, work, args.data, threads)
            _same_machine(part, half, record)
            record.side(part, half, PARTS[part][1])
            do = partial(PARTS[part][0], **options)
            failed += measure(part, half, record, do(half, record), args.only)
    if "step" in args.parts:
        before, after = (Half(side, checkouts[side], work, args.data, args.threads or 2) for side in SIDES)
        step_times(before, after, record, pairs=args.pairs)
    said = verdict(record)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record.content = {**record.content, "command": command(words), "date": date, "verdict": said}
    record.save()
    if args.out:
        args.out.with_suffix(".md").write_text(table(said) + "\n")
    print(table(said))
    for part in COMPARED:
        for key in ("differences", "differences_before"):
            for name, lines in said.get(part, {}).get(key, {}).items():
                shown = "\n  ".join(lines[:20])
                print(f"{part}, {name}: differs{' before' if key.endswith('before') else ''}\n  {shown}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed or differs(said) else 0


def _same_machine(part: str, half: Half, record: Record) -> None:
    """Refuses to compare with what another machine or other packages made: their last bits may be others."""
    held = record.content.get(part, {}).get("before", {})
    if half.side == "before" or part == "coverage" or not held:
        return
    own = {"environment": half.checkout.environment, "threads": half.threads}
    told = differences({key: held[key] for key in own}, own)
    if told:
        raise SystemExit(f"{part}: recorded elsewhere; record the half before here again. {'; '.join(told)}")


if __name__ == "__main__":
    sys.exit(main())
