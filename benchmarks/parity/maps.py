"""Loss curves of losses on maps beside the criteria that their authors published.

The official side is the authors' criterion with the layers that it trains, unchanged, in a plain loop from here: gkd's
networks and maps, our batches, cross-entropy beside it (not in ab's first stage), and SGD with the rates of the
method's file. What the criterion trains begins on both sides from what the official code drew. One epoch is four steps,
so that reviewkd's warm-up rises and ends within them.

Changed around them: ofd's margins are on both sides those of the official formula, from the teacher's last BatchNorms
(gkd's ``margins`` by default are not), and the teacher is in eval mode; the signs of kdsvd's singular vectors, which
the library chooses, are settled as gkd does. ab's first stage has one rate, the schedule's first.

    python benchmarks/parity/maps.py --checkout ../ReviewKD --methods reviewkd \\
        --out benchmarks/results/parity_reviewkd.json
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
from _common import Curves, State, copied, module_of_file, official_module, official_surroundings, prepare
from _compare import PHASES, Phase, checkout_facts
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.config.shipped import load_method
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.core.tapped import output_shapes
from gkd.methods.spots import output_at
from gkd.methods.stage import Stage
from gkd.models import build_network

SIZE, EPOCH_LENGTH = 16, 4
MANY = 2**60  # entries that a margin is said to be of, so that no step moves it

Maps = list[Tensor]
Criterion = Callable[[Maps, Maps], Tensor]


@dataclass(frozen=True)
class MapCase(Case):
    """A case whose one term on maps may stand beside others, in any stage."""

    @property
    def stage(self) -> Stage:
        stages = load_method(self.method).stages
        (stage,) = (each for each in stages.values() if self.method in each.terms)
        return stage

    @property
    def term(self) -> str:
        return self.method


@dataclass
class Built:
    """An official criterion that is ready to run.

    Attributes:
        criterion: the student's and the teacher's maps at the term's spots -> the unweighted loss.
        layers: what is trained with the student.
        ours: the names of the layers' tensors in their state -> gkd's.
        given: further tensors of gkd's module.
    """

    criterion: Criterion
    layers: nn.Module = field(default_factory=nn.Module)
    ours: Mapping[str, str] = field(default_factory=dict)
    given: State = field(default_factory=dict)


@dataclass(frozen=True)
class Official:
    """Where a criterion is published, and how it is built.

    Attributes:
        repository: as GitHub spells it.
        files: of the criterion and its layers, imported alone; or a module of a package, as ``folder:module``.
        build: the modules of these files, shapes at the term's spots on both sides, the teacher -> the criterion.
        same_widths: whether it needs as many channels on both sides, so that the wide networks are left out.
        phases: those that are compared.
        replaced: what was changed around it, for the result file.
    """

    repository: str
    files: Sequence[str]
    build: Callable[..., Built]
    same_widths: bool = False
    phases: Sequence[Phase] = PHASES
    replaced: str = ""


def _review(script: Any, student: list[Any], teacher: list[Any], _network: Any) -> Built:
    """Their module runs the student itself: a stand-in gives the maps that it is handed."""

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps: Maps = []

        def forward(self, _images: Any, is_feat: bool) -> tuple[Maps, None]:
            assert is_feat
            return self.maps, None

    given = Given()
    sizes = [[shape[1] if len(shape) == 3 else 1 for shape in side] for side in (student, teacher)]
    widths = [[shape[0] for shape in side] for side in (student, teacher)]
    with patch.object(nn.Module, "to", lambda self, *_args: self):
        module = script.ReviewKD(given, widths[0], widths[1], sizes[0][::-1], sizes[1][::-1])

    def criterion(ours: Maps, theirs: Maps) -> Tensor:
        given.maps = [_as_map(each) for each in ours]
        loss: Tensor = script.hcl(module(None)[0], [_as_map(each) for each in theirs])
        return loss

    names, last = {}, len(student) - 1
    layers = {"conv1": "narrow", "conv2": "widen"}
    for number in range(len(student)):  # theirs run from deep to shallow
        for name, layer in layers.items():
            names[f"abfs.{number}.{name}.0.weight"] = f"steps.{last - number}.{layer}.0.weight"
        for name in ("weight", "bias") if number > 0 else ():
            names[f"abfs.{number}.att_conv.0.{name}"] = f"steps.{last - number}.attention.{name}"
    return Built(criterion, module, names)


def _as_map(values: Tensor) -> Tensor:
    return values[:, :, None, None] if values.dim() == 2 else values


def _overhaul(script: Any, student: list[Any], teacher: list[Any], network: Any) -> Built:
    connectors = nn.ModuleList(
        script.build_feature_connector(theirs[0], ours[0])
        for ours, theirs in zip(student, teacher, strict=True)
    )
    margins = [script.get_margin_from_BN(norm) for norm in norms_before_relu(network)]

    def criterion(ours: Maps, theirs: Maps) -> Tensor:
        """The sum of ``Distiller.forward``; the batch is divided by in their loop."""
        total = torch.zeros(())
        for number, (x, target, margin) in enumerate(zip(ours, theirs, margins, strict=True)):
            margin = margin.view(1, -1, 1, 1).to(target)
            value = script.distillation_loss(connectors[number](x), target, margin)
            total = total + value / 2 ** (len(ours) - number - 1)
        return total / len(ours[0])

    names = {f"{number}.0.weight": f"connectors.{number}.0.weight" for number in range(len(student))}
    given: State = {}
    for number, margin in enumerate(margins):
        given[f"margins.{number}.negative_mean"] = margin
        given[f"margins.{number}.negatives"] = torch.full_like(margin, MANY, dtype=torch.int64)
    return Built(criterion, connectors, names, given)


def norms_before_relu(network: Any) -> list[nn.BatchNorm2d]:
    """The BatchNorms that mdistiller's ``get_bn_before_relu`` names for these networks."""
    if hasattr(network, "block1"):
        return [network.block2.layer[0].bn1, network.block3.layer[0].bn1, network.bn1]
    return [stage[-1].bn2 for stage in (network.layer1, network.layer2, network.layer3)]


