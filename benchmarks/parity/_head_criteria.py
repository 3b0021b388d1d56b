"""The criteria that ``heads.py`` runs: where each is published, and how the authors' modules are called in a step."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from _cifar import NUM_CLASSES, Case
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.network import Features
from gkd.core.tapped import output_shapes


@dataclass(frozen=True)
class Step:
    """What a criterion may read in a step."""

    student: Features
    teacher: Features
    labels: Tensor
    networks: tuple[Any, Any]  # student's and teacher's
    epoch: int


# -> the unweighted losses, by the names of our terms or curves
Criterion = Callable[[Step], dict[str, Tensor]]


@dataclass(frozen=True)
class Official:
    """Where a criterion is published, and how it is called.

    Attributes:
        repository: as GitHub spells it.
        folder: of the files, imported as a package.
        files: of the folder.
        build: the files' modules, our case and networks -> the criterion, and the module that is trained with it.
        stubs: modules that the files import and the criterion does not need -> what they have.
        weights: curve -> its weight, where it joins terms of ours.
        joined: curve -> our terms.
        replaced: what was changed around it, for the result file.
    """

    repository: str
    folder: str
    files: tuple[str, ...]
    build: Callable[..., tuple[Criterion, nn.Module | None]]
    stubs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replaced: str = ""


def _width(network: Any) -> int:
    width: int = network.embedding_dim
    return width


def _srrl(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, nn.Module]:
    connector = scripts["models.util"].SRRL(s_n=_width(student), t_n=_width(teacher))
    divergence, squares = scripts["distiller_zoo.KD"].DistillKL(4), nn.MSELoss()

    def criterion(step: Step) -> dict[str, Tensor]:
        features, said = connector(step.student.embedding, step.networks[1].head)
        return {
            "kd": divergence(step.student.logits, step.teacher.logits),
            "srrl": squares(features, step.teacher.embedding) + squares(said, step.teacher.logits),
        }

    return criterion, connector


def _srrl_map(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, nn.Module]:
    script = scripts["distiller_zoo.AIN"]
    connector, statistics = script.transfer_conv(_width(student), _width(teacher)), script.statm_loss()

    def criterion(step: Step) -> dict[str, Tensor]:
        maps = connector(step.student.pooled_map)
        said = step.networks[1].head(maps.mean((2, 3)))  # as their networks do with feat_s
        return {
            "srrl": statistics(maps, step.teacher.pooled_map.detach()) + F.mse_loss(said, step.teacher.logits)
        }

    return criterion, connector


def _cat_kd(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, None]:
    options = case.stage.terms["cat_kd"].options

    def attention(features: Features, network: Any) -> Tensor:
        return F.conv2d(features.pooled_map, network.head.weight[:, :, None, None])  # type: ignore[arg-type]

    def criterion(step: Step) -> dict[str, Tensor]:
        ours, theirs = attention(step.student, step.networks[0]), attention(step.teacher, step.networks[1])
        loss = scripts["distillers.CAT_KD"].CAT_loss
        return {"cat_kd": loss(ours, theirs, options["size"], options["normalise"])}

    return criterion, None


def _mlkd(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, None]:
    """Their distiller takes networks and two views: it gets logits, the same for both views."""
    weights = types.SimpleNamespace(CE_WEIGHT=0.1, KD_WEIGHT=0.9)
    settings = types.SimpleNamespace(KD=types.SimpleNamespace(TEMPERATURE=4, LOSS=weights))
    distiller = scripts["distillers.KD_ours"].KD_ours(
        lambda both: (both[0], None), lambda both: (both[1], None), settings
    )

    def criterion(step: Step) -> dict[str, Tensor]:
        view = (step.student.logits, step.teacher.logits)
        losses = distiller.forward_train(view, view, step.labels)[1]
        return {"mlkd": losses["loss_kd"] + losses["loss_cc"] + losses["loss_bc"]}

    return criterion, None


def _ctkd(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, nn.Module]:
    """The curriculum's class stands in their training script, whose imports need a GPU's tools: its formula is ours."""
    learnt, divergence = scripts["models.temp_global"].Global_T(), scripts["distiller_zoo.KD"].DistillKL()

    def criterion(step: Step) -> dict[str, Tensor]:
        turned = (torch.cos(torch.tensor(torch.pi * min(step.epoch, 10) / 10)).item() + 1) / 2 - 1
        heat = 1 + 20 * torch.sigmoid(learnt(step.teacher.logits, step.student.logits, turned))
        return {"ctkd": divergence(step.student.logits, step.teacher.logits, heat)}

    return criterion, learnt


def _mgd(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, nn.Module]:
    script = scripts["losses.mgd"]
    # Draws of float32 in float64 too, where torch.rand would take other numbers than gkd's.
    script.torch = types.SimpleNamespace(
        rand=partial(torch.rand, dtype=torch.float32), where=torch.where, mul=torch.mul
    )
    module = script.MGDLoss(_width(student), _width(teacher), "mgd", alpha_mgd=1.0)

    def criterion(step: Step) -> dict[str, Tensor]:
        return {"mgd": module(step.student.maps[-1], step.teacher.maps[-1])}

    return criterion, module


class Staged(nn.Module):
    """A network of gkd with what OFA's distiller asks of one: stages 2 to 4 are its maps 1 to 3."""

    def __init__(self, network: Any, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.shapes = network, output_shapes(network, image_shape)
        self.seen: Features | None = None

    def stage_info(self, stage: int) -> tuple[int, Any]:
        return (-1, self.network.embedding_dim) if stage == -1 else (stage - 1, self.shapes.maps[stage - 1])

    def forward(self, images: Tensor, requires_feat: bool = False) -> Any:
        features = self.network.features(images) if self.seen is None else self.seen
        return (features.logits, [*features.maps]) if requires_feat else features.logits


def _ofa(scripts: Any, case: Case, student: Any, teacher: Any) -> tuple[Criterion, nn.Module]:
    shape = tuple(case.stream.images.shape[1:])
    ours, theirs = Staged(student, shape), Staged(teacher, shape)
    options = types.SimpleNamespace(
        ofa_stage=[2, 3, 4], ofa_eps=[1.0], ofa_temperature=1.0, ofa_loss_weight=1.0, kd_loss_weight=1.0,
        gt_loss_weight=1.0, num_classes=NUM_CLASSES,
    )  # fmt: skip
    distiller = scripts["distillers.ofa"].OFA(ours, theirs, nn.CrossEntropyLoss(), options)

    def criterion(step: Step) -> dict[str, Tensor]:
        ours.seen, theirs.seen = step.student, step.teacher
        losses = distiller(None, step.labels)[1]
        return {"ofa": losses["loss_kd"], "branches": losses["loss_ofa"]}

    return criterion, distiller.projector


class Base(nn.Module):
    """Stands in for the base class of mdistiller's distillers, which keeps the networks."""

    def __init__(self, student: Any, teacher: Any) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher


_MGD = {"builder": {"DISTILL_LOSSES": types.SimpleNamespace(register_module=lambda: lambda cls: cls)}}
OFFICIAL = {
    "srrl": Official("DefangChen/SimKD", ".", ("models.util", "distiller_zoo.KD"), _srrl),
    "srrl_map": Official(
        "jingyang2017/KD_SRRL", ".", ("distiller_zoo.AIN",), _srrl_map,
        replaced="their networks' head on given features (gkd's on the connected map's mean); ",
    ),
    "cat_kd": Official(
        "GzyAftermath/CAT-KD", "mdistiller", ("distillers.CAT_KD",), _cat_kd,
        {"distillers._base": {"Distiller": Base}},
        replaced="their networks, whose head without bias is a convolution before the pooling (the weight of gkd's "
        "head in such a convolution of the map that is pooled); ",
    ),
    "mlkd": Official(
        "Jin-Ying/Multi-Level-Logit-Distillation", "mdistiller", ("distillers.KD_ours",), _mlkd,
        {
            "distillers._base": {"Distiller": Base}, "distillers.loss": {"CrossEntropyLabelSmooth": None},
            "termios": {"CEOL": None}, "turtle": {"st": None},
        },
        weights={"mlkd": 1.0}, joined={"mlkd": ("weak", "strong")},
        replaced="its two views (one and the same); ",
    ),
    "ctkd": Official(
        "zhengli97/CTKD", ".", ("models.temp_global", "distiller_zoo.KD"), _ctkd,
        replaced="CosineDecay of train_student.py (its formula); ",
    ),
    "mgd": Official(
        "yzd-v/MGD", "cls/mmcls/distillation", ("losses.mgd",), _mgd, _MGD,
        replaced="torch.rand (which draws float32 in float64 too); ",
    ),
    "ofa": Official(
        "Hao840/OFAKD", ".", ("distillers.ofa",), _ofa,
        replaced="the networks' stage_info and features (gkd's maps 1 to 3 as stages 2 to 4); ",
    ),
    "norm": Official(
        "OSVAI/NORM", ".", ("helper.loops",), lambda *_: (lambda step: {}, None),
        replaced="the layers in the student's path (gkd's expansion beside it), the weights of cross-entropy and KD "
        "(0, because their logits are normalised); ",
    ),
}  # fmt: skip
