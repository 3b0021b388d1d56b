"""The floor of a loss's formula: only the operations that no way to compute it can leave out, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Floor:
    """``run(ours, *inputs)`` does the operations, forward and backward; ``ours``: gkd's function or module."""

    says: str
    run: Callable[..., None]


def _backward(output: Tensor) -> None:
    output.backward(output.detach())  # any gradient of the right shape does


@torch.no_grad()
def _nst(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    student, teacher = student_map.flatten(2), teacher_map.flatten(2)
    if student.shape[2] < student.shape[1]:  # fewer positions than channels: the Gram matrices of positions
        (student @ (student.mT @ student)).sub_(student @ (teacher.mT @ teacher))
        return
    own, cross = student @ student.mT, student @ teacher.mT
    teacher @ teacher.mT
    (own @ student).sub_(cross @ teacher)


def _fsp(ours: Any, before: Tensor, after: Tensor, teacher_before: Tensor, teacher_after: Tensor) -> None:
    def flow(one: Tensor, other: Tensor) -> Tensor:
        pooled = one if one.shape[2:] == other.shape[2:] else F.adaptive_avg_pool2d(one, other.shape[2:])
        return pooled.flatten(2) @ other.flatten(2).mT

    with torch.no_grad():
        flow(teacher_before, teacher_after)
    _backward(flow(before, after))


def _at(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    with torch.no_grad():
        teacher_map.square().sum(1)
        weights = student_map.square().sum(1, keepdim=True)
        student_map * weights


@torch.no_grad()
def _pod(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    def sums(maps: Tensor) -> tuple[Tensor, Tensor]:
        squares = maps.square()
        return squares.sum(3, keepdim=True), squares.sum(2, keepdim=True)

    sums(teacher_map)
    rows, columns = sums(student_map)
    student_map * (rows + columns)


def _sp(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    with torch.no_grad():
        student, teacher = student_map.flatten(1), teacher_map.flatten(1)
        teacher @ teacher.T
        (student @ student.T) @ student


def _rkd_angle(ours: Any, student: Tensor, teacher: Tensor) -> None:
    with torch.no_grad():
        teacher_away = teacher.unsqueeze(0) - teacher.unsqueeze(1)
        teacher_away @ teacher_away.mT
        away = student.unsqueeze(0) - student.unsqueeze(1)
        (away @ away.mT) @ away


def _ickd(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    projected = ours.projection(student_map)
    with torch.no_grad():
        teacher, student = teacher_map.flatten(2), projected.flatten(2)
        teacher @ teacher.mT
        slope = (student @ student.mT) @ student
    projected.backward(slope.view_as(projected))


def _fitnet(ours: Any, student: Tensor, teacher: Tensor) -> None:
    _backward(ours.regressor.resize(student))


def _vid(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    _backward(ours.regressor(student_map))


def _ft(ours: Any, student_map: Tensor, teacher_map: Tensor) -> None:
    with torch.no_grad():
        ours.encoder(teacher_map)
    _backward(ours.translator(student_map))


@torch.no_grad()
def _crd(ours: Any, student: Tensor, teacher: Tensor, index: Tensor) -> None:
    projected = ours.projections.student(student), ours.projections.teacher(teacher)
    for rows, bank in zip(projected, (ours.teacher_bank, ours.student_bank), strict=True):
        (rows @ bank.T) @ bank


@torch.no_grad()
def _crd_queue(ours: Any, student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    own, other = ours.projections.student(student), ours.projections.teacher(teacher)
    for rows, among in ((own, (other, ours.teacher_queue)), (other, (own, ours.student_queue))):
        columns = torch.cat(among)
        (rows @ columns.T) @ columns


FLOORS: dict[str, Floor] = {
    "nst": Floor(
        "Gram products over channels, or positions where these are fewer, and two for the gradient", _nst
    ),
    "fsp": Floor("one flow product a network and two for the gradient", _fsp),
    "at": Floor("squares summed over channels, and one pass for the gradient", _at),
    "pod": Floor("squares summed over rows and over columns, and one pass for the gradient", _pod),
    "sp": Floor("one Gram product a network and one for the gradient", _sp),
    "rkd_angle": Floor("products of all directions: two, and one for the gradient", _rkd_angle),
    "ickd": Floor("the projection, one Gram product a network, the gradients", _ickd),
    "fitnet": Floor("the regressor's convolution and its gradients", _fitnet),
    "vid": Floor("the regressor's convolutions and their gradients", _vid),
    "ft": Floor("encoder forward, translator forward and backward", _ft),
    "crd": Floor("two products with the banks and two for the gradient", _crd),
    "crd_queue": Floor("two products with batch and queue and two for the gradient", _crd_queue),
}