def _boundaries(zoo: Any, util: Any, student: list[Any], teacher: list[Any], _network: Any) -> Built:
    connector = util.Connector(*([(2, *shape) for shape in side] for side in (student, teacher)))
    criterion = zoo.ABLoss(len(student))
    weight = load_method("ab").stages["boundaries"].terms["ab"].weight
    names = {
        f"connectors.{number}.conv.{name}": f"connectors.{number}.resize.{name}"
        for number, layer in enumerate(connector.connectors)
        for name in ("weight", "bias")
        if len(list(layer.children()))
    }
    return Built(lambda ours, theirs: sum(criterion(connector(ours), theirs)) / weight, connector, names)


def _semantic(util: Any, zoo: Any, student: list[Any], teacher: list[Any], _network: Any) -> Built:
    attention = util.SelfA(64, *([shape[0] for shape in side] for side in (student, teacher)), 1.0)
    criterion = zoo.SemCKDLoss()
    names: dict[str, str] = {}
    for number in range(len(student)):
        for theirs, ours in (("query", "queries"), ("key", "keys")):
            for layer, name in (("linear1", "hidden"), ("linear2", "out")):
                for tensor in ("weight", "bias"):
                    names[f"{theirs}_{number}.{layer}.{tensor}"] = f"{ours}.{number}.{name}.{tensor}"
        for other in range(len(teacher)):
            for layer in ("0", "3", "6"):
                ours = f"projections.{number * len(teacher) + other}.{layer}.weight"
                names[f"regressor{number}{other}.regressor.{layer}.weight"] = ours
    return Built(lambda ours, theirs: criterion(*attention(ours, theirs)), attention, names)


