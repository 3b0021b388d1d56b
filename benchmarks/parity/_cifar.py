"""What the scripts beside CIFAR-100 benchmarks share: the pairs of networks, gkd's side, the comparison."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from _common import (
    SIZE,
    WARM_STEPS,
    Curves,
    State,
    Stream,
    arguments,
    copied,
    data_facts,
    digits,
    train_gkd,
    train_teacher,
)
from _compare import TOLERANCE, Phase, compare_sides, environment, finish
from torch import Tensor, nn

from gkd.config.shipped import load_method
from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.methods.stage import Stage
from gkd.models import build_network

NUM_CLASSES = 100  # fixed in the official scripts; the digits are the first ten
# The second only where float32 must agree: float64 convolutions of wide networks take minutes on a CPU.
PAIRS = [("resnet14", "resnet8"), ("wrn_16_2", "wrn_16_1")]
# Of the Gumbel noise, which decides gates beside the policy.
NOISE_SEED = 11
# Where the phases stand on the published schedule, whose epochs 150, 180 and 210 of 240 divide the rate by 10.
PROGRESS = {"first": 0.0, "late": 180 / 240, "last": 210 / 240}


@dataclass(frozen=True)
class Case:
    """A method with a pair of networks, and what both sides share.

    Attributes:
        method: a file of configs/methods with the one stage ``distil``.
        name: of the comparison, before the networks.
        joined: name of a curve -> our terms that an official criterion weights and sums itself.
        epoch_length: after how many steps the official loop begins another epoch; None is never.
        negatives: step and index -> int64 ``[B, K]``, what a contrastive loss draws there.
        adapters: the initial weights of the losses that own any, by gkd's names, one state a pair of spots; the
            first official run fills it.
        router: likewise, of the policy and the layers between the networks where samples are routed.
    """

    method: str
    name: str
    teacher_name: str
    student_name: str
    teacher: State
    stream: Stream
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    epoch_length: int | None = None
    negatives: Callable[[int, Tensor], Tensor] | None = None
    adapters: list[State] = field(default_factory=list)
    router: State = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        return load_method(self.method).stages["distil"]

    @property
    def term(self) -> str:
        """The name of the one term beside the cross-entropy."""
        (name,) = self.stage.terms.keys() - {"cross_entropy"}
        return name

    def student(self) -> nn.Module:
        """A fresh student."""
        return build_network(self.student_name, num_classes=NUM_CLASSES)

    def epoch(self, step: int) -> float:
        """Where the weight schedules stand: official loops count from 1 and hold a weight for an epoch."""
        return 0.0 if self.epoch_length is None else 1.0 + step // self.epoch_length


Official = Callable[[Case, str, State, torch.dtype], tuple[Curves, State]]


def run_gkd(
    case: Case, place: str, start: State, dtype: torch.dtype, steps: int | None = None
) -> tuple[Curves, State]:
    """gkd's networks, Distiller, terms and optimiser over the same batches."""
    teacher, student = (
        build_network(case.teacher_name, num_classes=NUM_CLASSES).to(dtype),
        case.student().to(dtype),
    )
    teacher.load_state_dict(copied(case.teacher, dtype))
    student.load_state_dict(start)
    space = LabelSpace([f"class {k}" for k in range(NUM_CLASSES)])
    stage = case.stage
    distiller = Distiller(
        student,
        TeacherSide(Teacher(teacher, space, mean=(0.0,) * 3, std=(1.0,) * 3), LabelRelation(space, space)),
        stage.terms,
        image_shape=case.stream.images.shape[1:],
        train_labels=case.stream.labels,
        routing=stage.spots,
    )
    give_adapters(case, distiller, dtype)
    give_router(case, distiller, dtype)
    optimiser = stage.optimiser.build(distiller.param_groups(stage.train))
    stage.optimiser.set_lr(optimiser, PROGRESS[place], stage.epochs)
    curves = train_gkd(
        distiller, optimiser, case.stream.to(dtype), steps, epoch=case.epoch, joined=case.joined
    )
    return curves, copied(student.state_dict())


