"""Loss curves of kd and sp beside HobbitLong/RepDistiller.

The official side is the whole of ``train_student.main()``, unchanged, called with the command line of its
``scripts/run_cifar_distill.sh``: its option parser, networks, criteria, optimiser, weights and
``helper.loops.train_distill``. Around it, from here: the data loader hands out our batches (digits in
place of CIFAR-100), the student is given our initial weights when ``main`` builds it, one epoch has all
the steps, ``tensorboard_logger`` is replaced by a module that logs nothing, and no GPU is found.

gkd's side is its own networks (same weights, loaded with ``strict=True``), its Distiller, and terms and
optimiser of ``configs/methods/kd.yaml`` and ``sp.yaml``; both learning rates stay at the 0.05 with which
they start.

    python benchmarks/parity/repdistiller.py --checkout ../RepDistiller \\
        --out benchmarks/results/parity_repdistiller.json
"""

from __future__ import annotations

import types
from pathlib import Path
from unittest.mock import patch

import torch
from _common import (
    BATCH,
    TEACHER_STEPS,
    TOLERANCE,
    Curves,
    OfficialLoader,
    State,
    Stream,
    arguments,
    checkout_facts,
    comparison,
    copied,
    digits,
    dtypes,
    environment,
    finish,
    official_module,
    official_surroundings,
    recorded,
    train_gkd,
    train_teacher,
)

from gkd.config import load_method
from gkd.distiller import Distiller
from gkd.labels import LabelRelation, LabelSpace
from gkd.models import build_network
from gkd.teacher import Teacher

NUM_CLASSES = 100  # fixed in train_student.main(); the digits are the first ten
PAIRS = (("wrn_16_2", "wrn_16_1"), ("resnet14", "resnet8"))
# method -> options of scripts/run_cifar_distill.sh, official criterion -> our term
METHODS = {
    "kd": ("--distill kd -r 0.1 -a 0.9 -b 0", {"CrossEntropyLoss": "cross_entropy", "DistillKL": "kd"}),
    "sp": ("--distill similarity -a 0 -b 3000", {"CrossEntropyLoss": "cross_entropy", "Similarity": "sp"}),
}


class SilentLogger:
    """tensorboard_logger.Logger without tensorboard."""

    def __init__(self, **_options: object) -> None: ...

    def log_value(self, *_values: object) -> None: ...


def run_official(
    script: types.ModuleType, method: str, pair: tuple[str, str], teacher: State, stream: Stream, start: State
) -> tuple[Curves, State]:
    """``train_student.main()`` for one epoch of our batches."""
    teacher_name, student_name = pair
    options, terms = METHODS[method]
    built: list[torch.nn.Module] = []
    official_student = script.model_dict[student_name]

    def student(**build: int) -> torch.nn.Module:
        network = official_student(**build)
        network.load_state_dict(start)
        built.append(network)
        return network

    dtype = stream.images.dtype
    with official_surroundings(dtype) as folder, recorded(terms) as curves:
        checkpoint = folder / f"{teacher_name}_vanilla" / "teacher.pth"
        checkpoint.parent.mkdir()
        torch.save({"model": copied(teacher, dtype)}, checkpoint)
        loaders = (OfficialLoader(stream, 3), [next(iter(OfficialLoader(stream, 2)))], stream.index.numel())
        command = f"train_student.py --path_t {checkpoint} {options} --model_s {student_name} --epochs 1 --trial 1"
        with (
            patch.object(script, "get_cifar100_dataloaders", lambda **_options: loaders),
            patch.dict(script.model_dict, {student_name: student}),
            patch("sys.argv", command.split()),
        ):
            script.main()
    return curves, copied(built[0].state_dict())


def run_gkd(
    method: str, pair: tuple[str, str], teacher: State, stream: Stream, start: State
) -> tuple[Curves, State]:
    """gkd's networks, Distiller, terms and optimiser over the same batches."""
    dtype = stream.images.dtype
    teacher_name, student_name = pair
    teacher_network, student = (
        build_network(name, num_classes=NUM_CLASSES).to(dtype) for name in (teacher_name, student_name)
    )
    teacher_network.load_state_dict(copied(teacher, dtype))
    student.load_state_dict(start)
    space = LabelSpace([f"class {k}" for k in range(NUM_CLASSES)])
    stage = load_method(method).stages["distil"]
    distiller = Distiller(
        student,
        Teacher(teacher_network, space, mean=(0.0,) * 3, std=(1.0,) * 3),
        stage.terms,
        relation=LabelRelation(space, space),
    )
    optimiser = stage.optimiser.build(distiller.param_groups(stage.train))
    return train_gkd(distiller, optimiser, stream), copied(student.state_dict())


def main() -> int:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    checkout = args.checkout.resolve()
    script = official_module(checkout, "train_student", {"tensorboard_logger": {"Logger": SilentLogger}})
    stream = digits(range(10), steps=args.steps, seed=0)
    comparisons = []
    for pair in PAIRS:
        torch.manual_seed(1)
        teacher = train_teacher(build_network(pair[0], num_classes=NUM_CLASSES), stream)
        initial = copied(script.model_dict[pair[1]](num_classes=NUM_CLASSES).state_dict())
        for method, (options, _terms) in METHODS.items():
            optimiser = load_method(method).stages["distil"].optimiser
            facts = {
                "method": f"configs/methods/{method}.yaml",
                "official_options": options,
                "teacher": pair[0],
                "student": pair[1],
                "optimiser": {
                    "lr": optimiser.lr,
                    "momentum": optimiser.momentum,
                    "weight_decay": optimiser.weight_decay,
                },
            }
            for dtype in dtypes(args.dtype):
                batches = stream.to(dtype)
                comparisons.append(
                    comparison(
                        f"{method}, {pair[0]} -> {pair[1]}",
                        dtype,
                        initial,
                        lambda start, m=method, p=pair, t=teacher, b=batches: run_official(
                            script, m, p, t, b, start
                        ),
                        lambda start, m=method, p=pair, t=teacher, b=batches: run_gkd(m, p, t, b, start),
                        facts,
                    )
                )
    result = {
        "what": "per-step losses of gkd beside HobbitLong/RepDistiller, same weights, same batches",
        **environment(),
        "official": {
            **checkout_facts(checkout, "HobbitLong/RepDistiller"),
            "ran": "train_student.main() as it is, with helper.loops.train_distill, models and distiller_zoo",
            "replaced": "data loader (our batches), initial student weights, tensorboard_logger, GPU",
        },
        "data": f"scikit-learn digits, 32x32x3, batches of {BATCH}; teacher: {TEACHER_STEPS} steps of cross-entropy",
        "tolerance": TOLERANCE,
        "comparisons": comparisons,
    }
    return finish(args.out, result, comparisons)


if __name__ == "__main__":
    raise SystemExit(main())
