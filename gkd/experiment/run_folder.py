"""A run's folder: its name, whether it is finished, what is written when it begins, its lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console

from gkd.config.identity import NO_EFFECT
from gkd.config.resolve import Resolved
from gkd.config.side_sections import Side
from gkd.config.teacher_sections import teacher_sections
from gkd.core.errors import UserError
from gkd.core.text import LONGEST_FILE_NAME, for_file_name, say, visible
from gkd.experiment.environment import command, environment
from gkd.experiment.prepare import Prepared
from gkd.models.pretrained import describe
from gkd.storage.checkpoints import latest_checkpoint
from gkd.storage.json_files import Damaged, read_json, write_json
from gkd.storage.manifest import check_files, files_of, missing
from gkd.storage.records import read_record, write_record
from gkd.storage.run_files import (
    CONFIG,
    CORRECT,
    ENVIRONMENT,
    EPISODES,
    MATRIX,
    ORIGIN,
    PEER_WEIGHTS,
    PROBLEMS,
    STEPS,
    SUMMARY,
    WEIGHTS,
)
from gkd.storage.run_results import RunSummary
from gkd.storage.whole_files import check_place, clear_strays, open_lock, write_text

_DEEPEST = 4  # folders from runs/ to the run of a shipped config, the deepest that is looked for


def run_folder(resolved: Resolved) -> Path:
    """``out/<config>/<method>-<overrides>-<identity>/seed<seed>``: another override is another folder.

    The identity covers all that decides the result (``Resolved.identity``); the overrides stand before
    it for the reader. A run that an earlier version began under another name stays in its folder.
    """
    experiment, names = resolved.experiment, resolved.identities
    seed = f"seed{experiment.run.seed}"
    begun = folders_of(resolved, names.identity)  # reached by other overrides, or of another seed
    earlier = [folder for former in names.former for folder in folders_of(resolved, former)]
    ours = [
        folder for folder in earlier if recorded(folder / seed).get("sources", names.sources) == names.sources
    ]
    for folder in (*begun, *ours):
        if (folder / seed).is_dir():
            return folder / seed
    ending = "-".join([*slug(resolved.overrides, "compare"), names.identity])
    method = for_file_name(experiment.method.name, LONGEST_FILE_NAME - len(ending) - 1)
    return (begun[0] if begun else config_folder(resolved) / f"{method}-{ending}") / seed


def recorded(folder: Path) -> Mapping[str, object]:
    """What a run's folder says of its environment; nothing where that file is missing or damaged."""
    path = folder / ENVIRONMENT
    try:
        return read_json(path, keys=()) if path.is_file() else {}
    except UserError:
        return {}


def folders_of(resolved: Resolved, identity: str) -> list[Path]:
    """The folders of the runs of an identity, under whatever overrides they were reached."""
    return sorted(config_folder(resolved).glob(f"*-{identity}"))


def config_folder(resolved: Resolved) -> Path:
    """``out/<config>``, the folder of all runs and tables of a config; a shipped one's name has folders in it."""
    return resolved.experiment.run.out.joinpath(*map(for_file_name, resolved.name.split("/")))


def slug(overrides: Sequence[str], *hidden_sections: str) -> list[str]:
    """Overrides as a part of a folder's name, each key by its last two parts; none where nothing is to show.

    Those that change no result, or that the folder's name shows otherwise, are left out.
    """
    shown = _shown(overrides, hidden_sections)
    text = ",".join(f"{'.'.join(key.split('.')[-2:])}={value}" for key, value in shown.items())
    text = re.sub(r"[^A-Za-z0-9_.=\-]+", "_", text)[:60].strip("_")
    return [text] if text else []


def said_below(folder: Path) -> str:
    """A sentence on the finished runs in the folders below one that is none; empty where there are none."""
    levels = ("/".join(["*"] * depth) for depth in range(1, _DEEPEST + 1))
    found = (path.parent for level in levels for path in sorted(folder.glob(f"{level}/{SUMMARY}")))
    runs = [run for run in found if not {STEPS, PROBLEMS} & set(run.relative_to(folder).parts)]
    if not runs:
        return ""
    if len(runs) == 1:
        return f" A finished run lies below it: {visible(str(runs[0]))}."
    return f" {len(runs)} finished runs lie below it, such as {visible(str(runs[0]))}."


def _shown(overrides: Sequence[str], hidden_sections: Sequence[str] = ()) -> dict[str, str]:
    """The overrides that a folder's name is to tell apart, as key -> value."""
    hidden = {"method", "method.name", "run.seed", *NO_EFFECT}
    pairs = [override.split("=", 1) for override in overrides]
    return {k: v for k, v in pairs if k not in hidden and k.split(".")[0] not in hidden_sections}


def table_names(overrides: Sequence[str]) -> tuple[str, str]:
    """The name of the folder for the table of a grid under overrides, and the one that earlier versions gave it.

    Where the readable part leaves something of the overrides out, a hash of all of them follows.
    """
    shown, readable = _shown(overrides), "-".join(["table", *slug(overrides)])
    whole = "_".join(f"{key}={value}" for key, value in shown.items())
    if readable == "-".join(["table", *filter(None, [whole])]) and not any(
        "_" in each for each in shown.values()
    ):
        return readable, readable
    digest = hashlib.sha256(json.dumps(sorted(shown.items())).encode()).hexdigest()[:8]
    return f"{readable}-{digest}", readable


