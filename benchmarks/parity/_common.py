"""What the parity scripts share: batches, both sides' loops, the comparison of curves, the result file."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.distiller import Distiller
from gkd.features import Batch

TOLERANCE = 1e-4
STEPS = 100
BATCH = 64
WARM_STEPS = 60  # of the teacher, and of a student that starts late in the schedule
NOISE = 0.3
DATA = (
    f"scikit-learn digits, 32x32x3, normalised, with fixed noise of std {NOISE}, shuffled batches of {BATCH}; "
    f"teacher after {WARM_STEPS} steps of cross-entropy"
)
PACKAGES = ("torch", "gkd-torch", "numpy", "scikit-learn", "pytorch-metric-learning")

Curves = dict[str, list[float]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Stream:
    """The batches of one epoch, the same at every iteration.

    Attributes:
        images: ``[N, 3, 32, 32]``, normalised.
        labels: int64 ``[N]`` in ``0 .. num_classes − 1``.
        index: int64 ``[steps, B]``, the rows that each batch takes.
        num_classes: C.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    num_classes: int

    def __iter__(self) -> Iterator[Batch]:
        for index in self.index:
            yield Batch(self.images[index], self.labels[index], index)

    def __len__(self) -> int:
        return len(self.index)

    def to(self, dtype: torch.dtype) -> Stream:
        return Stream(self.images.to(dtype), self.labels, self.index, self.num_classes)


def digits(classes: range, *, steps: int, seed: int) -> Stream:
    """scikit-learn's digits of some classes, upsampled to 32×32×3, in ``steps`` shuffled batches.

    Each image has its own fixed noise: on the digits' constant background a ReLU would switch for
    thousands of equal pixels at once. What an epoch of whole batches leaves over is dropped.
    """
    data = load_digits()
    chosen = [i for i, digit in enumerate(data.target) if digit in classes]
    small = torch.tensor(data.images[chosen] / 16, dtype=torch.float32).unsqueeze(1)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = ((images - images.mean()) / images.std()).expand(-1, 3, -1, -1)
    generator = torch.Generator().manual_seed(seed)
    images = images + NOISE * torch.randn(images.shape, generator=generator)
    labels = torch.tensor(data.target[chosen], dtype=torch.int64) - classes.start
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = torch.randperm(len(images), generator=generator)
        batches += [part for part in order.split(BATCH) if len(part) == BATCH]
    return Stream(images, labels, torch.stack(batches[:steps]), len(classes))


class OfficialDataset:
    """What official loops ask of a loader's data set."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return self.stream.index.numel()

    def get_n_classes(self) -> int:
        return self.stream.num_classes


class OfficialLoader:
    """Stands in for an official data loader: the stream, as tuples of images, labels and the index."""

    def __init__(self, stream: Stream, fields: int) -> None:
        self.stream = stream
        self.fields = fields
        self.dataset = OfficialDataset(stream)

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for batch in self.stream:
            # copies, as a loader makes them: official code may write into what it gets
            yield (batch.images.clone(), batch.labels.clone(), batch.index, batch.index)[: self.fields]


def train_teacher(network: nn.Module, stream: Stream) -> State:
    """A short training with cross-entropy, so that the teacher's outputs and statistics mean something."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    network.train()
    for batch in itertools.islice(stream, WARM_STEPS):
        optimiser.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()
        optimiser.step()
    network.eval()
    return copied(network.state_dict())


def copied(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> State:
    """A state of its own, its floating-point tensors in ``dtype``."""
    return {
        name: value.detach().to(dtype if dtype and value.is_floating_point() else value.dtype, copy=True)
        for name, value in state.items()
    }


def nudged(state: Mapping[str, Tensor]) -> State:
    """The state with every weight moved to the next larger number: the smallest possible difference."""
    return {
        name: torch.nextafter(value, torch.full_like(value, torch.inf)) if name.endswith("weight") else value
        for name, value in copied(state).items()
    }


def train_gkd(
    distiller: Distiller, optimiser: torch.optim.Optimizer, stream: Stream, steps: int | None = None
) -> Curves:
    """gkd's side: the distiller's loss, backward, step; the learning rate stays where it starts."""
    curves: Curves = {"total": [], **{name: [] for name in distiller.terms}}
    distiller.train()
    for batch in itertools.islice(stream, steps):
        losses = distiller(batch)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimiser.step()
        curves["total"].append(losses["loss"].item())
        for name in distiller.terms:
            curves[name].append(losses[f"loss/{name}"].item())
    return curves


@contextlib.contextmanager
def recorded(terms: Mapping[str, str]) -> Iterator[Curves]:
    """Records what official code trains on, without touching it.

    Args:
        terms: class name of an official criterion -> the name of its curve.

    Yields:
        ``total``: every value on which ``backward`` is called; and what the criteria return inside a
        graph, before weighting.
    """
    curves: Curves = {"total": [], **{name: [] for name in terms.values()}}
    original = torch.Tensor.backward

    def backward(self: Tensor, *args: Any, **options: Any) -> None:
        curves["total"].append(float(self.detach()))
        original(self, *args, **options)

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        name = terms.get(type(module).__name__)
        if name is not None and torch.is_grad_enabled():
            values = output if isinstance(output, list) else [output]
            curves[name].append(float(sum(value.detach().sum() for value in values)))

    hook = nn.modules.module.register_module_forward_hook(after)
    try:
        with patch.object(torch.Tensor, "backward", backward):
            yield curves
    finally:
        hook.remove()


@contextlib.contextmanager
def official_surroundings(dtype: torch.dtype) -> Iterator[Path]:
    """What official code expects around it, on one CPU: ``.cuda()`` that stays, a scratch working folder.

    In float64 ``Tensor.float()`` returns float64 as well, because the loops call it on their images.
    Prints and warnings of the official code are dropped.
    """
    before, default = Path.cwd(), torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *_args, **_options: self))
        stack.enter_context(patch.object(nn.Module, "cuda", lambda self, *_args, **_options: self))
        stack.enter_context(patch.object(torch.cuda, "is_available", lambda: False))
        if dtype == torch.float64:
            stack.enter_context(patch.object(torch.Tensor, "float", torch.Tensor.double))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        torch.set_default_dtype(dtype)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            torch.set_default_dtype(default)


def official_module(checkout: Path, name: str, stubs: Mapping[str, Mapping[str, Any]]) -> types.ModuleType:
    """Imports a module of the checkout; ``stubs`` replaces modules that only log or look for a GPU."""
    sys.dont_write_bytecode = True  # leave the checkout as it is
    for stub, attributes in stubs.items():
        module = types.ModuleType(stub)
        vars(module).update(attributes)
        sys.modules[stub] = module
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


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
        name: ``first`` (where the schedule begins) or ``late`` (near its end).
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


def prepare() -> None:
    """One thread, and an allocator that keeps what it frees.

    glibc hands large blocks back to the system until it has seen one of nearly 32 MiB freed.
    """
    torch.set_num_threads(1)
    block = torch.empty(31 * 2**20, dtype=torch.uint8)
    del block


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that both scripts have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True, help="a clone of the official repository")
    parser.add_argument("--out", type=Path, help="write the result as JSON under benchmarks/results")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="only the comparisons in this precision (default: all)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    return parser
