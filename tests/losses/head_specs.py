"""Rows of the modules around heads, logits and several maps, beside those of `module_specs`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.losses import CTKDLoss, MGDLoss, NORMLoss, OFABranchesLoss, SRRLLoss, SRRLMapLoss

from . import module_specs
from .module_specs import Row, normalised
from .over_spots import OverSpots
from .references.branches import ofa_reference
from .references.generative import mgd_reference, norm_reference
from .references.heads import srrl_reference
from .references.logit_levels import ctkd_reference
from .references.maps import pooled
from .references.responses import standardised


def connected(module: SRRLLoss | SRRLMapLoss, x: Tensor) -> Tensor:
    """The connector of the features, by its definition."""
    layer, norm, _ = module.connector
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    moved = torch.einsum("oc,bc...->bo...", weight.flatten(1), x)
    return normalised(norm, moved).clamp_min(0)


def srrl(module: SRRLLoss, student_embedding: Tensor, *teacher: Tensor, **named: Tensor) -> Tensor:
    options = {"features": module.features, "answers": module.answers, "compared": module.compared}
    return srrl_reference(connected(module, student_embedding), *teacher, **named, **options)


def srrl_map(module: SRRLMapLoss, student_pooled_map: Tensor, **named: Tensor) -> Tensor:
    options = {"features": module.features, "answers": module.answers, "compared": module.compared}
    return srrl_reference(connected(module, student_pooled_map).mean((2, 3)), **named, **options)


def learnt(module: CTKDLoss, student_logits: Tensor, teacher_logits: Tensor, epoch: Tensor) -> Tensor:
    """The temperature's gradient turned by a sum of a constant and a part whose value is zero."""
    theta = module.theta
    if module.network is not None:
        rows = []
        for s, t in zip(student_logits.detach(), teacher_logits, strict=True):
            sides = [torch.stack(standardised(list(z))) if module.standardise else z for z in (s, t)]
            told = torch.stack([part for z in sides for part in (z.mean(), z.var().sqrt())])
            first, _, last = module.network
            hidden = (first.weight @ told + first.bias).clamp_min(0)  # type: ignore[operator]
            rows.append(last.weight[0] @ hidden)  # type: ignore[index]
        theta = theta + torch.stack(rows) if rows else theta
    heat = module.lowest + module.reach / (1 + (-theta).exp())
    done = min(float(epoch) / module.epochs, 1.0)
    if module.curriculum == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    turned = heat.detach() - module.strength * done * (heat - heat.detach())
    return ctkd_reference(student_logits, teacher_logits, turned, standardise=module.standardise)


def alike(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    size = [min(student_map.shape[axis], teacher_map.shape[axis]) for axis in (2, 3)]
    ours, theirs = (
        torch.stack([pooled(row, *size) for row in maps]) if len(maps) else maps
        for maps in (student_map, teacher_map)
    )
    return ours, theirs


def generated(module: MGDLoss, student_map: Tensor, teacher_map: Tensor, kept: Tensor) -> Tensor:
    student, teacher = alike(student_map, teacher_map)
    for layer in module.align:
        assert isinstance(layer, nn.Conv2d)
        student = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], student) + layer.bias.view(
            1, -1, 1, 1
        )
    first, _, second = module.generation
    student = F.conv2d(student * kept[:, :, None, None], first.weight, first.bias, padding=1).clamp_min(0)
    return mgd_reference(F.conv2d(student, second.weight, second.bias, padding=1), teacher)


def expanded(module: NORMLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    layer, norm = module.expansion
    moved = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], student_map)
    return norm_reference(normalised(norm, moved), teacher_map)


def branches(over: OverSpots, student_maps: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    module, total = over.module, torch.zeros(())
    assert isinstance(module, OFABranchesLoss)
    for branch, x in zip(module.branches, over.maps(student_maps, "student_maps"), strict=True):
        for layer in branch.layers:
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups)
            else:
                x = normalised(layer, x) if isinstance(layer, nn.BatchNorm2d) else x.clamp_min(0)
        logits = x.mean((2, 3)) @ branch.head.weight.T + branch.head.bias
        options = {"power": module.power, "temperature": module.temperature}
        total = total + ofa_reference(logits, teacher_logits, labels, **options)
    return total


ROWS: dict[str, list[Row]] = {
    **module_specs.ROWS,
    "ctkd": [
        Row((4,), (6,), learnt, {}),
        Row((4,), (6,), learnt, {"temperature": "instance", "hidden": 5, "start": 0.3, "epochs": 2.0}),
        Row((4,), (6,), learnt, {"curriculum": "linear", "standardise": True, "temperature": "instance"}),
    ],
    "mgd": [
        Row((3, 4, 4), (5, 2, 2), generated, {}),
        Row((3, 2, 3), (3, 4, 4), generated, {"dropped": 0.5}),
    ],
    "norm": [
        Row((3, 4, 4), (2, 2, 2), expanded, {}),
        Row((3, 2, 2), (4, 4, 4), expanded, {"copies": 2}),
    ],
    "ofa_branches": [
        Row(((2, 7, 7), (3, 4, 4), (4, 2, 2)), ((6,), (6,), (6,)), branches, {}),
        Row(((2, 3, 3), (5, 3, 3)), ((6,), (3, 2, 2)), branches, {"power": 1.5, "temperature": 2.0}),
    ],
    "srrl": [
        Row((4,), (6,), srrl, {}),
        Row((4,), (3,), srrl, {"compared": "probabilities", "features": 0.5, "answers": 3.0}),
    ],
    "srrl_map": [
        Row((4,), (6,), srrl_map, {}),
        Row((4,), (3,), srrl_map, {"compared": "probabilities", "features": 0.5}),
    ],
}
