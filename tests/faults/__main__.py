"""``python -m tests.faults [KIND …]``: try the faults that were not tried yet, and print what became of all."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.kinds import KINDS
from tests.faults.ledger import ROOT, Case, Ledger, code_checksum, table, write_results
from tests.faults.workshop import Workshop


def tried(kind: str, numbers: Sequence[int], workshop: Workshop) -> Iterator[Case]:
    """Try cases of a kind, one after the other."""
    for number in numbers:
        began = time.monotonic()
        verdict = KINDS[kind].try_one(number, workshop)
        told = verdict.told.replace(str(workshop.root), "…")
        yield Case(kind, number, verdict.outcome.value, told, round(time.monotonic() - began, 3))


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", metavar="KIND", nargs="*", help=f"of {', '.join(KINDS)} (all)")
    parser.add_argument(
        "--only", metavar="N", type=int, help="try this case of the kind alone, and tell of it"
    )
    parser.add_argument(
        "--minutes", type=float, default=55, help="stop after so many; the same command goes on (55)"
    )
    parser.add_argument("--partly", action="store_true", help="write the results although some are missing")
    parser.add_argument(
        "--ledger", type=Path, default=ROOT / "build" / "faults", help="where tried cases are noted"
    )
    arguments = parser.parse_args(words)
    kinds = arguments.kinds or list(KINDS)
    for kind in kinds:
        if kind not in KINDS:
            parser.error(f"{kind} is no kind of faults; there are {', '.join(KINDS)}")
    if arguments.only is not None and len(kinds) != 1:
        parser.error("--only N is a case of one kind: name the kind")
    with tempfile.TemporaryDirectory(prefix="gkd-faults-") as root:
        workshop = Workshop(Path(root))
        if arguments.only is not None:
            (case,) = tried(kinds[0], [arguments.only], workshop)
            print(f"{case.outcome}: {case.told}")
            return int(case.failed)
        ledger = Ledger(arguments.ledger, code_checksum())
        _series(kinds, ledger, workshop, arguments.minutes)
        return _told(ledger, partly=arguments.partly)


def _series(kinds: Sequence[str], ledger: Ledger, workshop: Workshop, minutes: float) -> None:
    """Try what is missing of some kinds, until time is up."""
    end = time.monotonic() + 60 * minutes
    for kind in kinds:
        there = ledger.cases(kind)
        missing = [number for number in range(KINDS[kind].COUNT) if number not in there]
        print(f"{kind}: {len(missing)} of {KINDS[kind].COUNT} to try", flush=True)
        for case in tried(kind, missing, workshop):
            ledger.add(case)
            if case.failed:
                print(f"  {case.outcome}: {case.told}\n    {case.repeat}", flush=True)
            if time.monotonic() > end:
                return


def _told(ledger: Ledger, *, partly: bool) -> int:
    """Print the table of all kinds, and write it where none is missing; 1 where a case failed."""
    cases = {kind: list(ledger.cases(kind).values()) for kind in KINDS}
    print(table(cases))
    missing = sum(KINDS[kind].COUNT - len(of_kind) for kind, of_kind in cases.items())
    if missing:
        print(f"{missing} cases are not tried yet; the same command goes on with them")
    if partly or not missing:
        write_results(cases)
        print("written to benchmarks/results/faults.json; docs/embed.py shows it in docs/reliability.md")
    return int(any(case.failed for of_kind in cases.values() for case in of_kind))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that are forked
    sys.exit(main())
