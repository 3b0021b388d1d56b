"""Losses that own parameters: shapes and options to test, their value by other means, how to build and run them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.losses import (
    LOSSES,
    NEEDS,
    BoundaryLoss,
    CCNeighbourLoss,
    CoSSProjectedLoss,
    CRDLoss,
    CRDQueueLoss,
    FactorTransferLoss,
    HintLoss,
    ICKDLoss,
    InvertedProjectionLoss,
    NormDirectionLoss,
    OrthogonalLinear,
    OverhaulLoss,
    Projector,
    QueueSimilarityLoss,
    RegressionLoss,
    ReviewLoss,
    RSDLoss,
    SemanticLoss,
    VIDLoss,
)

from .over_spots import OverSpots
from .references import Inputs, random
from .references.affinity import cc_neighbour_reference
from .references.embeddings import (
    coss_reference,
    norm_direction_reference,
    normalised_rows,
    queue_similarity_reference,
    regression_reference,
    rsd_reference,
)
from .references.every_map import (
    boundary_reference,
    calibrated_reference,
    context_reference,
    partial_reference,
)
from .references.maps import aligned, ickd_reference, pooled
from .references.modules import factor_transfer_reference, hint_reference, vid_reference

BATCH = 6
NUM_CLASSES = 3
NUM_SAMPLES = 11
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 1])
Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """What the contract knows about a module.

    Attributes:
        student, teacher: shapes of one sample; one a spot where the loss reads all spots at once.
        reference: the value from the module's parameters, by other means than its forward.
        options: hyper-parameters to test.
        order_matters: the exception that the value depends on the order of the batch.
        reaches_student: whether the student gets a gradient; a phase that trains the teacher's side alone does not.
    """

    student: tuple[Any, ...]
    teacher: tuple[Any, ...]
    reference: Reference
    options: dict[str, Any]
    order_matters: bool = False
    reaches_student: bool = True


def normalised(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm in training mode, by its definition."""
    over = (0, *range(2, x.dim()))
    mean, variance = x.mean(over, keepdim=True), x.var(over, unbiased=False, keepdim=True)
    scale, shift = norm.weight.view_as(mean), norm.bias.view_as(mean)
    return (x - mean) / (variance + norm.eps).sqrt() * scale + shift


