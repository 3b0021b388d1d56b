"""Loss curves of kd, sp, at, nst, rkd, pkt, vid and crd beside HobbitLong/RepDistiller.

The official side is the whole of ``train_student.main()``, unchanged, called with the command line of its
``scripts/run_cifar_distill.sh``: its option parser, networks, criteria, optimiser, weights and
``helper.loops.train_distill``. Around it, from here: the data loader hands out our batches (digits in
place of CIFAR-100), the student is given our initial weights when ``main`` builds it, one epoch has all
the steps, ``tensorboard_logger`` is replaced by a module that logs nothing, and no GPU is found.

gkd's side is its own networks (same weights, loaded with ``strict=True``), its Distiller, and terms,
optimiser and schedule of ``configs/methods/<method>.yaml``. Criteria with weights or memory banks of their own
(vid, crd) begin on both sides from those that the official code drew; contrastive negatives are drawn here.

Both sides begin from a student that gkd trained for 60 steps. Two places of the schedule are compared: its
first learning rate, 0.05, and 0.0005 of its third phase (epochs 180 to 209), which ``main`` reaches by
``--lr_decay_epochs 0,0,9``; for pkt the fourth (5e-5). pkt and crd also run with their 1e-7 set to 0; the README
says why.

    python benchmarks/parity/repdistiller.py --checkout ../RepDistiller \\
        --out benchmarks/results/parity_repdistiller.json
"""

from __future__ import annotations

import contextlib
import itertools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from _cifar import (
    PAIRS,
    Case,
    chosen,
    compare_case,
    negatives,
    pairs,
    parser,
    positive_first,
    without_epsilon,
    write,
)
from _common import (
    Curves,
    OfficialLoader,
    State,
    copied,
    official_module,
    official_surroundings,
    prepare,
    recorded,
)
from _compare import PHASES, Phase, checkout_facts
from torch import nn

DECAYED = {"late": "--lr_decay_epochs 0,0,9", "last": "--lr_decay_epochs 0,0,0"}
# PKT and CRDLoss add 1e-7 where gkd does not, which is enough to part float64 at the first rate.
CRD_PHASES = (
    Phase("late", torch.float32, True),
    Phase("late", torch.float64, True),
    Phase("first", torch.float64, False),
    Phase("first", torch.float32, False),
)
# Probabilities that are nearly equal make PKT's divergence a small sum of terms of both signs: in float32 the official
# loss parts from itself by 1e-4 at the late rate.
PKT_PHASES = (
    Phase("last", torch.float32, True),
    Phase("last", torch.float64, True),
    Phase("late", torch.float32, False),
    *CRD_PHASES[2:],
)


@dataclass(frozen=True)
class Method:
    """How RepDistiller is asked for a method, and how its losses are read.

    Attributes:
        options: of scripts/run_cifar_distill.sh.
        criterion, curve: the official criterion and our term; cross-entropy comes besides.
        joined: see `Case`.
        adapters: official name -> ours, of the weights and banks that the criterion owns.
        negatives: K of a contrastive criterion.
        method: in configs/methods, where it is not the name.
        exact: whether the 1e-7 of ``PKT`` and ``CRDLoss`` are set to 0.
    """

    options: str
    criterion: str
    curve: str
    joined: dict[str, tuple[str, ...]] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    negatives: int = 0
    method: str | None = None
    phases: Sequence[Phase] = PHASES
    exact: bool = False


CRD = "--distill crd -a 0 -b 0.8"
CRD_ADAPTERS = {
    **{
        f"embed_{side[0]}.linear.{name}": f"projections.{side}.{name}"
        for side in ("student", "teacher")
        for name in ("weight", "bias")
    },
    "contrast.memory_v1": "student_bank",
    "contrast.memory_v2": "teacher_bank",
}
METHODS = {
    "kd": Method("--distill kd -r 0.1 -a 0.9 -b 0", "DistillKL", "kd"),
    "sp": Method("--distill similarity -a 0 -b 3000", "Similarity", "sp"),
    "at": Method("--distill attention -a 0 -b 1000", "Attention", "at"),
    "nst": Method("--distill nst -a 0 -b 50", "NSTLoss", "nst"),
    "rkd": Method("--distill rkd -a 0 -b 1", "RKDLoss", "rkd", {"rkd": ("rkd_distance", "rkd_angle")}),
    "pkt": Method("--distill pkt -a 0 -b 30000", "PKT", "pkt", phases=PKT_PHASES),
    "pkt without 1e-7": Method(
        "--distill pkt -a 0 -b 30000", "PKT", "pkt", method="pkt", phases=PHASES[1:2], exact=True
    ),
    "vid": Method(
        "--distill vid -a 0 -b 1",
        "VIDLoss",
        "vid",
        adapters={
            "log_scale": "raw_variance",
            **{f"regressor.{layer}.weight": f"regressor.{layer}.weight" for layer in (0, 2, 4)},
        },
    ),
    "crd": Method(CRD, "CRDLoss", "crd", adapters=CRD_ADAPTERS, negatives=16384, phases=CRD_PHASES),
    "crd without 1e-7": Method(
        CRD,
        "CRDLoss",
        "crd",
        adapters=CRD_ADAPTERS,
        negatives=16384,
        method="crd",
        phases=PHASES[1:2],
        exact=True,
    ),
}


