"""What `benchmarks/refactor.py` does around single runs: tables of committed results, the test suite, step time."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from _refactor_halves import Cell, Checkout, Half, Record, environment
from _refactor_outcome import fresh
from _refactor_runs import Work, folder_name
from scipy.special import stdtrit

# A student of a few seconds of steps; the loop's own time counts most where networks and images are small.
STEPS: dict[str, str] = {
    "sp": "standard/digits method=sp run.epochs=40 teacher.train.epochs=1",
    "refilled": "cross_task/digits method=refilled task.shift=2 run.epochs=200 teacher.train.epochs=1",
}
_COUNTED = ("passed", "failed", "errors", "error", "skipped", "deselected", "xfailed", "xpassed", "warnings")


def grids(checkout: Checkout) -> dict[str, Path]:
    """Shipped config -> the folder of its results, of every grid of which cells are committed."""
    found = {}
    for path in sorted((checkout.path / "configs").rglob("*.yaml")):
        compare = yaml.safe_load(path.read_text()).get("compare") or {}
        results = compare.get("results")
        if results is not None and any((checkout.path / results / "cells").glob("*.json")):
            found[str(path.relative_to(checkout.path / "configs").with_suffix(""))] = Path(results)
    return found


def tables(half: Half, _record: Record) -> Work:
    """``gkd compare CONFIG --finished`` over a copy of the committed cells; the checkout itself is not touched.

    The copy stands beside a folder ``shared``, where the configs expect images. They are only looked at where a config
    pins no fingerprint of them.
    """

    def one(name: str, results: Path) -> Cell:
        folder = fresh(half.folder / "tables" / folder_name(name).replace("/", "-"))
        committed, copy = half.checkout.path / results, folder / "room" / results
        shutil.copytree(committed, copy)
        if half.data is not None:
            (folder / "shared").mkdir()
            (folder / "shared" / "data").symlink_to(half.data.resolve())
        said = half.gkd(["compare", name, "--finished"], folder / "room")
        (folder / "said.txt").write_text(said)
        cells = {str(path.relative_to(copy)): path for path in sorted(copy.rglob("*")) if path.is_file()}
        now = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in cells.items()}
        tables = {name: checksum for name, checksum in now.items() if not name.startswith("cells/")}
        changed = [name for name, path in cells.items() if _plain(path) != _plain(committed / name)]
        return {
            "last_line": said.strip().splitlines()[-1],
            "said": hashlib.sha256(said.encode()).hexdigest(),
            "cells": hashlib.sha256(json.dumps(sorted(now.items())).encode()).hexdigest(),
            "tables": tables,
            "not_as_committed": changed,
        }

    return {name: partial(one, name, results) for name, results in grids(half.checkout).items()}


def _plain(path: Path) -> bytes:
    """A file without the command that wrote it; empty where there is none."""
    if not path.is_file():
        return b""
    return re.sub(rb'(Regenerate with `|"command": ")[^`"]*', b"", path.read_bytes())


def suite(half: Half, _record: Record, *, workers: int, install: bool) -> Work:
    """The default suite by the words of ``make test``, then once more with the lines counted that it reaches."""
    pytest = ["-m", "pytest", "-m", "not full", "-n", str(workers), "--dist", "worksteal", "-q"]

    def run(*words: str) -> Cell:
        start = time.perf_counter()
        command = [half.checkout.python, *pytest, "-p", "no:cacheprovider", *words]
        said = half.call(command, half.checkout.path, ends=(0, 1))
        taken = round(time.perf_counter() - start, 1)
        (half.folder / "suite.txt").write_text(said)
        return {"seconds": taken, **counted(said)}

    def plain() -> Cell:
        half.folder.mkdir(parents=True, exist_ok=True)
        return {"workers": workers, **run()}

    def covered() -> Cell:
        if install:
            _install(half.checkout, "coverage", "pytest-cov")
        out = fresh(half.folder / "coverage") / "coverage.json"
        # Of this data file each worker writes its own part; none is to lie in the checkout.
        half_words = ["--cov=gkd", "--cov=tasks", f"--cov-report=json:{out}", "--cov-report="]
        cell = {"workers": workers, **run(*half_words, f"--cov-config={_settings(out.parent)}")}
        content = json.loads(out.read_text())
        totals = content["totals"]
        return {
            **cell,
            "percent": round(totals["percent_covered"], 2),
            "lines": totals["num_statements"],
            "covered": totals["covered_lines"],
            "missed": totals["missing_lines"],
            "files": len(content["files"]),
        }

    return {"suite": plain, "coverage": covered}


def _settings(folder: Path) -> Path:
    """A settings file of coverage.py that keeps its data in a folder."""
    path = folder / "coveragerc"
    path.write_text(f"[run]\ndata_file = {folder / 'data'}\n")
    return path


def _install(checkout: Checkout, *packages: str) -> None:
    """Installs what is missing into a checkout's ``.venv``."""
    names = [name.replace("-", "_") for name in packages]
    missing = subprocess.run([checkout.python, "-c", f"import {', '.join(names)}"], capture_output=True)
    if missing.returncode:
        subprocess.run([checkout.python, "-m", "pip", "install", "--quiet", *packages], check=True)


