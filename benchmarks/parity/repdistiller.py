"""Loss curves of kd and sp beside HobbitLong/RepDistiller.

The official side is the whole of ``train_student.main()``, unchanged, called with the command line of its
``scripts/run_cifar_distill.sh``: its option parser, networks, criteria, optimiser, weights and
``helper.loops.train_distill``. Around it, from here: the data loader hands out our batches (digits in
place of CIFAR-100), the student is given our initial weights when ``main`` builds it, one epoch has all
the steps, ``tensorboard_logger`` is replaced by a module that logs nothing, and no GPU is found.

gkd's side is its own networks (same weights, loaded with ``strict=True``), its Distiller, and terms,
optimiser and schedule of ``configs/methods/kd.yaml`` and ``sp.yaml``.

Both sides begin from a student that gkd trained for 60 steps. Two places of the schedule are compared: its
first learning rate, 0.05, and 0.0005 of its third phase (epochs 180 to 209), which ``main`` reaches by
``--lr_decay_epochs 0,0,9``; the README says why.

    python benchmarks/parity/repdistiller.py --checkout ../RepDistiller \\
        --out benchmarks/results/parity_repdistiller.json
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from _common import (
    DATA,
    WARM_STEPS,
    Curves,
    OfficialLoader,
    State,
    Stream,
    arguments,
    copied,
    digits,
    official_module,
    official_surroundings,
    prepare,
    recorded,
    train_gkd,
    train_teacher,
)
from _compare import PHASES, TOLERANCE, Phase, checkout_facts, compare_sides, environment, finish

from gkd.config import load_method
from gkd.distiller import Distiller
from gkd.labels import LabelRelation, LabelSpace
from gkd.method import Stage
from gkd.models import build_network
from gkd.teacher import Teacher

NUM_CLASSES = 100  # fixed in train_student.main(); the digits are the first ten
# The wide networks only where float32 must agree: float64 convolutions take minutes on a CPU.
PAIRS = {("resnet14", "resnet8"): PHASES, ("wrn_16_2", "wrn_16_1"): PHASES[:1]}
# The third phase of the published schedule, epochs 180 to 209 of 240: two decays are behind.
LATE_PROGRESS = 180 / 240
LATE_OPTIONS = "--lr_decay_epochs 0,0,9"
# method -> options of scripts/run_cifar_distill.sh, official criterion -> our term
METHODS = {
    "kd": ("--distill kd -r 0.1 -a 0.9 -b 0", {"CrossEntropyLoss": "cross_entropy", "DistillKL": "kd"}),
    "sp": ("--distill similarity -a 0 -b 3000", {"CrossEntropyLoss": "cross_entropy", "Similarity": "sp"}),
}


class SilentLogger:
    """tensorboard_logger.Logger without tensorboard."""

    def __init__(self, **_options: object) -> None: ...

    def log_value(self, *_values: object) -> None: ...


@dataclass(frozen=True)
class Case:
    """A method with a pair of networks, and what both sides share."""

    method: str
    teacher_name: str
    student_name: str
    teacher: State
    stream: Stream

    @property
    def stage(self) -> Stage:
        return load_method(self.method).stages["distil"]


def run_official(
    case: Case, script: types.ModuleType, late: bool, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """``train_student.main()`` for one epoch of our batches."""
    options, terms = METHODS[case.method]
    official_student = script.model_dict[case.student_name]
    built: list[torch.nn.Module] = []

    def student(**build: int) -> torch.nn.Module:
        network = official_student(**build)
        network.load_state_dict(start)
        built.append(network)
        return network

    stream = case.stream.to(dtype)
    with official_surroundings(dtype) as folder, recorded(terms) as curves:
        checkpoint = folder / f"{case.teacher_name}_vanilla" / "teacher.pth"
        checkpoint.parent.mkdir()
        torch.save({"model": copied(case.teacher, dtype)}, checkpoint)
        loaders = (OfficialLoader(stream, 3), [next(iter(OfficialLoader(stream, 2)))], stream.index.numel())
        command = f"train_student.py {options} {LATE_OPTIONS if late else ''} --model_s {case.student_name}"
        command += f" --path_t {checkpoint} --epochs 1"
        with (
            patch.object(script, "get_cifar100_dataloaders", lambda **_options: loaders),
            patch.dict(script.model_dict, {case.student_name: student}),
            patch("sys.argv", command.split()),
        ):
            script.main()
    return curves, copied(built[0].state_dict())


def run_gkd(
    case: Case, late: bool, start: State, dtype: torch.dtype, steps: int | None = None
) -> tuple[Curves, State]:
    """gkd's networks, Distiller, terms and optimiser over the same batches."""
    teacher, student = (
        build_network(name, num_classes=NUM_CLASSES).to(dtype)
        for name in (case.teacher_name, case.student_name)
    )
    teacher.load_state_dict(copied(case.teacher, dtype))
    student.load_state_dict(start)
    space = LabelSpace([f"class {k}" for k in range(NUM_CLASSES)])
    stage = case.stage
    distiller = Distiller(
        student,
        Teacher(teacher, space, mean=(0.0,) * 3, std=(1.0,) * 3),
        stage.terms,
        relation=LabelRelation(space, space),
    )
    optimiser = stage.optimiser.build(distiller.param_groups(stage.train))
    stage.optimiser.set_lr(optimiser, LATE_PROGRESS if late else 0.0, stage.epochs)
    curves = train_gkd(distiller, optimiser, case.stream.to(dtype), steps)
    return curves, copied(student.state_dict())


