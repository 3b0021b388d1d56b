"""Loss curves of dkd beside megvii-research/mdistiller.

The official side is the whole of ``main()`` in its ``tools/train.py``, unchanged, with its
``configs/cifar100/dkd/res32x4_res8x4.yaml`` (cross-entropy 1, alpha 1, beta 8, T 4, 20 epochs of warm-up):
its networks, ``DKD``, ``BaseTrainer``, optimiser and learning rates. Around it, from here: the config names
other networks and 25 epochs, the data loader hands out our batches (digits in place of CIFAR-100), the
teacher is read from our file and the student is given our initial weights when ``main`` builds them. The
packages that it wants for options and logs (yacs, tqdm, tensorboardX) are replaced by stand-ins.

gkd's side is its own networks (same weights, loaded with ``strict=True``), its Distiller, and terms,
optimiser and schedule of ``configs/methods/dkd.yaml``.

The steps are cut into 25 epochs, so that the warm-up rises and ends within them. Both sides begin from a
student that gkd trained for 60 steps, at the same two learning rates as in ``repdistiller.py``; 0.0005 is
reached by ``SOLVER.LR_DECAY_STAGES [0, 0, 999]``.

    python benchmarks/parity/mdistiller.py --checkout ../mdistiller \\
        --out benchmarks/results/parity_mdistiller.json
"""

from __future__ import annotations

import copy
import types
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from _cifar import PAIRS, Case, chosen, compare_case, pairs, parser, write
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
from _compare import PHASES, checkout_facts

from gkd.core.errors import UserError

CONFIG = "configs/cifar100/dkd/res32x4_res8x4.yaml"
EPOCHS = 25  # five more than the warm-up
DECAYED = {"late": [0, 0, 999]}  # phase -> SOLVER.LR_DECAY_STAGES
CURVE = "dkd times its warm-up"  # mdistiller's criterion returns it so


class Node(dict[str, Any]):
    """What mdistiller uses of yacs.config.CfgNode: a dictionary with attributes that takes YAML."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def dump(self) -> str:
        return str(dict(self))

    def merge(self, changes: dict[str, Any]) -> None:
        """Replaces values that are there; an unknown key is an error, as in yacs."""
        for name, value in changes.items():
            if isinstance(self[name], Node):
                self[name].merge(value)
            else:
                self[name] = value


class Silent:
    """tqdm.tqdm and tensorboardX.SummaryWriter that show and write nothing."""

    def __init__(self, *_values: object) -> None: ...

    def __getattr__(self, _name: str) -> Any:
        return lambda *_values: None


STUBS = {
    "yacs": {},
    "yacs.config": {"CfgNode": Node},
    "tqdm": {"tqdm": Silent},
    "tensorboardX": {"SummaryWriter": Silent},
}


def terms_of(output: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """What ``DKD.forward_train`` returns, by the names of our curves; its cross-entropy has the weight 1."""
    losses = output[1]
    return {"cross_entropy": losses["loss_ce"], CURVE: losses["loss_kd"]}


def config(script: types.ModuleType, checkout: Path, case: Case, place: str) -> Node:
    """The defaults, the config file, and what a user would add on the command line."""
    options: Node = copy.deepcopy(script.cfg)
    options.merge(yaml.safe_load((checkout / CONFIG).read_text(encoding="utf-8")))
    options.merge({"DISTILLER": {"TEACHER": case.teacher_name, "STUDENT": case.student_name}})
    options.merge({"LOG": {"WANDB": False}, "SOLVER": {"EPOCHS": EPOCHS}})
    if place in DECAYED:
        options.merge({"SOLVER": {"LR_DECAY_STAGES": DECAYED[place]}})
    return options


def run_official(
    checkout: Path, script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """``tools/train.py``'s ``main()`` over our batches."""
    networks = script.cifar_model_dict
    official_student = networks[case.student_name][0]
    built: list[torch.nn.Module] = []

    def student(**build: int) -> torch.nn.Module:
        network: torch.nn.Module = official_student(**build)
        network.load_state_dict(start)
        built.append(network)
        return network

    stream = case.stream.to(dtype)
    loaders = (
        OfficialLoader(stream, 3, epoch_length=case.epoch_length),
        [next(iter(OfficialLoader(stream, 2)))],
        len(stream.images),
        100,
    )
    with official_surroundings(dtype) as folder, recorded({"DKD": terms_of}) as curves:
        checkpoint = folder / "teacher.pth"
        torch.save({"model": copied(case.teacher, dtype)}, checkpoint)
        ours = {
            case.teacher_name: (networks[case.teacher_name][0], str(checkpoint)),
            case.student_name: (student, None),
        }
        with (
            patch.object(script, "get_dataset", lambda _options: loaders),
            patch.dict(networks, ours),
        ):
            script.main(config(script, checkout, case, place), False, [])
    return curves, copied(built[0].state_dict())


def main() -> int:
    args = parser(__doc__, ("dkd",)).parse_args()
    if args.steps % EPOCHS:
        raise UserError(f"--steps is {args.steps}; give a multiple of {EPOCHS}, the epochs.")
    prepare()
    checkout = args.checkout.resolve()
    script = official_module(checkout, "tools.train", STUBS)
    comparisons: list[dict[str, Any]] = []
    for teacher_name, student_name, teacher, stream in pairs(args):
        case = Case(
            "dkd", "dkd", teacher_name, student_name, teacher, stream, {CURVE: ("dkd",)}, args.steps // EPOCHS
        )
        official = partial(run_official, checkout, script)
        more = {place: f"SOLVER.LR_DECAY_STAGES {stages}" for place, stages in DECAYED.items()}
        comparisons += compare_case(
            case, official, f"--cfg {CONFIG}", more, chosen(args, PHASES, wide=student_name != PAIRS[0][1])
        )
    return write(
        args,
        {
            **checkout_facts(checkout, "megvii-research/mdistiller"),
            "ran": "main() of tools/train.py as it is: models, DKD, the optimiser, adjust_learning_rate, "
            "BaseTrainer and validate",
            "replaced": "the data loader (our batches), the networks and SOLVER.EPOCHS that the config names, "
            "the teacher's file, the student's initial weights, yacs.config (a dictionary), tqdm and "
            "tensorboardX (show and log nothing), torch.cuda.is_available (False)",
        },
        comparisons,
    )


if __name__ == "__main__":
    raise SystemExit(main())
