"""What the parity scripts share: batches, both sides' loops, the comparison of curves, the result file."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
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
TEACHER_STEPS = 60
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

    A batch never crosses an epoch of the data; what an epoch leaves over is dropped.
    """
    data = load_digits()
    chosen = [i for i, digit in enumerate(data.target) if digit in classes]
    small = torch.tensor(data.images[chosen] / 16, dtype=torch.float32).unsqueeze(1)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = ((images - images.mean()) / images.std()).expand(-1, 3, -1, -1).contiguous()
    labels = torch.tensor(data.target[chosen], dtype=torch.int64) - classes.start
    generator = torch.Generator().manual_seed(seed)
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
    for _, batch in zip(range(TEACHER_STEPS), stream, strict=False):
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


def train_gkd(distiller: Distiller, optimiser: torch.optim.Optimizer, stream: Stream) -> Curves:
    """gkd's side: the distiller's loss, backward, step; the learning rate stays where it starts."""
    curves: Curves = {"total": [], **{name: [] for name in distiller.terms}}
    distiller.train()
    for batch in stream:
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


Side = Callable[[State], tuple[Curves, State]]


def comparison(
    name: str, dtype: torch.dtype, initial: State, official: Side, ours: Side, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs both sides from the same weights and reports how far apart they are.

    In float32 the official code also runs against itself, from weights that differ in their last bit:
    what rounding alone does to this trajectory, below which no two implementations can agree.

    Args:
        official, ours: initial student state -> loss curves and the final state.
    """
    start = copied(initial, dtype)
    their_curves, their_state = official(start)
    our_curves, our_state = ours(start)
    difference = compare(their_curves, our_curves)
    result = {
        "name": name,
        "dtype": str(dtype).removeprefix("torch."),
        "steps": len(our_curves["total"]),
        **facts,
        "passed": all(entry["largest"] <= TOLERANCE for entry in difference.values()),
        "relative_difference": difference,
        "final_weights_relative_difference": weight_difference(their_state, our_state),
    }
    if dtype == torch.float32:
        control, _ = official(nudged(start))
        result["official_against_itself_one_ulp_apart"] = compare(their_curves, control)
    result["curves"] = {"official": their_curves, "gkd": our_curves}
    line = ", ".join(f"{term} {entry['largest']:.1e}" for term, entry in difference.items())
    print(f"{'ok  ' if result['passed'] else 'FAIL'} {name} {result['dtype']}: {line}", flush=True)
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


def finish(path: Path | None, result: Mapping[str, Any], comparisons: Iterable[Mapping[str, Any]]) -> int:
    """Writes the result file; the exit status is 1 where a curve left the tolerance."""
    if path is not None:
        write_result(path, result)
    return 0 if all(entry["passed"] for entry in comparisons) else 1


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that both scripts have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkout", type=Path, required=True, help="a clone of the official repository")
    parser.add_argument("--out", type=Path, help="write the result as JSON under benchmarks/results")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64", "both"),
        default="both",
        help="float32 is the criterion, float64 shows that what remains is rounding (default both)",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    return parser


def dtypes(choice: str) -> tuple[torch.dtype, ...]:
    names = ("float32", "float64") if choice == "both" else (choice,)
    return tuple(getattr(torch, name) for name in names)
