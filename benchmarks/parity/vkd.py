"""Loss curves of VkD's orthogonal projection beside roymiles/VkD.

The official side is ``engine.train_one_epoch``, unchanged: pooling, the layer-normalised teacher, smooth L1, the order
of backward and step; and the projector as ``train.main`` makes it, ``parametrizations.orthogonal(nn.Linear(...,
bias=False))``. Around them, from here: gkd's CIFAR networks behind what the loop asks a distilled transformer and a
convolutional teacher for; our batches; and SGD with the rates of ``vkd.yaml`` in place of AdamW. The term on logits,
which ``vkd.yaml`` leaves out, has the weight 1e-30: at 0 the loop does not ask the teacher.

Weights do not decay here on either side: torch keeps signs on the diagonal of the projector's parameter, as whole
numbers, and the first step of any decay makes them, and the projector's output, 0.

    python benchmarks/parity/vkd.py --checkout ../VkD --out benchmarks/results/parity_vkd.json
"""

from __future__ import annotations

import contextlib
import types
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

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
from _compare import PHASES, Phase, checkout_facts
from timm.utils import NativeScaler
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gkd.methods.stage import Stage
from gkd.models import build_network

SIZE = 16
# Their widths differ: of equal ones torch's parametrisation is another, by the matrix exponential. The embedding of
# these networks is the mean of their last map, as the loop takes it.
PAIRS = [("resnet8x4", "resnet8"), ("resnet8x4", "resnet14")]
# At the late rate the official code parts from itself by more than 1e-4 in the cross-entropy, which is small by then.
ASKED = (Phase("last", torch.float32, True), Phase("late", torch.float32, False), *PHASES[1:])
OPTIONS = {"alpha": 1.0, "gamma": 1e-30, "bce_loss": False}
REFLECTIONS, BASE = "projector.layers.0.0.reflections", "projector.layers.0.0.base"


@dataclass(frozen=True)
class WithoutDecay(Case):
    """A method whose weights do not decay."""

    @property
    def stage(self) -> Stage:
        stage = super().stage
        return stage.model_copy(
            update={"optimiser": stage.optimiser.model_copy(update={"weight_decay": 0.0})}
        )


class Student(nn.Module):
    """A network of gkd as their distilled transformer: of its last map's positions as tokens, with one head twice."""

    def __init__(self, network: Any, projector: nn.Module) -> None:
        super().__init__()
        self.network, self.projector = network, projector

    def head(self, token: Tensor) -> Tensor:
        logits: Tensor = self.network.head(token)
        return logits

    head_dist = head

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.network.features(images)
        return features.embedding, features.embedding, features.maps[-1].flatten(2).mT


class Teacher(nn.Module):
    """A network of gkd as their convolutional teacher."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward_features(self, images: Tensor) -> Tensor:
        last: Tensor = self.network.features(images).maps[-1]
        return last

    def forward_head(self, last: Tensor) -> Tensor:
        logits: Tensor = self.network.head(last.mean((2, 3)))
        return logits


class Wrapped(nn.Module):
    """DistributedDataParallel of one process."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Log:
    """Their CSVLogger, which keeps the losses of every step."""

    def __init__(self) -> None:
        self.distances: list[float] = []

    def log(self, _epoch: int, _step: int, _cross_entropy: Tensor, distance: Tensor, _kl: Tensor) -> None:
        self.distances.append(float(distance))


def orthogonal(case: Case, dtype: torch.dtype) -> nn.Module:
    """The projector as ``train.main`` makes it, with the weights that the first run drew."""
    widths = (
        build_network(name, num_classes=2).embedding_dim for name in (case.student_name, case.teacher_name)
    )
    torch.manual_seed(3)
    projector = parametrizations.orthogonal(nn.Linear(*widths, bias=False))
    theirs: Any = projector.parametrizations["weight"]
    if not case.adapters:
        # The signs on its diagonal, -1 each, stand in gkd's base; the reflections are below it.
        signs = {float(sign) for sign in theirs.original.diagonal()}
        assert signs == {-1.0}
        state = {BASE: -theirs[0].base, REFLECTIONS: theirs.original.tril(-1)}
        case.adapters.append(copied(state))
    theirs[0].base.copy_(-case.adapters[0][BASE])
    return projector.to(dtype)


def run_official(
    script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """``train_one_epoch()`` on our batches."""
    stream, log = case.stream.to(dtype), Log()
    cuda = {"synchronize": None, "max_memory_allocated": 0}
    with (
        official_surroundings(dtype),
        recorded({"CrossEntropyLoss": "cross_entropy"}) as curves,
        contextlib.ExitStack() as stack,
    ):
        for name, value in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, return_value=value))
        teacher, network = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        network.load_state_dict(start)
        student = Wrapped(Student(network, orthogonal(case, dtype)))
        optimiser = case.stage.optimiser
        sgd = torch.optim.SGD(
            student.parameters(),
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], case.stage.epochs),
            momentum=optimiser.momentum,
        )
        script.train_one_epoch(
            0, log, lambda _text: None, student, Teacher(teacher), nn.CrossEntropyLoss(),
            nn.KLDivLoss(reduction="batchmean"), OfficialLoader(stream, 3), sgd, torch.device("cpu"), 0, NativeScaler(),
            None, lr_scheduler=types.SimpleNamespace(step_update=lambda _step: None),
            args=types.SimpleNamespace(**OPTIONS),
        )  # fmt: skip
    return {**curves, "regression": log.distances}, copied(network.state_dict())


def main() -> int:
    args = parser(__doc__, ("vkd",)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_module(checkout, "engine", {})
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, PAIRS, SIZE)):
        case = WithoutDecay("vkd", "vkd", teacher_name, student_name, teacher, stream)
        options = " ".join(f"--{name} {value}" for name, value in OPTIONS.items() if name != "bce_loss")
        phases = chosen(args, ASKED, wide=number > 0)
        comparisons += compare_case(case, partial(run_official, script), options, {}, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, "roymiles/VkD"),
            "ran": "engine.train_one_epoch as it is, with the projector of train.main",
            "replaced": "the networks (gkd's behind forward_features, head, head_dist and forward_head), the data "
            "loader (our batches), the optimiser (SGD with the rates of vkd.yaml, without decay on either side), "
            "the projector's initial weights (the official code draws them once for all runs), torch.cuda.is_available "
            "(False), synchronize and max_memory_allocated",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
