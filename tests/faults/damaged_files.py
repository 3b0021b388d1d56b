"""Damaged files of runs that are finished or half finished: flipped bits, cut, emptied, deleted, swapped.

Survived: the command prints the numbers of the undamaged run, or refuses in a sentence with exit code 2; a half
finished run ends with its bits. Lost: another end. Silently different: it ends well, with other numbers or bits.
Traceback: an exception comes through.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from gkd.storage.manifest import files_of as files_of_record
from gkd.storage.run_files import SUMMARY
from tests.faults.commands import Ended
from tests.faults.scenarios import CONFIG, IMAGE
from tests.faults.snapshot import records_of
from tests.faults.verdict import Outcome, Verdict, judged_by_ending, judged_by_results, survived
from tests.faults.workshop import Reference, Workshop, seeded

COUNT = 200
METRICS = "metrics.jsonl"


def _flip(path: Path, others: list[Path], random: Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 8)) if content else 0):
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, others: list[Path], random: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: random.randrange(len(content))] if content else b"")


def _empty(path: Path, others: list[Path], random: Random) -> None:
    path.write_bytes(b"")


def _delete(path: Path, others: list[Path], random: Random) -> None:
    path.unlink()


def _swap(path: Path, others: list[Path], random: Random) -> None:
    """Another file of the same kind in its place: of another step, seed or checkpoint."""
    alike = [other for other in others if other.suffix == path.suffix and other != path]
    path.write_bytes(random.choice(alike).read_bytes() if alike else b"")


def _zero(path: Path, others: list[Path], random: Random) -> None:
    """What a file system leaves of a file that was not synced: its length, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path, list[Path], Random], None]] = {
    "bits flipped": _flip,
    "cut short": _cut,
    "emptied": _empty,
    "deleted": _delete,
    "swapped": _swap,
    "zeroed": _zero,
}