def hint(module: HintLoss, student: Tensor, teacher: Tensor) -> Tensor:
    resize = module.regressor.resize
    assert isinstance(resize, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    if isinstance(resize, nn.Linear):
        return hint_reference(student @ resize.weight.T + resize.bias, teacher)
    if isinstance(resize, nn.ConvTranspose2d):
        moved = F.conv_transpose2d(student, resize.weight, resize.bias, resize.stride, resize.padding)
    else:
        moved = F.conv2d(student, resize.weight, resize.bias, resize.stride, resize.padding)
    assert module.regressor.norm is not None
    moved = normalised(module.regressor.norm, moved)
    return hint_reference(moved.clamp_min(0) if module.regressor.relu else moved, teacher)


def variational(module: VIDLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    x = torch.stack([pooled(row, 2, 2) for row in student_map])
    for number in (0, 2, 4):
        weight = module.regressor[number].weight[:, :, 0, 0]
        x = torch.einsum("oc,bchw->bohw", weight, x)
        x = x.clamp_min(0) if number < 4 else x
    variance = (1 + module.raw_variance.exp()).log() + 1e-5
    return vid_reference(x, torch.stack([pooled(row, 2, 2) for row in teacher_map]), variance)


def coded(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.BatchNorm2d):
            x = normalised(layer, x)
        else:
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def factor_transfer(module: FactorTransferLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    factor = coded(module.encoder, teacher_map)
    if module.phase == "paraphraser":
        return (coded(module.decoder, factor) - teacher_map).square().mean() + 0 * student_map.sum()
    return factor_transfer_reference(coded(module.translator, student_map), factor, of=module.of)


def channels(module: ICKDLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    convolution, norm = module.projection
    assert isinstance(norm, nn.BatchNorm2d)
    moved = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], student_map)
    return ickd_reference(normalised(norm, moved), teacher_map)


def neighbours(module: CCNeighbourLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    student, teacher = module.student_projection, module.teacher_projection
    return cc_neighbour_reference(
        student_embedding @ student.weight.T + student.bias,
        teacher_embedding @ teacher.weight.T + teacher.bias,
    )


def projected(module: CRDLoss | CRDQueueLoss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    sides = []
    for layer, rows in ((module.projections.student, student), (module.projections.teacher, teacher)):
        rows = rows @ layer.weight.T + layer.bias
        sides.append(rows / rows.square().sum(1, keepdim=True).sqrt())
    return sides[0], sides[1]


def banks(
    module: CRDLoss, student_embedding: Tensor, teacher_embedding: Tensor, index: Tensor, drawn: Tensor
) -> Tensor:
    """The authors' form, with its exponentials and Z: the mean of the first batch times N."""
    student, teacher = projected(module, student_embedding, teacher_embedding)
    noise = drawn.shape[1] / NUM_SAMPLES
    total = torch.zeros(())
    for number, (rows, bank) in enumerate(((student, module.teacher_bank), (teacher, module.student_bank))):
        chances = []
        for row, own, others in zip(rows, index, drawn, strict=True):
            entries = bank[torch.cat([own.view(1), others])]
            chances.append((entries @ row / module.temperature).exp())
        z = torch.stack(chances).mean().detach() * NUM_SAMPLES
        if module.ready:
            z = module.log_normaliser[number].exp()
        for chance in chances:
            p = chance / z
            total = total - (p[0] / (p[0] + noise)).log() - (noise / (p[1:] + noise)).log().sum()
    return total / len(student)


def queue(
    module: CRDQueueLoss, student_embedding: Tensor, teacher_embedding: Tensor, labels: Tensor
) -> Tensor:
    student, teacher = projected(module, student_embedding, teacher_embedding)
    total = torch.zeros(())
    for rows, others, past in (
        (student, teacher, module.teacher_queue),
        (teacher, student, module.student_queue),
    ):
        for i, row in enumerate(rows):
            scores = [row @ others[j] for j in range(len(rows)) if labels[j] != labels[i]]
            for entry, label in zip(past, module.queue_labels, strict=True):
                if label >= 0 and label != labels[i]:
                    scores.append(row @ entry)
            chances = [(score / module.temperature).exp() for score in (row @ others[i], *scores)]
            total = total - (chances[0] / sum(chances)).log()
    return total / len(student)


def through(projector: Projector, rows: Tensor) -> Tensor:
    """A projector's output, layer by layer."""
    outputs = []
    for layers in projector.layers:
        x = rows
        assert isinstance(layers, nn.Sequential)
        for layer in layers:
            if isinstance(layer, OrthogonalLinear):
                x = x @ layer.weight.T
            elif isinstance(layer, nn.Linear):
                x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                x = normalised(layer, x)
            else:  # GELU: x times the normal distribution up to x
                x = x * (1 + torch.erf(x / 2**0.5)) / 2
        outputs.append(x.clamp_min(0) if projector.relu else x)
    return torch.stack(outputs).mean(0)


def regression(module: RegressionLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return regression_reference(
        through(module.projector, normalised_rows(student_embedding, module.input_normalise)),
        teacher_embedding,
        distance=module.distance,
        beta=module.beta,
        student_normalise=module.student_normalise,
        teacher_normalise=module.teacher_normalise,
    )


def inverted(module: InvertedProjectionLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    projected = teacher_embedding
    for layer in module.projection:
        assert isinstance(layer, nn.Linear)
        projected = projected @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    return regression_reference(
        student_embedding,
        projected,
        distance=module.distance,
        beta=module.beta,
        student_normalise=module.student_normalise,
        teacher_normalise=module.teacher_normalise,
    )


def redundancy(module: RSDLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return rsd_reference(through(module.projector, student_embedding), teacher_embedding, kappa=module.kappa)


def space(module: CoSSProjectedLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return coss_reference(through(module.projector, student_embedding), teacher_embedding, space=module.space)


def norm_and_direction(
    module: NormDirectionLoss,
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    centres: Tensor,
    labels: Tensor,
) -> Tensor:
    student = through(module.projector, student_embedding)
    return norm_direction_reference(student, teacher_embedding, centres, labels)


def similar(module: QueueSimilarityLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    return queue_similarity_reference(
        through(module.projector, student_embedding),
        teacher_embedding,
        module.queue,
        student_temperature=module.student_temperature,
        teacher_temperature=module.teacher_temperature,
        candidates=module.candidates,
    )


def nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """The size of a map ``[B, C, H, W]`` changed by the nearest neighbour, position by position."""
    ys = [y * maps.shape[2] // height for y in range(height)]
    xs = [x * maps.shape[3] // width for x in range(width)]
    return torch.stack([torch.stack([maps[:, :, y, x] for x in xs], 2) for y in ys], 2)


def review(over: OverSpots, student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """From the deepest map up; the deepest has no attention."""
    assert isinstance(over.module, ReviewLoss)
    total, deeper = torch.zeros(()), None
    maps = zip(
        over.module.steps,
        over.maps(student_maps, "student_maps"),
        over.maps(teacher_maps, "teacher_maps"),
        strict=True,
    )
    for step, x, teacher in reversed(list(maps)):
        convolution, norm = step.narrow
        x = x.view(*x.shape, 1, 1)[:, :, :, :1] if x.dim() == 2 else x
        x = normalised(norm, torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], x))
        if deeper is not None:
            deeper = nearest(deeper, *x.shape[2:])
            both = torch.cat([x, deeper], 1)
            weight, bias = step.attention.weight[:, :, 0, 0], step.attention.bias
            energy = torch.einsum("oc,bchw->bohw", weight, both) + bias.view(1, 2, 1, 1)
            shares = 1 / (1 + (-energy).exp())
            x = shares[:, 0, None] * x + shares[:, 1, None] * deeper
        teacher = teacher.view(*teacher.shape, 1, 1) if teacher.dim() == 2 else teacher
        x = deeper = nearest(x, *teacher.shape[2:])
        convolution, norm = step.widen
        total = total + context_reference(
            normalised(norm, F.conv2d(x, convolution.weight, padding=1)), teacher
        )
    return total


def alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps ``[B, C, H, W]``, the larger pooled to the smaller."""
    pairs = [aligned(s, t) for s, t in zip(student, teacher, strict=True)]
    return torch.stack([s for s, _ in pairs]), torch.stack([t for _, t in pairs])


def margin_of(past: nn.Module, teacher: Tensor) -> Tensor:
    """From what a module saw before, and this batch, as if all entries were there again."""
    margins = []
    for channel in range(teacher.shape[1]):
        values = teacher[:, channel].flatten()
        if past.kind == "negatives":
            before = past.negatives[channel] * past.negative_mean[channel]
            negative = [value for value in values if value < 0]
            margins.append((before + sum(negative)) / (past.negatives[channel] + len(negative)))
            continue
        count = past.entries + len(values)
        mean = (past.entries * past.mean[channel] + values.sum()) / count
        squares = past.entries * (past.variance[channel] + past.mean[channel] ** 2) + values.square().sum()
        std = (squares / count - mean**2).sqrt()
        normal = torch.distributions.Normal(torch.zeros(()).double(), 1.0)
        below = normal.cdf(-mean / std)
        formula = mean - std * normal.log_prob(mean / std).exp() / below
        margins.append(formula if below > 0.001 else -3 * std)
    return torch.stack(margins)


def overhaul(over: OverSpots, student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    module, total = over.module, torch.zeros(())
    assert isinstance(module, OverhaulLoss)
    students, teachers = over.maps(student_maps, "student_maps"), over.maps(teacher_maps, "teacher_maps")
    for number, (convolution, norm) in enumerate(module.connectors):
        student, teacher = alike(students[number], teachers[number])
        student = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], student)
        margin = margin_of(module.margins[number], teacher)
        value = partial_reference(normalised(norm, student), teacher, margin)
        total = total + value / 2 ** (len(students) - number - 1)
    return total


def boundaries(over: OverSpots, student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    module, total = over.module, torch.zeros(())
    assert isinstance(module, BoundaryLoss)
    students, teachers = over.maps(student_maps, "student_maps"), over.maps(teacher_maps, "teacher_maps")
    for number, connector in enumerate(module.connectors):
        student = students[number]
        if not isinstance(connector, nn.Identity):
            layer = connector.resize
            assert isinstance(layer, nn.Conv2d)
            student = F.conv2d(student, layer.weight, layer.bias, layer.stride, layer.padding)
            student = normalised(connector.norm, student)
        value = boundary_reference(student, teachers[number], module.margin)
        total = total + value / 3.0 ** (len(students) - number - 1)
    return total


def embedded(layers: nn.Module, maps: Tensor, group: int) -> Tensor:
    """Queries or keys: of each row, its similarities to the rows of its group, 0 to those that lack."""
    rows = []
    for number, own in enumerate(maps):
        first = number // group * group
        others = [maps[i] if i < len(maps) else torch.zeros_like(own) for i in range(first, first + group)]
        similar = torch.stack([(own * other).sum() for other in others])
        hidden = (layers.hidden.weight @ similar + layers.hidden.bias).clamp_min(0)
        out = layers.out.weight @ hidden + layers.out.bias
        rows.append(out / out.square().sum().sqrt())
    return torch.stack(rows)


def calibrated(over: OverSpots, student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    module, total = over.module, torch.zeros(())
    assert isinstance(module, SemanticLoss)
    students, teachers = over.maps(student_maps, "student_maps"), over.maps(teacher_maps, "teacher_maps")
    keys = [embedded(layer, x, module.group) for layer, x in zip(module.keys, teachers, strict=True)]
    for s, ours in enumerate(students):
        query = embedded(module.queries[s], ours, module.group)
        energies = [((query * key).sum(1) / module.temperature).exp() for key in keys]
        for t, theirs in enumerate(teachers):
            x, target = alike(ours, theirs)
            for layer in module.projections[s * len(teachers) + t]:
                if isinstance(layer, nn.Conv2d):
                    x = F.conv2d(x, layer.weight, padding=layer.padding)
                else:
                    x = normalised(layer, x) if isinstance(layer, nn.BatchNorm2d) else x.clamp_min(0)
            total = total + calibrated_reference(x, target, energies[t] / sum(energies))
    return total / len(students)


ROWS: dict[str, list[Row]] = {
    "fitnet": [
        Row((3, 4, 4), (5, 2, 2), hint, {}),
        Row((3, 2, 2), (5, 4, 4), hint, {"relu": False}),
        Row((3, 4, 4), (5, 3, 2), hint, {}),
        Row((3, 2, 2), (5, 2, 2), hint, {}),
        Row((4,), (6,), hint, {}),
    ],
    "vid": [
        Row((3, 4, 4), (5, 2, 2), variational, {}),
        Row((3, 2, 2), (5, 4, 4), variational, {"initial_variance": 1.0}),
    ],
    "ft": [
        Row((3, 4, 4), (6, 4, 4), factor_transfer, {}),
        Row((3, 4, 4), (6, 2, 2), factor_transfer, {"of": "factor", "rate": 0.7}),
        Row((3, 4, 4), (6, 2, 2), factor_transfer, {"phase": "paraphraser"}, reaches_student=False),
    ],
    "ickd": [Row((3, 3, 3), (5, 2, 2), channels, {})],
    "cc_neighbour": [Row((4,), (6,), neighbours, {"dim": 3}, order_matters=True)],
    "reviewkd": [
        Row(((3, 4, 4), (4, 2, 2), (5,)), ((4, 6, 6), (6, 3, 3), (7,)), review, {}),
        Row(((3, 6, 6), (4, 3, 3)), ((2, 3, 3), (6, 2, 2)), review, {"max_width": 2}),
    ],
    "ofd": [
        Row(((3, 4, 4), (4, 2, 2)), ((5, 4, 4), (6, 4, 4)), overhaul, {}),
        Row(((3, 4, 4), (4, 2, 2)), ((5, 2, 2), (4, 2, 2)), overhaul, {"margins": "gaussian"}),
    ],
    "ab": [
        Row(
            ((3, 4, 4), (4, 2, 2)),
            ((5, 2, 2), (4, 2, 2)),
            boundaries,
            {"margin": 0.7, "growth": 3.0},
        ),
    ],
    "semckd": [
        Row(
            ((3, 4, 4), (4, 2, 2)),
            ((5, 2, 2), (4, 4, 4)),
            calibrated,
            {"group": 4, "reduction": 2},
            order_matters=True,
        ),
        Row(
            ((3, 2, 2), (2, 2, 2)),
            ((4, 2, 2), (3, 2, 2)),
            calibrated,
            {"group": 8, "temperature": 0.2, "reduction": 2},
            order_matters=True,
        ),
    ],
    "crd": [
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7}),
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7, "temperature": 0.5, "momentum": 0.9}),
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7, "negatives_from": "other-samples"}),
    ],
    "crd_queue": [
        Row((4,), (6,), queue, {"dim": 5, "queue": 8}),
        Row((4,), (6,), queue, {"dim": 5, "queue": 0, "temperature": 0.5}),
    ],
    "regression": [
        Row((4,), (6,), regression, {}),
        Row((4,), (6,), regression, {"projectors": 3, "relu": True}),
        Row((4,), (6,), regression, {"input_normalise": "layer", "distance": "l2"}),
        Row(
            (6,),
            (4,),
            regression,
            {"projector": "orthogonal", "distance": "smooth-l1", "teacher_normalise": "layer"},
        ),
        Row((4,), (3,), regression, {"projector": "mlp", "distance": "l2", "teacher_normalise": "whiten"}),
    ],
    "inverted_projection": [
        Row((4,), (6,), inverted, {}),
        Row((4,), (6,), inverted, {"rank": 2, "distance": "cosine", "student_normalise": "centre"}),
    ],
    "rsd": [
        Row((4,), (6,), redundancy, {}),
        Row((4,), (3,), redundancy, {"projector": "orthogonal", "kappa": 0.3}),
    ],
    "coss_projected": [
        Row((4,), (6,), space, {}),
        Row((6,), (4,), space, {"projector": "orthogonal", "space": 0.5}),
    ],
    "norm_direction": [
        Row((4,), (6,), norm_and_direction, {}),
        Row((4,), (6,), norm_and_direction, {"projector": "mlp", "expansion": 1}),
    ],
    "queue_similarity": [
        Row((4,), (6,), similar, {"queue": 8}),
        Row((4,), (6,), similar, {"queue": 4, "candidates": "own", "teacher_temperature": 0.01}),
        Row((4,), (6,), similar, {"queue": 9, "candidates": "queue", "projector": "orthogonal"}),
    ],
}


def constructed(name: str, row: Row, **options: Any) -> nn.Module:
    """The module as a term builds it, in float64."""
    entry = LOSSES[name]
    built = entry.build((row.student, row.teacher), {**row.options, **options}, LABELS, NUM_CLASSES).double()
    return OverSpots(built, row.student, row.teacher) if entry.reads_every_spot else built


def build(name: str, row: Row, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    built = constructed(name, row, **options)
    for entry in built.parameters():  # biases of 0 and scales of 1 would hide a missing one
        if entry.dim() == 1 and not isinstance(built, VIDLoss):
            nn.init.uniform_(entry, 0.5, 1.5)
    if isinstance(built, QueueSimilarityLoss):  # candidates before the first step, so that it has a gradient
        built.queue[:3] = F.normalize(random(4, 3, *row.teacher))
    return built


def make(name: str, row: Row, batch: int = BATCH) -> Inputs:
    """Inputs by the names of forward's parameters."""
    inputs: Inputs = {}
    for need in LOSSES[name].needs:
        if need == "epoch":
            inputs[need] = torch.tensor(2.5)
            continue
        if need in ("centres", "teacher_weight"):
            inputs[need] = random(3, NUM_CLASSES, *row.teacher)
            continue
        if need in ("teacher_bias", "student_logits", "teacher_logits"):
            seed = 5 + need.startswith("teacher")
            inputs[need] = random(seed, *([batch] if NEEDS[need].per_sample else []), NUM_CLASSES)
            continue
        if need == "labels":
            inputs[need] = torch.arange(batch) % 3
        elif need == "index":
            inputs[need] = torch.arange(batch) + 2
        else:
            shape = row.student if need.startswith("student") else row.teacher
            shape = (*shape, 2, 3) if need.endswith("pooled_map") else shape
            if NEEDS[need].every:
                shape = (sum(torch.Size(each).numel() for each in shape),)
            inputs[need] = random(1 + need.startswith("teacher"), batch, *shape)
    if name == "mgd":
        inputs["kept"] = random(7, batch, row.teacher[0]) > -0.5
    if name == "crd":
        inputs["drawn"] = (inputs["index"][:, None] + 1 + torch.arange(7)) % NUM_SAMPLES
    return inputs


def measured(
    module: nn.Module, inputs: Inputs, *, autocast: bool = False, **more: Any
) -> tuple[Tensor, list[Tensor | None], nn.Module]:
    """The value, its gradients (student's first, then the parameters'), and the module as the step left it."""
    module = copy.deepcopy(module)
    (student,) = (key for key in inputs if key.startswith("student"))
    leaf = inputs[student].detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = module(**{**inputs, student: leaf}, **more)
    parameters = [leaf, *(p for p in module.parameters() if p.requires_grad)]
    return value.detach(), list(torch.autograd.grad(value, parameters, allow_unused=True)), module


def taken(inputs: Inputs, rows: Tensor) -> Inputs:
    """Some rows of the batch, by a mask, numbers or a slice; what has no row a sample stays."""
    return {
        key: x[rows] if key in ("drawn", "kept") or NEEDS[key].per_sample else x for key, x in inputs.items()
    }


def as_type(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in inputs.items()}