def give_adapters(case: Case, distiller: Distiller, dtype: torch.dtype) -> None:
    """Hands the weights and the negatives of the official criteria to the modules of the distiller's terms."""
    modules = [module for term in distiller.adapters.values() for module in term]
    distiller.adapters.to(dtype)
    for module, state in zip(modules, case.adapters or [{}] * len(modules), strict=True):
        missing = module.load_state_dict(copied(state, dtype), strict=False)
        if missing.unexpected_keys:
            raise RuntimeError(f"{case.method}: gkd has no {missing.unexpected_keys}.")
    if case.negatives is None:
        return
    draw, steps = case.negatives, itertools.count()

    def drawn(_module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return inputs, {**options, "drawn": draw(next(steps), inputs[2])}

    for module in modules:
        module.register_forward_pre_hook(drawn, with_kwargs=True)


def give_router(case: Case, distiller: Distiller, dtype: torch.dtype) -> None:
    """Hands the router, where there is one, the weights of the official policy and hints, and the seed of the noise."""
    if distiller.router is None:
        return
    missing = distiller.router.to(dtype).load_state_dict(copied(case.router, dtype), strict=False)
    lacking = set(missing.missing_keys) - {"seen", "distilled", "_extra_state"} if case.router else set()
    if missing.unexpected_keys or lacking:
        raise RuntimeError(f"{case.name}: gkd's router has no {missing.unexpected_keys}, or lacks {lacking}.")
    distiller.router.generator.manual_seed(NOISE_SEED)


def negatives(stream: Stream, number: int, step: int, index: Tensor) -> Tensor:
    """int64 ``[B, K]``: for each sample of a step, numbers of samples of other classes, the same at every call."""
    generator = torch.Generator().manual_seed(step)
    others = [(stream.labels != stream.labels[sample]).nonzero().squeeze(1) for sample in index]
    return torch.stack([rows[torch.randint(len(rows), (number,), generator=generator)] for rows in others])


def positive_first(case: Case, step: int, batch: Batch) -> Tensor:
    """int64 ``[B, 1 + K]``: what the official loader of contrastive samples adds to a batch."""
    assert case.negatives is not None
    return torch.cat([batch.index.unsqueeze(1), case.negatives(step, batch.index)], 1)


@contextlib.contextmanager
def without_epsilon(script: types.ModuleType) -> Iterator[None]:
    """``PKT`` and ``CRDLoss`` without what they add to norms, probabilities and denominators."""
    pkt, crd = script.PKT.cosine_similarity_loss, sys.modules[script.CRDLoss.__module__]
    with patch.object(pkt, "__defaults__", (0.0,)), patch.object(crd, "eps", 0.0):
        yield


def compare_case(
    case: Case, official: Official, options: str, more: Mapping[str, str], phases: Sequence[Phase]
) -> list[dict[str, Any]]:
    """The method in each phase, from one student that gkd trained for a while.

    Args:
        options: of the official command line, for the result file.
        more: phase -> what is added there.
    """
    if not phases:
        return []
    torch.manual_seed(2)
    untrained = copied(case.student().state_dict())
    _, student = run_gkd(case, "first", untrained, torch.float32, WARM_STEPS)
    optimiser, epochs = case.stage.optimiser, case.stage.epochs
    results = []
    for phase in phases:
        facts = {
            "method": f"configs/methods/{case.method}.yaml",
            "official_options": f"{options} {more.get(phase.name, '')}".strip(),
            "networks": f"{case.teacher_name} -> {case.student_name}",
            "lr": optimiser.lr * optimiser.lr_factor(PROGRESS[phase.name], epochs),
        }
        results.append(
            compare_sides(
                f"{case.name}, {case.teacher_name} -> {case.student_name}",
                phase,
                student,
                partial(official, case, phase.name),
                partial(run_gkd, case, phase.name),
                facts,
            )
        )
    return results


def parser(description: str | None, methods: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a script that follows methods over the pairs."""
    options = arguments(description)
    options.add_argument("--quick", action="store_true", help="only the small ResNets")
    options.add_argument(
        "--methods", nargs="+", choices=methods, default=list(methods), help="only these (default: all)"
    )
    options.add_argument("--required", action="store_true", help="only comparisons that must agree")
    return options


def pairs(
    args: argparse.Namespace, names: Sequence[tuple[str, str]] = PAIRS, size: int = SIZE
) -> Iterator[tuple[str, str, State, Stream]]:
    """Teacher's and student's name, the trained teacher and the batches, for each pair."""
    stream = digits(range(10), steps=args.steps, seed=0, size=size)
    warm = digits(range(10), steps=WARM_STEPS, seed=0, size=size)
    for teacher_name, student_name in names[: 1 if args.quick else None]:
        torch.manual_seed(1)
        network = build_network(teacher_name, num_classes=NUM_CLASSES)
        yield teacher_name, student_name, train_teacher(network, warm), stream


def chosen(args: argparse.Namespace, phases: Sequence[Phase], *, wide: bool = False) -> list[Phase]:
    """The phases that the options leave; of wide networks only those in which float32 must agree."""
    return [
        phase
        for phase in phases
        if args.dtype in (None, str(phase.dtype)[6:])
        and (phase.must_agree or not args.required)
        and (not wide or (phase.must_agree and phase.dtype == torch.float32))
    ]


def write(
    args: argparse.Namespace,
    official: Mapping[str, Any],
    comparisons: Sequence[Mapping[str, Any]],
    size: int = SIZE,
) -> int:
    """The result file, and the exit status."""
    return finish(
        args.out,
        {
            "what": f"per-step losses of gkd beside {official['repository']}: same weights, same batches",
            **environment(),
            "official": dict(official),
            "data": data_facts(size),
            "tolerance": TOLERANCE,
            "comparisons": list(comparisons),
        },
    )