def finished(folder: Path) -> RunSummary | None:
    """The summary of a finished run whose files are those that it left there, or None where it is not finished.

    Of a run that an earlier gkd finished, without a manifest, the files have to be there.

    Raises:
        Damaged: a file that was changed since, or is gone.
    """
    if not (folder / SUMMARY).is_file():
        return None
    summary, files = read_record(folder / SUMMARY, RunSummary), files_of(folder / SUMMARY)
    if files is not None:
        check_files(folder / SUMMARY, files)
        return summary
    needed = [CORRECT, *([MATRIX] if (folder / STEPS).is_dir() else [])]
    if not all((folder / name).is_file() for name in needed):
        return None
    for name in WEIGHTS.values():
        if not (folder / name).is_file():
            raise missing(folder / name)
    return summary


def finished_or_mended(folder: Path, say: Callable[[str], object]) -> RunSummary | None:
    """``finished``, but None, so that the run goes on, where its files are damaged and it can be finished again.

    It can where a checkpoint is whole. Weights that are gone, with every checkpoint, leave a run whose results can be
    told.

    Args:
        folder: the run's.
        say: is told in one line what is damaged, or that the run has no manifest.

    Raises:
        Damaged: a file that is damaged and cannot be made anew.
    """
    try:
        summary = finished(folder)
    except Damaged as error:
        if _can_go_on(folder):
            say(f"note      the run is finished again from its last checkpoint, for {error.fact}")
            return None
        gone = [name for name in WEIGHTS.values() if not (folder / name).is_file()]
        if gone and error.code == "file-missing":
            say(f"note      {folder / gone[0]} is gone; the results were read from {SUMMARY}")
            return read_record(folder / SUMMARY, RunSummary)
        raise Damaged(
            f"{error.fact}, and no whole checkpoint is left to make it anew of",
            f"Remove {folder / SUMMARY} and repeat the command to train again",
            code=error.code,
        ) from None
    note = unchecked(folder)
    if note is not None:
        say(f"note      {note}")
    return summary


def unchecked(run: Path) -> str | None:
    """Where a finished run's folder has no manifest to check its files against: the line that says so."""
    if not (run / SUMMARY).is_file() or files_of(run / SUMMARY) is not None:
        return None
    return f"an earlier gkd finished {run} and left no checksums; its files are read as they are"


def _can_go_on(folder: Path) -> bool:
    """Whether a run has something to continue from: a whole checkpoint, or folders of its steps or problems."""
    several = any((folder / name).is_dir() for name in (STEPS, PROBLEMS))
    return several or latest_checkpoint(folder / "checkpoints") is not None


_RESULTS = (CONFIG, CORRECT, EPISODES, MATRIX, ORIGIN, *WEIGHTS.values(), *PEER_WEIGHTS.values())


def write_summary(folder: Path, summary: RunSummary) -> None:
    """Write a finished run's summary, with the checksums of all the files that its results rest on."""
    patterns = (*_RESULTS, "episodes-*.safetensors", f"{STEPS}/*/*.json")
    paths = [path for pattern in patterns for path in folder.glob(pattern)]
    write_record(folder / SUMMARY, summary, files=[path.relative_to(folder).as_posix() for path in paths])


# A resumed run needs these unchanged, or its weights could differ in bits.
MUST_STAY: tuple[Literal["versions", "threads", "device"], ...] = ("versions", "threads", "device")


def describe_run(folder: Path, prepared: Prepared, threads: int) -> None:
    """Write config.yaml, command.txt and env.json; refuse to resume a run on a machine that has changed."""
    resolved, settings = prepared.resolved, prepared.settings
    env = environment(threads, settings.device, settings.dtype)
    path = folder / ENVIRONMENT
    if path.is_file() and _can_go_on(folder):
        before = read_json(path, keys=MUST_STAY)
        for key in MUST_STAY:
            if before.get(key) != env[key] and key not in resolved.experiment.run.allow_changed:
                raise UserError(
                    f"The run {folder} was started with {key} {before.get(key)} and would go on with {env[key]}, "
                    f"which can change its bits; restore {key}, or allow it with run.allow_changed=[{key}].",
                    code="machine-changed",
                )
    about, names = visible(resolved.name), resolved.identities
    code = {"sources": names.sources, "identity_without_sources": names.without_sources}
    sides: dict[str, Side] = {**teacher_sections(resolved.experiment), "student": resolved.experiment.student}
    published = {
        key: describe(side.network, side.pretrained).origin()
        for key, side in sides.items()
        if side.pretrained is not False
    }
    write_text(folder / CONFIG, f"# {about}\n{resolved.with_images_named().annotated_yaml()}")
    write_text(folder / "command.txt", visible(command()) + "\n")
    more = {"published_weights": published} if published else {}
    write_json(path, {**env, **(code if names.sources else {}), **more})


class Busy(UserError):
    """Another process is at work in a run's folder."""


def check_free(folder: Path) -> None:
    """Raise Busy where another process has locked the run's folder; makes nothing there."""
    if (folder / ".lock").is_file():
        with locked(folder, None):
            pass


@contextmanager
def locked(folder: Path, waiting: Console | None) -> Iterator[None]:
    """Lock the run folder, and clear what killed writers left there.

    Where another process has it, refuse, or wait and print so on the console.

    Raises:
        UserError: a folder that cannot be made or holds a link where gkd writes.
        Busy: another process is at work in it.
    """
    for name in ("checkpoints", STEPS, PROBLEMS):
        if (folder / name).is_symlink():  # checkpoints are removed there, too
            check_place(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_lock(folder / ".lock")
    except OSError as error:
        raise UserError(
            f"The run folder {folder} cannot be made ({error.strerror}); give another (run.out).",
            code="run-folder-unwritable",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waiting is None:
                raise Busy(
                    f"Another process is working in {folder}; wait for it.", code="run-folder-busy"
                ) from None
            say(waiting, f"waiting for the process that works in {folder}")
            fcntl.flock(file, fcntl.LOCK_EX)
        for inner, _, _ in os.walk(folder):
            clear_strays(Path(inner))
        yield
