"""Loss curves of redundancy suppression beside VISION-SJTU/RSD.

The official side is ``distillers.RSD`` and ``train.train_one_epoch``, unchanged: projector, normalisation, loss, the
order of backward and step. Around them, from here: gkd's CIFAR networks behind the two methods that the distiller asks
a network for (``forward(requires_feat=True)``, ``stage_info``), since theirs need timm 0.6.5; our batches; and SGD with
the rates of ``rsd.yaml``, which is the optimiser of their CNN config. The projector begins from what their code draws.

    python benchmarks/parity/rsd.py --checkout ../RSD --out benchmarks/results/parity_rsd.json
"""

from __future__ import annotations

import types
from functools import partial
from typing import Any
from unittest.mock import patch

import timm.models
import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
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
from torch import Tensor, nn

from gkd.models import build_network

SIZE = 16
# Their widths differ, as the projector expects: 256 to 64, and 128 to 64.
PAIRS = [("resnet8x4", "resnet8"), ("wrn_16_2", "wrn_16_1")]
OPTIONS = {
    "rsd_stage": -1,
    "rsd_loss_weight": 0.1,
    "rsd_kappa": 0.01,
    "rsd_gamma": 2,
}  # the defaults of train.py
# Of ``train_one_epoch``: no mixup, one process on a CPU, no log.
LOOP = {
    "mixup_off_epoch": 0, "prefetcher": True, "distributed": False, "clip_grad": None, "clip_mode": "norm",
    "log_interval": 10**9, "rank": 1, "recovery_interval": 0,
}  # fmt: skip
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Their projector -> ours.
PROJECTOR = {
    "0.weight": "projector.layers.0.0.weight",
    **{f"1.{name}": f"projector.layers.0.1.{name}" for name in NORM},
    "3.weight": "projector.layers.0.3.weight",
}


class AsTheirs(nn.Module):
    """A network of gkd with what their distillers ask of one: ``stage_info``, and its features on demand."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def stage_info(self, stage: int) -> tuple[int, int]:
        return stage, self.network.embedding_dim

    def forward(self, images: Tensor, requires_feat: bool) -> tuple[Tensor, list[Tensor]]:
        features = self.network.features(images)
        return features.logits, [*features.maps, features.embedding]


def begin_alike(case: Case, projector: nn.Module) -> None:
    """Let the projector begin with the weights that the first run drew."""
    theirs = projector.state_dict()
    if not case.adapters:
        case.adapters.append(copied({ours: theirs[name] for name, ours in PROJECTOR.items()}))
    projector.load_state_dict({name: case.adapters[0][ours] for name, ours in PROJECTOR.items()})


def run_official(
    script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """``train_one_epoch()`` of their distiller on our batches."""
    stream = case.stream.to(dtype)
    terms = {
        "CrossEntropyLoss": "cross_entropy",
        "RSD": lambda output: {"rsd": output[1]["loss_rsd"] / OPTIONS["rsd_loss_weight"]},
    }
    with official_surroundings(dtype), recorded(terms) as curves, patch.object(torch.cuda, "synchronize"):
        teacher, student = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        student.load_state_dict(start)
        args = types.SimpleNamespace(**OPTIONS, **LOOP)
        torch.manual_seed(3)
        distiller = script.get_distiller("rsd")(
            AsTheirs(student), AsTheirs(teacher.requires_grad_(False)), nn.CrossEntropyLoss(), args
        )
        begin_alike(case, distiller.projector)
        optimiser = case.stage.optimiser
        trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(
            trained,
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], case.stage.epochs),
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
        )
        script.train_one_epoch(0, distiller, OfficialLoader(stream, 2), sgd, args)
    return curves, copied(student.state_dict())


def main() -> int:
    args = parser(__doc__, ("rsd",)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    timm.models.convert_splitbn_model = None  # which train.py imports from there, for a GPU
    networks: dict[str, dict[str, Any]] = {
        "custom_model": {},
        "custom_forward": {"register_new_forward": None},
    }
    script = official_module(checkout, "train", networks)
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, PAIRS, SIZE)):
        case = Case("rsd", "rsd", teacher_name, student_name, teacher, stream)
        options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in OPTIONS.items())
        phases = chosen(args, PHASES, wide=number > 0)
        comparisons += compare_case(case, partial(run_official, script), options, {}, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, "VISION-SJTU/RSD"),
            "ran": "distillers.RSD and train.train_one_epoch as they are",
            "replaced": "the networks (gkd's behind stage_info and requires_feat), the data loader (our batches), the "
            "optimiser (SGD with the rates of rsd.yaml), the projector's initial weights (the official code draws them "
            "once for all runs), torch.cuda.is_available (False), torch.cuda.synchronize",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