def compare_case(case: Case, script: types.ModuleType, phases: Sequence[Phase]) -> list[dict[str, Any]]:
    """The method in each phase, from one student that gkd trained for a while."""
    torch.manual_seed(2)
    untrained = copied(script.model_dict[case.student_name](num_classes=NUM_CLASSES).state_dict())
    _, student = run_gkd(case, False, untrained, torch.float32, WARM_STEPS)
    optimiser, epochs = case.stage.optimiser, case.stage.epochs
    results = []
    for phase in phases:
        late = phase.name == "late"
        facts = {
            "method": f"configs/methods/{case.method}.yaml",
            "official_options": f"{METHODS[case.method][0]} {LATE_OPTIONS if late else ''}".strip(),
            "networks": f"{case.teacher_name} -> {case.student_name}",
            "lr": optimiser.lr * optimiser.lr_factor(LATE_PROGRESS if late else 0.0, epochs),
        }
        results.append(
            compare_sides(
                f"{case.method}, {case.teacher_name} -> {case.student_name}",
                phase,
                student,
                partial(run_official, case, script, late),
                partial(run_gkd, case, late),
                facts,
            )
        )
    return results


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="only the small ResNets")
    args = parser.parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_module(checkout, "train_student", {"tensorboard_logger": {"Logger": SilentLogger}})
    stream = digits(range(10), steps=args.steps, seed=0)
    comparisons: list[dict[str, Any]] = []
    for (teacher_name, student_name), all_phases in list(PAIRS.items())[: 1 if args.quick else None]:
        phases = [phase for phase in all_phases if args.dtype in (None, str(phase.dtype)[6:])]
        torch.manual_seed(1)
        teacher = train_teacher(build_network(teacher_name, num_classes=NUM_CLASSES), stream)
        for method in METHODS if phases else ():
            case = Case(method, teacher_name, student_name, teacher, stream)
            comparisons += compare_case(case, script, phases)
    return finish(
        args.out,
        {
            "what": "per-step losses of gkd beside HobbitLong/RepDistiller: same weights, same batches",
            **environment(),
            "official": {
                **checkout_facts(checkout, "HobbitLong/RepDistiller"),
                "ran": "train_student.main() as it is: parse_option, models, distiller_zoo, the optimiser, "
                "helper.util.adjust_learning_rate, helper.loops.train_distill and validate",
                "replaced": "the data loader (our batches), the student's initial weights, "
                "tensorboard_logger (logs nothing), torch.cuda.is_available (False)",
            },
            "data": DATA,
            "tolerance": TOLERANCE,
            "comparisons": comparisons,
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
