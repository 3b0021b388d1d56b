"""What the parity scripts share to judge: how far two loss curves are apart, and the result file."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import Curves, State, copied, nudged
from torch import Tensor

TOLERANCE = 1e-4
PACKAGES = ("torch", "gkd-torch", "numpy", "scikit-learn", "pytorch-metric-learning")


def checkout_facts(checkout: Path, repository: str) -> dict[str, Any]:
    """Which official code this is; of the path only the folder's name."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    top = git("rev-parse", "--show-toplevel")
    own = bool(top) and Path(top).resolve() == checkout.resolve()
    return {
        "repository": repository,
        "folder": checkout.name,
        "commit": git("rev-parse", "HEAD") if own else "unknown (not a git checkout)",
        "unchanged": own and git("status", "--porcelain") == "",
    }


def compare(official: Curves, ours: Curves) -> dict[str, Any]:
    """Per curve: the largest relative difference, where it is, and the one of the first step."""
    result: dict[str, Any] = {}
    for name in official.keys() & ours.keys():
        pairs = list(zip(official[name], ours[name], strict=True))
        relative = [abs(theirs - mine) / max(abs(theirs), 1e-30) for theirs, mine in pairs]
        # NaN must not pass for a small number
        largest = max(relative) if all(r == r for r in relative) else float("nan")
        at_step = relative.index(largest) if largest == largest else None
        result[name] = {"largest": largest, "at_step": at_step, "first_step": relative[0]}
    return dict(sorted(result.items()))


def weight_difference(official: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> float:
    """``‖w_official − w_gkd‖ / ‖w_official‖`` over all floating-point tensors at once."""
    difference = square = 0.0
    for name, value in official.items():
        if value.is_floating_point():
            difference += float((value.double() - ours[name].double()).square().sum())
            square += float(value.double().square().sum())
    return (difference / square) ** 0.5


Side = Callable[[State, torch.dtype], tuple[Curves, State]]


@dataclass(frozen=True)
class Phase:
    """A precision and a constant learning rate, from a place on the published schedule.

    Attributes:
        name: ``first`` (where the schedule begins), ``late`` (near its end) or ``last`` (at its end).
        must_agree: whether the curves are asked to stay within the tolerance.
        exact_mining: the official loss is handed float64 copies of float32 embeddings.
    """

    name: str
    dtype: torch.dtype
    must_agree: bool
    exact_mining: bool = False


# At the first learning rate float32 rounding alone moves a trajectory by percents within 100 steps, so
# that run is a record; float64 shows there that the two sides compute the same.
PHASES = (
    Phase("late", torch.float32, True),
    Phase("first", torch.float64, True),
    Phase("first", torch.float32, False),
)


def compare_sides(
    name: str, phase: Phase, student: State, official: Side, ours: Side, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs both sides from the same weights and reports how far apart they are.

    In float32 the official code also runs against itself, from weights that differ in their last bit:
    what rounding alone does to this trajectory, below which no two implementations can agree.

    Args:
        student: the initial weights, float32.
        official, ours: initial weights -> loss curves and the final weights.
    """
    dtype = phase.dtype
    weights = copied(student, dtype)
    their_curves, their_state = official(weights, dtype)
    our_curves, our_state = ours(weights, dtype)
    difference = compare(their_curves, our_curves)
    within = all(entry["largest"] <= TOLERANCE for entry in difference.values())
    result = {
        "name": name,
        "phase": phase.name,
        "dtype": str(dtype).removeprefix("torch."),
        "steps": len(our_curves["total"]),
        **facts,
        **({"official_loss_on_float64_embeddings": True} if phase.exact_mining else {}),
        "must_agree": phase.must_agree,
        "within_tolerance": within,
        "relative_difference": difference,
        "final_weights_relative_difference": weight_difference(their_state, our_state),
    }
    if dtype == torch.float32:
        control, _ = official(nudged(weights), dtype)
        if control == their_curves:
            raise RuntimeError(f"{name}: the losses do not depend on the student's weights; it is dead.")
        result["official_against_itself_one_ulp_apart"] = compare(their_curves, control)
    result["curves"] = {"official": their_curves, "gkd": our_curves}
    word = "ok  " if within else "FAIL" if phase.must_agree else "  - "
    line = ", ".join(f"{term} {entry['largest']:.1e}" for term, entry in difference.items())
    if "official_against_itself_one_ulp_apart" in result:
        line += f"; official against itself {result['official_against_itself_one_ulp_apart']['total']['largest']:.1e}"
    note = " (official loss on float64 embeddings)" if phase.exact_mining else ""
    print(f"{word} {name}, {phase.name}, {result['dtype']}{note}: {line}", flush=True)
    return result


def environment() -> dict[str, Any]:
    """Versions, threads and machine, without names or paths."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, CPU",
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """JSON with one line a curve."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[^][{}\"]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def finish(path: Path | None, result: dict[str, Any]) -> int:
    """Writes the result file; the exit status is 1 where a curve that must agree does not.

    Comparisons of the same official commit that the file already has, and this run left out, stay.
    """
    failed = [c for c in result["comparisons"] if c["must_agree"] and not c["within_tolerance"]]
    if path is not None:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if before and before["official"]["commit"] == result["official"]["commit"]:
            result["comparisons"] = updated(before["comparisons"], result["comparisons"])
        write_result(path, result)
    return 1 if failed else 0


def updated(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The old comparisons, each replaced by its new run where there is one; new ones follow."""

    def key(comparison: dict[str, Any]) -> tuple[Any, ...]:
        names = ("name", "phase", "dtype", "official_loss_on_float64_embeddings")
        return tuple(comparison.get(name) for name in names)

    runs = {key(comparison): comparison for comparison in [*before, *now]}
    return list(runs.values())
