"""What the parity scripts share to train both sides: batches, loops, what official code expects around it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import itertools
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.distill.distiller import Distiller
from gkd.methods.distillation_oriented import DistillationOrientedSGD
from gkd.training.loop import backward

STEPS = 100
BATCH = 64
WARM_STEPS = 60  # of the teacher, and of a student that starts late in the schedule
NOISE = 0.3
SIZE = 32  # of the images, both ways

Curves = dict[str, list[float]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Stream:
    """The batches of one epoch, the same at every iteration.

    Attributes:
        images: ``[N, 3, H, W]``, normalised.
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


def data_facts(size: int = SIZE) -> str:
    """What both sides are trained on, for the result file."""
    return (
        f"scikit-learn digits, {size}x{size}x3, normalised, with fixed noise of std {NOISE}, shuffled batches of "
        f"{BATCH}; teacher after {WARM_STEPS} steps of cross-entropy"
    )


def digits(classes: range, *, steps: int, seed: int, size: int = SIZE) -> Stream:
    """scikit-learn's digits of some classes, upsampled to ``size×size×3``, in ``steps`` shuffled batches.

    Each image has its own fixed noise: on the digits' constant background a ReLU would switch for
    thousands of equal pixels at once. What an epoch of whole batches leaves over is dropped.
    """
    data = load_digits()
    chosen = [i for i, digit in enumerate(data.target) if digit in classes]
    small = torch.tensor(data.images[chosen] / 16, dtype=torch.float32).unsqueeze(1)
    images = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
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
    """Stands in for an official data loader: the stream, as tuples of images, labels and the index.

    Args:
        fields: how many of them; the fourth is the index once more, or what ``fourth`` makes of a step.
        epoch_length: steps after which an epoch ends; the next goes on where it stopped. None is all.
    """

    def __init__(
        self,
        stream: Stream,
        fields: int,
        *,
        epoch_length: int | None = None,
        fourth: Callable[[int, Batch], Tensor] = lambda _step, batch: batch.index,
    ) -> None:
        self.stream = stream
        self.fields = fields
        self.dataset = OfficialDataset(stream)
        self.epoch_length = epoch_length or len(stream)
        self.fourth = fourth
        self.started = 0

    def __len__(self) -> int:
        return self.epoch_length

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        begin = self.started * self.epoch_length % len(self.stream)
        self.started += 1
        steps = itertools.islice(enumerate(self.stream), begin, begin + self.epoch_length)
        for step, batch in steps:
            # copies, as a loader makes them: official code may write into what it gets
            fields = (batch.images.clone(), batch.labels.clone(), batch.index)
            yield fields[: self.fields] if self.fields < 4 else (*fields, self.fourth(step, batch))


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
    distiller: Distiller,
    optimiser: torch.optim.Optimizer,
    stream: Stream,
    steps: int | None = None,
    *,
    epoch: Callable[[int], float] = lambda _step: 0.0,
    joined: Mapping[str, Sequence[str]] | None = None,
) -> Curves:
    """gkd's side: the distiller's loss, backward, step; the learning rate stays where it starts.

    Args:
        epoch: where the weight schedules stand at a step.
        joined: name of a further curve -> the terms whose weighted sum it is.

    Returns:
        ``total``, which is the student's loss, each term and, where samples are routed, ``routing`` (what trains the
        policy) and ``share <spot>`` (how much of the batch is distilled there).
    """
    joined = joined or {}
    curves: Curves = {"total": [], **{name: [] for name in [*distiller.terms, *joined]}}
    distiller.train()
    distiller.apart = isinstance(optimiser, DistillationOrientedSGD)
    for step, batch in enumerate(itertools.islice(stream, steps)):
        distiller.set_epoch(epoch(step))
        losses = distiller(batch)
        optimiser.zero_grad(set_to_none=True)
        backward(losses, optimiser)
        optimiser.step()
        routing = losses.get("loss/routing", torch.zeros(()))
        curves["total"].append((losses["loss"] - routing).item())
        for name, value in losses.items():
            if name == "loss/routing" or name.startswith("share/"):
                curves.setdefault(name.removeprefix("loss/").replace("/", " "), []).append(value.item())
        for name in distiller.terms:
            curves[name].append(losses[f"loss/{name}"].item())
        for name, parts in joined.items():
            terms = [(distiller.terms[part], losses[f"loss/{part}"].item()) for part in parts]
            curves[name].append(sum(t.weight * t.schedule.factor(epoch(step)) * value for t, value in terms))
    return curves


@contextlib.contextmanager
def recorded(terms: Mapping[str, str | Callable[[Any], dict[str, Any]]]) -> Iterator[Curves]:
    """Records what official code trains on, without touching it.

    Args:
        terms: class name of an official module -> the name of its output's curve, or a function from the
            output to several.

    Yields:
        ``total``: every value on which ``backward`` is called; and what the modules return inside a
        graph, before weighting, summed over the calls of a step.
    """
    curves: Curves = {"total": []}
    step: dict[str, float] = {}
    original = torch.Tensor.backward

    def backward(self: Tensor, *args: Any, **options: Any) -> None:
        for name, value in {"total": float(self.detach()), **step}.items():
            curves.setdefault(name, []).append(value)
        step.clear()
        original(self, *args, **options)

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        read = terms.get(type(module).__name__)
        if read is None or not torch.is_grad_enabled():
            return
        for name, values in ({read: output} if isinstance(read, str) else read(output)).items():
            values = values if isinstance(values, list) else [values]
            step[name] = step.get(name, 0.0) + float(sum(value.detach().sum() for value in values))

    hook = nn.modules.module.register_module_forward_hook(after)
    try:
        with patch.object(torch.Tensor, "backward", backward):
            yield curves
    finally:
        hook.remove()


@contextlib.contextmanager
def float_is(dtype: torch.dtype) -> Iterator[None]:
    """In float64 ``Tensor.float()`` returns float64 as well, for code that calls it on what it computes with."""
    if dtype != torch.float64:
        yield
        return
    with patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


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
        stack.enter_context(float_is(dtype))
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
        module.__spec__ = importlib.machinery.ModuleSpec(stub, None)  # torch asks for it
        vars(module).update(attributes)
        sys.modules[stub] = module
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def module_of_file(path: Path, stubs: Mapping[str, Mapping[str, Any]] | None = None) -> types.ModuleType:
    """Imports one file of a checkout, alone; ``stubs`` are modules that it imports and does not need."""
    sys.dont_write_bytecode = True  # leave the checkout as it is
    for name, attributes in (stubs or {}).items():
        module = sys.modules[name] = types.ModuleType(name)
        vars(module).update(attributes)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare() -> None:
    """One thread, and an allocator that keeps what it frees.

    glibc hands large blocks back to the system until it has seen one of nearly 32 MiB freed.
    """
    torch.set_num_threads(1)
    block = torch.empty(31 * 2**20, dtype=torch.uint8)
    del block


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have."""
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