def _singular(script: Any, _student: list[Any], _teacher: list[Any], _network: Any) -> Built:
    criterion = script.KDSVD(1)

    def settled(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, s, v = decompose(matrix)
        signs = torch.where(v.sum(1, keepdim=True) < 0, -1, 1)
        return u * signs, s, v * signs

    decompose = torch.svd

    def value(ours: Maps, theirs: Maps) -> Tensor:
        with patch.object(torch, "svd", settled):
            loss: Tensor = sum(criterion(ours, theirs))
        return loss

    return Built(value)


CONSTANT = (Phase("first", torch.float32, True), Phase("first", torch.float64, True))
# At the first rate its weight of 400 makes the student of the digits no number, on either side.
LATE = (Phase("late", torch.float32, True), Phase("late", torch.float64, True))
OFFICIAL = {
    "reviewkd": Official("dvlab-research/ReviewKD", ["CIFAR-100:model.reviewkd"], _review),
    "ofd": Official(
        "clovaai/overhaul-distillation",
        ["CIFAR-100/distiller.py"],
        _overhaul,
        replaced="the sum over spots of Distiller.forward (its networks are its own); ",
    ),
    "ab": Official(
        "HobbitLong/RepDistiller",
        ["distiller_zoo/AB.py", "models/util.py"],
        _boundaries,
        phases=CONSTANT,
    ),
    "kdsvd": Official(
        "HobbitLong/RepDistiller",
        ["distiller_zoo/KDSVD.py"],
        _singular,
        same_widths=True,
        replaced="the signs of the singular vectors (a sum that is not negative); ",
    ),
    "semckd": Official(
        "DefangChen/SimKD", ["models/util.py", "distiller_zoo/SemCKD.py"], _semantic, phases=LATE
    ),
}


def official_scripts(checkout: Path, official: Official) -> list[types.ModuleType]:
    """The files of a criterion, imported."""
    if ":" in official.files[0]:
        folder, name = official.files[0].split(":")
        return [official_module(checkout / folder, name, {})]
    return [module_of_file(checkout / file) for file in official.files]


def run_official(
    scripts: Sequence[Any], official: Official, case: MapCase, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """The authors' criterion over our batches, beside the stage's other terms."""
    stream, stage = case.stream.to(dtype), case.stage
    term, optimiser = stage.terms[case.term], stage.optimiser
    curves: Curves = {"total": [], **{name: [] for name in stage.terms}}
    with official_surroundings(dtype):
        teacher, student = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        student.load_state_dict(start)
        shapes = [output_shapes(network, stream.images.shape[1:]) for network in (student, teacher)]
        at_spots = [[output_at(shapes[side], pair[side]) for pair in term.at.pairs()] for side in (0, 1)]
        torch.manual_seed(3)
        built = official.build(*scripts, *at_spots, teacher)
        share_layers(case, built, dtype)
        teacher.eval()
        student.train()
        trained = dict(student.named_parameters())
        if list(stage.train) == ["backbone"]:
            head = {id(parameter) for parameter in student.head.parameters()}
            trained = {name: p for name, p in trained.items() if id(p) not in head}
        sgd = torch.optim.SGD(
            [*trained.values(), *built.layers.parameters()],
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], stage.epochs),
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
        )
        for step, batch in enumerate(stream):
            ours = student.features(batch.images, preact=True)
            with torch.no_grad():
                theirs = teacher.features(batch.images, preact=True)
            maps = [
                [output_at(side, pair[number]) for pair in term.at.places()]
                for number, side in enumerate((ours, theirs))
            ]
            values = {case.term: built.criterion(*maps)}
            if "cross_entropy" in stage.terms:
                values["cross_entropy"] = F.cross_entropy(ours.logits, batch.labels)
            if "kd" in stage.terms:
                values["kd"] = soft(ours, theirs, stage.terms["kd"].options["temperature"])
            total = torch.stack(
                [
                    stage.terms[name].weight * warm_up(stage, name, case.epoch(step)) * value
                    for name, value in values.items()
                ]
            ).sum()
            sgd.zero_grad()
            total.backward()
            sgd.step()
            for name, value in (("total", total), *values.items()):
                curves[name].append(float(value.detach()))
    return curves, copied(student.state_dict())


def soft(ours: Features, theirs: Features, temperature: float) -> Tensor:
    """KD beside semckd."""
    logs = [(each.logits / temperature).log_softmax(1) for each in (ours, theirs)]
    return F.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean") * temperature**2


def warm_up(stage: Stage, name: str, epoch: float) -> float:
    """``min(1, epoch / kd_warm_up)`` of ReviewKD's train.py, for a term that has one."""
    epochs = stage.terms[name].schedule.warmup_epochs
    return min(1.0, epoch / epochs) if epochs else 1.0


def share_layers(case: MapCase, built: Built, dtype: torch.dtype) -> None:
    """Hands gkd what the first official run drew, and every later one the same."""
    state = built.layers.state_dict()
    if not case.adapters and (built.ours or built.given):
        case.adapters.append(
            copied({ours: state[theirs] for theirs, ours in built.ours.items()} | built.given)
        )
    for theirs, ours in built.ours.items():
        state[theirs].copy_(case.adapters[0][ours])
    built.layers.to(dtype)


def main() -> int:
    args = parser(__doc__, tuple(OFFICIAL)).parse_args()
    repositories = {OFFICIAL[name].repository for name in args.methods}
    if len(repositories) > 1:
        raise UserError(
            f"--methods are of {', '.join(sorted(repositories))}; give those of one repository, whose clone is "
            "--checkout.",
            code="several-repositories",
        )
    prepare()
    checkout = args.checkout.resolve()
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, size=SIZE)):
        for name in args.methods:
            official = OFFICIAL[name]
            if official.same_widths and number > 0:
                continue
            scripts = official_scripts(checkout, official)
            case = MapCase(name, name, teacher_name, student_name, teacher, stream, epoch_length=EPOCH_LENGTH)
            options = ", ".join(f"{key} {value}" for key, value in case.stage.terms[name].options.items())
            phases = chosen(args, official.phases, wide=number > 0)
            comparisons += compare_case(case, partial(run_official, scripts, official), options, {}, phases)
    files = sorted({file.replace(":", "/") for name in args.methods for file in OFFICIAL[name].files})
    return write(
        args,
        {
            **checkout_facts(checkout, OFFICIAL[args.methods[0]].repository),
            "ran": f"the criteria of {', '.join(files)}",
            "replaced": f"{''.join(OFFICIAL[name].replaced for name in args.methods)}the loop, the networks and their "
            "maps (gkd's), the data (our batches), the optimiser (SGD with the rates of the method's file), "
            "the layers' initial weights (the official code draws them once for all runs)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