class SilentLogger:
    """tensorboard_logger.Logger without tensorboard."""

    def __init__(self, **_options: object) -> None: ...

    def log_value(self, *_values: object) -> None: ...


def with_shared_weights(
    method: Method, case: Case, criterion: Callable[..., nn.Module]
) -> Callable[..., nn.Module]:
    """The class of a criterion that owns weights, so that every run has those which the first one drew."""
    built = itertools.count()

    def build(*sizes: Any) -> nn.Module:
        number = next(built)
        torch.manual_seed(3 + number)
        module = criterion(*sizes)
        state = dict(module.named_parameters()) | dict(module.named_buffers())
        if number == len(case.adapters):
            case.adapters.append(copied({ours: state[theirs] for theirs, ours in method.adapters.items()}))
        for theirs, ours in method.adapters.items():
            state[theirs].data.copy_(case.adapters[number][ours])
        return module

    return build


def run_official(
    method: Method, script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """``train_student.main()`` for one epoch of our batches."""
    terms = {"CrossEntropyLoss": "cross_entropy", method.criterion: method.curve}
    official_student = script.model_dict[case.student_name]
    criterion = getattr(script, method.criterion)
    if method.adapters:
        criterion = with_shared_weights(method, case, criterion)
    built: list[nn.Module] = []

    def student(**build: int) -> nn.Module:
        network = official_student(**build)
        network.load_state_dict(start)
        built.append(network)
        return network

    stream = case.stream.to(dtype)
    with official_surroundings(dtype) as folder, recorded(terms) as curves:
        checkpoint = folder / f"{case.teacher_name}_vanilla" / "teacher.pth"
        checkpoint.parent.mkdir()
        torch.save({"model": copied(case.teacher, dtype)}, checkpoint)
        train = OfficialLoader(stream, 4 if case.negatives else 3, fourth=partial(positive_first, case))
        loaders = (train, [next(iter(OfficialLoader(stream, 2)))], len(stream.images))
        command = f"train_student.py {method.options} {DECAYED.get(place, '')} --model_s {case.student_name}"
        command += f" --path_t {checkpoint} --epochs 1"
        with (
            without_epsilon(script) if method.exact else contextlib.nullcontext(),
            patch.object(script, "get_cifar100_dataloaders", lambda **_options: loaders),
            patch.object(script, "get_cifar100_dataloaders_sample", lambda **_options: loaders),
            patch.object(script, method.criterion, criterion),
            patch.dict(script.model_dict, {case.student_name: student}),
            patch("sys.argv", command.split()),
        ):
            script.main()
    return curves, copied(built[0].state_dict())


def main() -> int:
    args = parser(__doc__, tuple(METHODS)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_module(checkout, "train_student", {"tensorboard_logger": {"Logger": SilentLogger}})
    comparisons: list[dict[str, Any]] = []
    for teacher_name, student_name, teacher, stream in pairs(args):
        for name in args.methods:
            method = METHODS[name]
            draw = partial(negatives, stream, method.negatives) if method.negatives else None
            case = Case(
                method.method or name,
                name,
                teacher_name,
                student_name,
                teacher,
                stream,
                method.joined,
                negatives=draw,
            )
            official = partial(run_official, method, script)
            phases = chosen(args, method.phases, wide=student_name != PAIRS[0][1])
            options = method.options
            if method.exact:
                options += " (eps of the criterion is 0)"
            comparisons += compare_case(case, official, options, DECAYED, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, "HobbitLong/RepDistiller"),
            "ran": "train_student.main() as it is: parse_option, models, distiller_zoo, the optimiser, "
            "helper.util.adjust_learning_rate, helper.loops.train_distill and validate",
            "replaced": "the data loader (our batches, and the negatives of crd), the student's initial weights, "
            "those of vid and crd (the official code draws them once for all runs), tensorboard_logger (logs "
            "nothing), torch.cuda.is_available (False)",
        },
        comparisons,
    )


if __name__ == "__main__":
    raise SystemExit(main())
