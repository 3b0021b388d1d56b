"""The authors' side of ``refilled.py``: their code loaded, and their stages on our batches."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _common import (
    OfficialDataset,
    OfficialLoader,
    State,
    Stream,
    copied,
    official_module,
)
from torch import Tensor, nn

from gkd.config.shipped import load_method
from gkd.methods.stage import Stage

NUM_CLASSES = 7
DEPTH, TEACHER_WIDTH, STUDENT_WIDTH = 10, 2, 1  # the CVPR code wants a teacher of 128 features
STUBS = {
    "utils.global_variable": {"DEVICES": [0], "WORKERS": 0},
    "tensorboardX": {"SummaryWriter": None},
}


@dataclass(frozen=True)
class Official:
    """One generation of the authors' code.

    Attributes:
        generation: ``refilled_2021``, ``refilled_cvpr`` or ``refilled``.
        train: its module ``Train``.
        defaults: the options of its ``main.py``.
    """

    generation: str
    train: types.ModuleType
    network: Callable[[int], nn.Module]
    defaults: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A stage of a method, and what both sides share.

    Attributes:
        method, stage_name: in configs/methods.
        first_lr: the learning rate of the ``first`` phase and of the student's warm-up.
        late_lr: the one of the ``late`` phase.
        terms: official criterion -> our term, where the criterion returns the term itself.
        ran: the function of the official module ``Train``, and how.
    """

    name: str
    method: str
    stage_name: str
    first_lr: float
    late_lr: float
    terms: dict[str, str]
    ran: str
    official: Official
    teacher: State
    stream: Stream

    @property
    def stage(self) -> Stage:
        return load_method(self.method).stages[self.stage_name]

    def teacher_network(self, dtype: torch.dtype) -> nn.Module:
        network = self.official.network(TEACHER_WIDTH).to(dtype)
        network.load_state_dict(copied(self.teacher, dtype))
        return network.eval()

    def options(self, **changes: Any) -> types.SimpleNamespace:
        """The official options, for one epoch on our batches."""
        ours = {
            "devices": [0],
            "flag_no_bar": True,
            "flag_debug": True,  # saves no student
            "n_training_epochs1": 1,
            "n_training_epochs2": 1,
            "batch_size": self.stream.index.shape[1],
            "n_classes": NUM_CLASSES,
        }
        return types.SimpleNamespace(**{**self.official.defaults, **ours, **changes})


def main_defaults(checkout: Path) -> dict[str, Any]:
    """The defaults of the options in the checkout's ``main.py``, which can only be run, not imported."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse((checkout / "main.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            name = ast.literal_eval(node.args[0]).lstrip("-")
            for keyword in node.keywords:
                if keyword.arg == "default" and not isinstance(keyword.value, ast.Attribute):
                    found[name] = ast.literal_eval(keyword.value)
    return found


class Adapter(nn.Module):
    """An official network as the official loops call it, with float64 copies of embeddings if asked.

    At c5e077f the loop calls ``forward(x, 1)``, which the networks beside it do not take; they have
    ``forward_embedding(x)``. Later networks take ``flag_embedding``.
    """

    def __init__(self, network: nn.Module, exact: bool) -> None:
        super().__init__()
        self.network = network
        self.exact = exact

    def forward(self, x: Tensor, embedding: int = 0, **flags: bool) -> Tensor | tuple[Tensor, Tensor]:
        output = self.network.forward_embedding(x) if embedding else self.network(x, **flags)
        return output.double() if self.exact and (embedding or flags.get("flag_embedding")) else output

    def __getattr__(self, name: str) -> Any:
        """What the loops ask of the network itself, such as ``fc``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def load_official(checkout: Path) -> Official:
    """Recognises the generation and imports its training module and its wide residual network."""
    if (checkout / "utils" / "Triplet.py").exists():
        generation = "refilled_cvpr"
    else:
        generation = "refilled" if (checkout / "Metric.py").exists() else "refilled_2021"
    train = official_module(checkout, "Train", STUBS)
    networks = official_module(checkout, "networks.wide_resnet", {})

    def network(width: int) -> nn.Module:
        if generation == "refilled_cvpr":
            return networks.WideResNet(DEPTH, width, NUM_CLASSES, 0.0)
        options = {"number_of_classes": NUM_CLASSES, "n_classes": NUM_CLASSES, "dropout_rate": 0.0}
        return networks.MyNetwork(types.SimpleNamespace(depth=DEPTH, width=width, **options))

    return Official(generation, train, network, main_defaults(checkout))


def stage_2021(case: Case, student: nn.Module, teacher: nn.Module, lr: float, stream: Stream) -> None:
    """``train_stage1`` (padded tuples) or ``train_stage2`` of the rewrite, or ``train_stage2`` of GKD."""
    Path("saves/class_centers").mkdir(parents=True)
    tpami = case.official.generation == "refilled"
    loader = OfficialLoader(stream, 4 if tpami else 2)
    options = case.options(lr1=lr, lr2=lr, flag_merge=True)
    if tpami:
        options.model_name = "wgkd" if case.method == "refilled_weighted" else "gkd"
    stage = (
        case.official.train.train_stage1
        if case.stage_name == "embedding"
        else case.official.train.train_stage2
    )
    validation = OfficialLoader(
        Stream(stream.images, stream.labels, stream.index[:1], NUM_CLASSES), loader.fields
    )
    stage(options, loader, validation, teacher, student, "student.model")


class TensorPairs(torch.utils.data.Dataset):
    """The first images, for the CVPR code's validation."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return 128

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.stream.images[i], self.stream.labels[i]


def stage_cvpr(case: Case, student: nn.Module, teacher: nn.Module, lr: float, stream: Stream) -> None:
    """One stage of ``do_train_process``; the other one has no epoch."""
    first = case.stage_name == "embedding"
    defaults = case.official.defaults
    torch.save(student.state_dict(), "stage1.model")  # what stage 2 loads
    loader, where = OfficialLoader(stream, 2), torch.where
    # utils.Triplet takes a view of what torch.where returns, which since keeps its inputs' strides
    with (
        patch.object(case.official.train, "DataLoader", lambda **_options: loader),
        patch.object(torch, "where", lambda *inputs: where(*inputs).contiguous()),
    ):
        case.official.train.do_train_process(
            train_dataset=OfficialDataset(stream),
            validate_dataset=TensorPairs(stream),
            train_batch_size=stream.index.shape[1],
            validate_batch_size=64,
            model=student,
            learning_rate_in_stage1=lr,
            learning_rate_in_stage2=lr,
            momentum=defaults["momentum"],
            weight_decay=defaults["weight_decay"],
            nesterov=defaults["nesterov"],
            lr_lambda_in_stage1=lambda _epoch: 1,
            lr_lambda_in_stage2=lambda _epoch: 1,
            number_of_epochs_in_stage1=1 if first else 0,
            number_of_epochs_in_stage2=0 if first else 1,
            flag_gpu=False,
            model_file_path_in_stage1="stage1.model",
            model_file_path_in_stage2="stage2.model",
            teacher=teacher,
            beta=defaults["beta"],
            tau1=defaults["tau1"],
            tau2=defaults["tau2"],
            tau3=defaults["tau3"],
            debug=False,
            visualize=False,
            log_dir=None,
            devices=[0],
            number_of_classes=NUM_CLASSES,
        )