def counted(said: str) -> Cell:
    """What pytest's last line counts, and the tests that failed."""
    lines = said.strip().splitlines()
    last = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last) if word in _COUNTED}
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return {**counts, **({"not_passed": failed[:20]} if failed else {})}


def step_times(before: Half, after: Half, record: Record, *, pairs: int) -> None:
    """Training of both sides in turn, before then after, and how long an import takes; kept pair by pair."""
    held = record.content.setdefault("step", {})
    halves = (before, after)
    facts: dict[str, Any] = {half.side: {"commit": half.checkout.commit} for half in halves}
    facts |= {"sources": [half.checkout.sources() for half in halves], "threads": before.threads}
    if any(held.get(key) != value for key, value in facts.items()):
        held.clear()
        held.update({**facts, "environment": after.checkout.environment, "pairs": {}})
    for method, words in STEPS.items():
        rows = held["pairs"].setdefault(method, [])
        for half in halves if len(rows) < pairs else ():  # trains the teachers, fills every cache
            _images_per_second(half, method, words, 0)
        while len(rows) < pairs:
            number = len(rows) + 1
            rows.append({half.side: _images_per_second(half, method, words, number) for half in halves})
            record.save()
            print(f"step {method}, pair {number}: {rows[-1]}", flush=True)
    held["start"] = {name: _start_up(halves, name, pairs) for name in ("import gkd", "gkd --version")}
    record.save()


def _images_per_second(half: Half, method: str, words: str, seed: int) -> float:
    folder = half.folder / "step"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"runs/**/{method}-*"):
        shutil.rmtree(path)
    half.gkd(_step_words(words, seed, half.threads), folder)
    (summary,) = folder.glob(f"runs/**/{method}-*/seed{seed}/summary.json")
    found: float = json.loads(summary.read_text())["images_per_second"]
    return found


def _step_words(words: str, seed: int, threads: int) -> list[str]:
    own = [f"run.seed={seed}", f"run.threads={threads}", "run.precision=float32", "evaluate.every=100000"]
    return ["run", *words.split(), *own, "run.out=runs"]


def _start_up(halves: Sequence[Half], what: str, rounds: int) -> dict[str, float]:
    """Median seconds of a fresh interpreter, the sides in turn; the command line imports all that gkd is."""
    taken: dict[str, list[float]] = {half.side: [] for half in halves}
    for number in range(max(rounds, 10) + 1):
        for half in halves:
            code = half.checkout
            command = [code.gkd, "--version"] if what.startswith("gkd") else [code.python, "-c", what]
            start = time.perf_counter()
            subprocess.run(command, cwd="/", env=environment(half.threads), capture_output=True, check=True)
            if number:  # the first round only fills the caches
                taken[half.side].append(time.perf_counter() - start)
    return {side: round(statistics.median(times), 3) for side, times in taken.items()}


def ratio_interval(pairs: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
    """Time after over time before from pairs of speeds: geometric mean, Student's 95 % interval of logarithms."""
    logs = [math.log(pair["before"] / pair["after"]) for pair in pairs]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), 0.0, math.inf
    quantile = float(stdtrit(len(logs) - 1, 0.975))
    reach = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def ratios(step: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The step times of every method, after over before."""
    found = {}
    for method, pairs in step.get("pairs", {}).items():
        if pairs:
            ratio, low, high = ratio_interval(pairs)
            found[method] = {"pairs": len(pairs), "ratio": ratio, "low": low, "high": high}
    return found