def files_of(folder: Path) -> list[Path]:
    """The files that a command left in a folder, in order."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] in ("runs", "cache")
    ]


def numbers(ended: Ended) -> list[str]:
    """The lines of results that a command printed, without what takes time."""
    lines = [line for line in ended.out.splitlines() if re.search(r"\d", line)]
    lasting = [re.sub(r"\s+[\d.]+ (?:s|images/s)\b.*", "", line) for line in lines]
    return [line for line in lasting if not re.match("speed|data|plot|note", line) and "finished" not in line]


def run_of(reference: Reference) -> Path:
    """The folder of the one run of a scenario."""
    (run,) = [path.parent for path in (reference.folder / "runs/faults").glob(f"*/seed0/{SUMMARY}")]
    return run


def uses(reference: Reference) -> dict[str, tuple[str, ...]]:
    """What reads the files of a finished run: a name -> the words of a command."""
    found: dict[str, tuple[str, ...]] = {"again": reference.scenario.words}
    if reference.scenario.verb == "compare":
        return {**found, "table": ("compare", CONFIG, "--finished"), "run": ("run", CONFIG)}
    place = run_of(reference).relative_to(reference.folder).as_posix()
    found |= {"eval": ("eval", place), "predict": ("predict", place, IMAGE)}
    found["weights"] = ("eval", f"{place}/student.safetensors", "data.name=folder", "data.root=photos.zip")
    if reference.name in ("standard", "cross_task"):
        found["its teacher's next student"] = ("run", CONFIG, "method=sp")
    return found


def readers_of(name: Path, reference: Reference) -> list[str]:
    """The uses of a finished run that may read a file of it, by its path below the folder."""
    if name.parts[:2] == ("runs", "teachers"):
        readers = ["again", "its teacher's next student"]
    elif name.parts[:2] == ("runs", "students") or "checkpoints" in name.parts or name.name == METRICS:
        readers = ["again"]
    else:
        readers = [use for use in uses(reference) if use != "its teacher's next student"]
    return [use for use in readers if use in uses(reference)]


def try_one(number: int, workshop: Workshop) -> Verdict:
    """A damaged file, and a command that may read it."""
    random = seeded("damaged files", number)
    reference = workshop.turn(number)
    half = random.random() < 0.4
    source = workshop.half(reference) if half else reference.folder
    with workshop.folder() as case:
        folder = case / "copy"
        shutil.copytree(source, folder)
        there = files_of(folder)
        alike: dict[str, list[Path]] = {}
        for path in there:
            alike.setdefault(path.name if path.parent.name != "cache" else "cached images", []).append(path)
        path = random.choice(alike[random.choice(list(alike))])
        name, damage = path.relative_to(folder), random.choice(list(DAMAGES))
        DAMAGES[damage](path, there, random)
        told = f"{reference.name}, {'half ' if half else ''}finished: {name} {damage}"
        use = "again" if half else random.choice(readers_of(name, reference))
        if use == "again":
            told = told if half else f"{told}; {use}"
            return _repeated(told, name, reference, folder, source, workshop)
        return _used(told, use, reference, folder, workshop)


def _repeated(
    told: str, name: Path, reference: Reference, folder: Path, source: Path, workshop: Workshop
) -> Verdict:
    """The verdict on a run's own command, where a file of the run is damaged.

    Args:
        told: what was done.
        name: the file's, below the folder.
        reference: the undisturbed run.
        folder: with the damaged file.
        source: the same without the damage.
        workshop: runs the command.
    """
    path, key = folder / name, name.as_posix()
    before = path.read_bytes() if path.is_file() else None
    ended = workshop.command(folder, *reference.scenario.words)
    wrong = judged_by_ending(told, ended)
    if wrong is not None or ended.code == 2:
        return wrong or survived(f"{told}: refused")
    expected = dict(reference.results)
    if (path.read_bytes() if path.is_file() else None) == before:
        if name in _vouched(reference):
            return Verdict(Outcome.DIFFERENT, f"{told}: it was left as it was")
        # The run had no use for it, as for the weights of a cell that is in the table: who reads it later is told.
        expected.pop(key, None)
        path.unlink(missing_ok=True)
    elif path.name == METRICS:  # records that were damaged may be gone
        records, there = expected.pop(key), records_of((source / name).read_bytes())
        intact = records_of(before or b"")
        kept = [record for record in records if record in intact or record not in there]
        wrong_records = differing_records(records_of(path.read_bytes()), records, kept)
        if wrong_records:
            return Verdict(Outcome.DIFFERENT, f"{told}: {wrong_records}")
        path.unlink()
    return judged_by_results(told, ended, expected, folder)


def _vouched(reference: Reference) -> set[Path]:
    """The files that a finished run's command checks before it reports the run."""
    runs = [] if reference.scenario.verb == "compare" else [run_of(reference)]
    names = [(run, name) for run in runs for name in (SUMMARY, *(files_of_record(run / SUMMARY) or {}))]
    return {(run / name).relative_to(reference.folder) for run, name in names}


def differing_records(found: list[Any], records: list[Any], kept: list[Any]) -> str:
    """What is wrong with a run's metrics, in a few words: records that are not its own, twice there, or lost.

    Args:
        found: those that are there.
        records: those of the undisturbed run, in order.
        kept: those that no damage has cost.
    """
    rest = iter(records)
    untrue = [record for record in found if record not in rest]  # which goes on from the one before
    if untrue:
        return f"{untrue[0]} is no record of this run, or is there twice"
    lost = [record for record in kept if record not in found]
    return f"{lost[0]} is lost" if lost else ""


def _used(told: str, use: str, reference: Reference, folder: Path, workshop: Workshop) -> Verdict:
    """The verdict on a command that reads a finished run with a damaged file."""
    told, words = f"{told}; {use}", uses(reference)[use]
    undamaged = workshop.undamaged(reference, words)
    ended = workshop.command(folder, *words)
    wrong = judged_by_ending(told, ended)
    if wrong is not None or ended.code == 2:
        return wrong or survived(told)
    printed = numbers(ended)
    lacking = [line for line in numbers(undamaged) if line not in printed]
    if lacking:
        return Verdict(Outcome.DIFFERENT, f"{told}: not {lacking[0]!r} but {printed[:8]}")
    return survived(told)
