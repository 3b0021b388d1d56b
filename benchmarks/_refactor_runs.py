"""Runs of `benchmarks/refactor.py`: to the same bits, continued from where the other side was stopped, judged again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _refactor_halves import Cell, Failed, Half, Record, environment, without_passing
from _refactor_outcome import fresh, kept, metrics_lines, outcome, state_hash, weight_files, whole

Work = Mapping[str, Callable[[], Cell]]  # cell -> what measures it
_STOPPED = 130  # the exit code of a run that saved itself

_MIDDLE_SHOT = """\
task: {name: middle_shot, base: 5, novel: 5, ways: 3, shots: 5, most_shots: 5, queries: 20, tasks: 2}
data: {name: digits, validation: {per_class: 20}, batch_size: 15, augment: crop}
teacher: {network: resnet14, train: {epochs: 2, batch_size: 50}}
student: {network: resnet8, pretrain: {epochs: 2, batch_size: 50}}
method: refilled
optimiser: {lr: 0.02, schedule: cosine, milestones: []}
evaluate: {every: 3}
run: {epochs: 6, precision: float32}
"""


@dataclass(frozen=True)
class Run:
    """A run of a few seconds.

    Attributes:
        words: what follows ``gkd run``; ``images/`` is the folder of the shared images.
        method: the method that it ends up with.
        stop_after: lines of metrics after which it is stopped, where another side then continues it.
        config: the content of its config where no shipped one is meant; it is written to ``own.yaml``.
    """

    words: str
    method: str
    stop_after: int | None = None
    config: str | None = None

    @property
    def needs_images(self) -> bool:
        return "images/" in self.words

    def command(self, threads: int) -> list[str]:
        config, *words = self.words.split()
        more = ["run.precision=float32", f"run.threads={threads}", "run.out=runs"]
        return ["run", config, f"method={self.method}", *words, *more]

    def prepare(self, folder: Path, data: Path | None) -> Path:
        """An empty folder to run it in."""
        fresh(folder)
        if self.config is not None:
            (folder / "own.yaml").write_text(self.config)
        if self.needs_images and data is not None:
            (folder / "images").symlink_to(data.resolve())
        return folder


_CROSS = "cross_task/digits task.shift=2 teacher.train.epochs=2 evaluate.every=2"
_STANDARD = "standard/digits teacher.train.epochs=2 evaluate.every=2 run.epochs=4"
_FEW = "few_shot/digits teacher.train.epochs=2 evaluate.every=2 task.episodes.count=500"
_EPISODES = (
    "optimiser.name=adamw optimiser.lr=0.001 "
    'method.stages.episodes.episodes={"ways":5,"queries":5,"per_epoch":10}'
)
_VIEW = '{"image_size":16,"augment":"none","draws":"own"}'
_STEPS = "incremental/digits task.base_epochs=2 evaluate.every=2"
_PHOTOS = "cross_task/photos data.root=images/tiny-imagenet-100-32px.zip data.per_class=5"
_SIGNS = "few_shot/omniglot_small data.root=images/omniglot-small.zip teacher=null task.episodes.count=200"
RUNS: dict[str, Run] = {
    "refilled": Run(f"{_CROSS} run.epochs=60", "refilled", stop_after=40),  # in the second stage
    "refilled_weighted": Run(f"{_CROSS} run.epochs=12", "refilled_weighted"),
    "kd, overlapping": Run(f"{_CROSS} run.epochs=12", "kd"),
    "kd": Run(_STANDARD, "kd"),
    "kd of mixtures": Run(f"{_STANDARD} data.augment=crop+mixup", "kd"),
    "sp": Run(_STANDARD, "sp"),
    "rkd": Run(_STANDARD, "rkd"),
    "crd": Run(_STANDARD.replace("run.epochs=4", "run.epochs=8"), "crd", stop_after=2),
    "sakd": Run(_STANDARD, "sakd"),
    "stkd": Run(_STANDARD, "stkd"),
    "ft": Run(_STANDARD, "ft"),
    "dkd of kept views": Run(
        f"{_STANDARD} data.views=2 data.images_per_class=5 data.augment=rand-augment+cutout", "dkd"
    ),
    "vid of larger images": Run(f"{_STANDARD} data.teacher_view={_VIEW}", "vid"),
    "few-shot refilled_episodic": Run(f"{_FEW} {_EPISODES} run.epochs=6", "refilled_episodic", stop_after=2),
    "few-shot sp": Run(f"{_FEW} run.epochs=2", "sp"),
    "middle-shot refilled": Run("own.yaml run.seed=1", "refilled", config=_MIDDLE_SHOT),
    "podnet": Run(f"{_STEPS} run.epochs=4", "podnet", stop_after=8),  # in the third of six steps
    "der": Run(f"{_STEPS} run.epochs=2", "der"),
    "bic": Run(f"{_STEPS} run.epochs=2", "bic"),
    "icarl": Run(f"{_STEPS} run.epochs=2", "icarl"),
    "wa": Run(f"{_STEPS} run.epochs=2", "wa"),
    "incremental refilled": Run(f"{_STEPS} run.epochs=2", "refilled"),
    "photographs, streamed": Run(
        f"{_PHOTOS} student.network=resnet8 data.memory_gb=0 data.workers=1 run.epochs=2", "student"
    ),
    "handwriting, turned": Run(f"{_SIGNS} {_EPISODES} run.epochs=1", "protonet"),
}


def chosen(data: Path | None, *, stopped: bool = False) -> dict[str, Run]:
    """The runs that can be, without the images those that need none; or those that are stopped and continued."""
    runs = {name: run for name, run in RUNS.items() if data is not None or not run.needs_images}
    return {name: run for name, run in runs.items() if run.stop_after is not None} if stopped else runs


def folder_name(cell: str) -> str:
    return cell.replace(", ", "-").replace(" ", "-")


def bits(half: Half, _record: Record) -> Work:
    """Every run from its start to its end."""

    def one(name: str, run: Run) -> Cell:
        folder = run.prepare(half.folder / "bits" / folder_name(name), half.data)
        half.gkd(run.command(half.threads), folder)
        return outcome(folder / "runs")

    return {name: partial(one, name, run) for name, run in chosen(half.data).items()}


def stop(half: Half, run: Run, folder: Path) -> Cell:
    """Starts a run and interrupts it after so many lines of metrics; what it then holds is to be continued."""
    assert run.stop_after is not None
    for lines_wanted in range(run.stop_after, 0, -1):  # a busy machine may look too late
        run.prepare(folder, half.data)
        command = [half.checkout.gkd, *run.command(half.threads)]
        env = environment(half.threads, half.folder / "cache")
        with (folder / "stopped.txt").open("w") as said:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said)
            while process.poll() is None and _lines(folder / "runs", run.method) < lines_wanted:
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            code = process.wait()
        if code == _STOPPED:
            told = (folder / "stopped.txt").read_text().strip().splitlines()[-1]
            return {"epochs": _lines(folder / "runs", run.method), "said": told}
        if code != 0:
            said_then = (folder / "stopped.txt").read_text()
            raise Failed(f"{' '.join(command[1:])} ended with {code}:\n{said_then}")
    raise Failed(f"{' '.join(command[1:])} ended before it could be stopped")


def _lines(runs: Path, method: str) -> int:
    return sum(map(len, metrics_lines(runs, method).values()))


def resume(half: Half, record: Record) -> Work:
    """Runs that the code before was stopped in, continued by either side; its stopped folders are kept as they are."""

    def prepared(name: str, run: Run) -> Path:
        stopped = Path(half.work, "stopped", folder_name(name))
        known = record.content["resume"].setdefault("stopped", {})
        sources = half.checkout.sources()
        if half.side == "before" and (known.get(name, {}).get("sources") != sources or not stopped.is_dir()):
            known[name] = {"sources": sources, **stop(half, run, stopped)}
            record.save()
        if not stopped.is_dir():
            raise Failed(f"{stopped} is not there: record the half before with the same --work first")
        return stopped

    def one(name: str, run: Run) -> Cell:
        stopped = prepared(name, run)
        before = metrics_lines(stopped / "runs", run.method)
        folder = half.folder / "resume" / folder_name(name)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stopped, folder, symlinks=True)
        allowed = ["run.allow_changed=[versions]"] if other_version(half, record) else []
        half.gkd([*run.command(half.threads), *allowed], folder)
        after = metrics_lines(folder / "runs", run.method)
        return {"not_started_anew": kept(before, after), **outcome(folder / "runs")}

    found = chosen(half.data, stopped=True)
    return {name: partial(one, name, run) for name, run in found.items()}


def other_version(half: Half, record: Record) -> bool:
    """Whether gkd calls itself otherwise after than before; then a run only goes on where that is allowed."""
    return bool(record.content["resume"]["before"]["gkd"] != half.checkout.version)


def judged_again(half: Half, record: Record) -> Work:
    """``gkd eval`` of the finished run folders that the code before has left."""
    sources = record.content.get("bits", {}).get("before", {}).get("sources")

    def one(name: str, run: Run) -> Cell:
        folder = half.work / f"before-{sources}" / "bits" / folder_name(name)
        own = [path.parent for path in (folder / "runs").rglob("summary.json") if "steps" not in path.parts]
        (seed,) = [path for path in own if path.parent.name.startswith(f"{run.method}-") and not _helps(path)]
        return {"says": half.gkd(["eval", str(seed.relative_to(folder))], folder).splitlines()}

    done = record.cells("bits", "before")
    runs = {name: run for name, run in chosen(half.data).items() if name in done}
    return {name: partial(one, name, run) for name, run in runs.items()}


def _helps(run_folder: Path) -> bool:
    """Whether a run only trained a teacher or what a student starts from."""
    return bool({"teachers", "pretrained"} & set(run_folder.parts))


def quickstart(half: Half, _record: Record) -> Work:
    """The grid of the README: every accuracy of its table, and one checksum over all weights."""

    def one() -> Cell:
        folder = half.folder / "quickstart"  # what is there of an earlier try of the same code goes on
        folder.mkdir(parents=True, exist_ok=True)
        half.gkd(["compare", "quickstart", f"run.threads={half.threads}", "run.out=runs"], folder)
        (table,) = (folder / "runs" / "quickstart").rglob("table.json")
        found = weight_files(folder / "runs")
        weights = {name: state_hash(path) for name, path in found.items()}
        rows: list[Any] = without_passing(json.loads(table.read_text())["rows"])
        return {"rows": rows, "weight_files": len(weights), "weights": whole(weights)}

    return {"quickstart": one}
