"""Loss curves beside the code that authors published for losses on heads, several levels of logits and wider maps.

The official side is the authors' modules and criteria, unchanged, in a plain loop from here: gkd's networks, our
batches, cross-entropy beside them, and SGD with the rates of the method's file. NORM's criterion stands inside its
training loop, which runs as it is, with the N-to-one part alone.

    python benchmarks/parity/heads.py --checkout ../CAT-KD --methods cat_kd --out benchmarks/results/parity_cat_kd.json
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
from _common import Curves, OfficialLoader, State, copied, official_surroundings, prepare
from _compare import PHASES, checkout_facts
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.network import Features
from gkd.core.tapped import output_shapes
from gkd.distill.fit_check import shapes_of_reading
from gkd.methods.stage import Stage
from gkd.models import build_network

SIZE = 16
PAIRS = [
    ("wrn_10_2", "resnet8"),
    ("wrn_16_2", "wrn_16_1"),
]  # 128 channels to 64, an embedding after a BatchNorm
EPOCH = 10  # steps; CTKD's curriculum is over ten epochs


@dataclass(frozen=True)
class Step:
    """What a criterion may read in a step."""

    student: Features
    teacher: Features
    labels: Tensor
    networks: tuple[Any, Any]  # student's and teacher's
    epoch: int


Criterion = Callable[
    [Step], dict[str, Tensor]
]  # -> the unweighted losses, by the names of our terms or curves


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


class Seeded(Case):
    """Draws begin at a seed of the step's own on our side, and without NORM's cross-entropy."""

    @property
    def stage(self) -> Stage:
        stage = super().stage
        if self.method != "norm":
            return stage
        terms = {name: term for name, term in stage.terms.items() if name != "cross_entropy"}
        return stage.model_copy(update={"terms": terms})

    def epoch(self, step: int) -> float:
        torch.manual_seed(step)
        return 1.0 + step // EPOCH


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
    module = scripts["losses.mgd"].MGDLoss(_width(student), _width(teacher), "mgd", alpha_mgd=1.0)

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
    "mgd": Official("yzd-v/MGD", "cls/mmcls/distillation", ("losses.mgd",), _mgd, _MGD),
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


def official_files(checkout: Path, official: Official) -> dict[str, types.ModuleType]:
    """The files of the checkout as modules of a package, whose own imports are not run."""
    sys.dont_write_bytecode = True  # leave the checkout as it is
    top = checkout / official.folder
    for name in {part for file in official.files for part in _parents(file)}:
        package = sys.modules[f"official{name}"] = types.ModuleType(f"official{name}")
        package.__path__ = [str(top.joinpath(*name.split(".")))]
    for stub, attributes in official.stubs.items():
        name = stub if stub in ("termios", "turtle") else f"official.{stub}"
        vars(sys.modules.setdefault(name, types.ModuleType(name))).update(attributes)
    return {file: importlib.import_module(f"official.{file}") for file in official.files}


def _parents(file: str) -> list[str]:
    """The packages above a file: ``""``, ``".distillers"``."""
    parts = file.split(".")[:-1]
    return ["", *("." + ".".join(parts[: number + 1]) for number in range(len(parts)))]


def begin_alike(case: Case, module: nn.Module, networks: tuple[Any, Any]) -> None:
    """Let the trained module begin with the weights that the first run drew, and tell gkd's: both list them alike."""
    shape = case.stream.images.shape[1:]
    sides = [output_shapes(network, shape) for network in networks]
    for term in case.stage.terms.values():
        if term.entry.module is None:
            continue
        shapes = shapes_of_reading(term, term.readings[0], sides[0], {"teacher": sides[1]})
        own = term.entry.build(shapes, term.options, None, NUM_CLASSES).state_dict()
        theirs = module.state_dict()
        if not case.adapters:
            pairs_of_values = zip(own, theirs.values(), strict=True)
            case.adapters.append(copied({name: x.reshape(own[name].shape) for name, x in pairs_of_values}))
        values = zip(theirs, case.adapters[0].values(), strict=True)
        module.load_state_dict({name: value.reshape(theirs[name].shape) for name, value in values})


def networks_of(case: Case, start: State, dtype: torch.dtype) -> tuple[Any, Any]:
    """The student and the teacher, as a run begins."""
    student, teacher = (
        build_network(name, num_classes=NUM_CLASSES) for name in (case.student_name, case.teacher_name)
    )
    teacher.load_state_dict(copied(case.teacher, dtype))
    student.load_state_dict(start)
    teacher.requires_grad_(False).eval()
    return student, teacher


def optimiser_of(case: Case, place: str, modules: list[nn.Module]) -> torch.optim.SGD:
    optimiser = case.stage.optimiser
    return torch.optim.SGD(
        [parameter for module in modules for parameter in module.parameters()],
        lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], case.stage.epochs),
        momentum=optimiser.momentum,
        weight_decay=optimiser.weight_decay,
    )


def run_official(
    scripts: dict[str, types.ModuleType],
    official: Official,
    case: Case,
    place: str,
    start: State,
    dtype: torch.dtype,
) -> tuple[Curves, State]:
    """Cross-entropy and the authors' criterion over our batches."""
    stream, terms = case.stream.to(dtype), case.stage.terms
    curves: dict[str, list[float]] = {}
    with official_surroundings(dtype):
        student, teacher = networks_of(case, start, dtype)
        torch.manual_seed(3)
        criterion, module = official.build(scripts, case, student, teacher)
        modules = [student, *([] if module is None else [module])]
        if module is not None:
            begin_alike(case, module, (student, teacher))
        sgd = optimiser_of(case, place, modules)
        student.train()
        for number, batch in enumerate(stream):
            torch.manual_seed(number)
            ours, theirs = student.features(batch.images), teacher.features(batch.images)
            step = Step(ours, theirs, batch.labels, (student, teacher), 1 + number // EPOCH)
            losses = {"cross_entropy": F.cross_entropy(ours.logits, batch.labels), **criterion(step)}
            total = sum(
                official.weights.get(name, terms[name].weight if name in terms else 1.0) * value  # type: ignore[misc,operator]
                for name, value in losses.items()
            )
            assert isinstance(total, Tensor)
            sgd.zero_grad()
            total.backward()
            sgd.step()
            for name, value in {"total": total, **losses}.items():
                curves.setdefault(name, []).append(float(value.detach()))
    return curves, copied(student.state_dict())


class Widened(nn.Module):
    """The student behind what NORM's loop reads: its fourth output is the widened map."""

    def __init__(self, network: Any, expansion: nn.Module | None) -> None:
        super().__init__()
        self.network, self.expansion = network, expansion

    def forward(self, images: Tensor, is_feat: bool, preact: bool) -> Any:
        features = self.network.features(images)
        *maps, last = features.maps
        return [
            *maps,
            last if self.expansion is None else self.expansion(last),
            features.embedding,
        ], features.logits


def run_norm(
    scripts: dict[str, types.ModuleType],
    official: Official,
    case: Case,
    place: str,
    start: State,
    dtype: torch.dtype,
) -> tuple[Curves, State]:
    """Their ``train_distill`` with the weights 0 and 0, in an epoch in which the N-to-one part counts in full."""
    curves: Curves = {"total": [], "norm": []}
    with official_surroundings(dtype):
        student, teacher = networks_of(case, start, dtype)
        torch.manual_seed(3)
        (term,) = case.stage.terms.values()
        width = term.options["copies"] * _width(teacher)
        expansion = nn.Sequential(
            nn.Conv2d(_width(student), width, 1, 1, 0, bias=False), nn.BatchNorm2d(width)
        )
        begin_alike(case, expansion, (student, teacher))
        options = types.SimpleNamespace(
            dataset="cifar100", distill="NORM", num_cls=NUM_CLASSES, ceta=2.5, model_s="resnet20",
            co_sponge=term.options["copies"], gamma=0.0, alpha=0.0, beta=term.weight, print_freq=10**9,
        )  # fmt: skip
        losses: list[float] = []
        original = F.mse_loss
        loops = scripts["helper.loops"]
        loops.F = types.SimpleNamespace(
            **{name: getattr(F, name) for name in ("layer_norm", "max_pool2d", "log_softmax", "softmax", "kl_div")},
            mse_loss=lambda ours, theirs: _kept(original(ours, theirs), losses),
        )  # fmt: skip
        sgd = optimiser_of(case, place, [student, expansion])
        modules = nn.ModuleList([Widened(student, expansion), Widened(teacher, None)])
        criteria = [nn.CrossEntropyLoss(), lambda ours, theirs: (ours * 0).sum(), None]
        loops.train_distill(20, OfficialLoader(case.stream.to(dtype), 3), modules, criteria, sgd, options)
        curves["norm"] = [term.options["copies"] * loss for loss in losses]
        curves["total"] = [float(term.weight) * loss for loss in curves["norm"]]  # type: ignore[arg-type]
    return curves, copied(student.state_dict())


def _kept(loss: Tensor, losses: list[float]) -> Tensor:
    losses.append(float(loss.detach()))
    return loss


def main() -> int:
    args = parser(__doc__, tuple(OFFICIAL)).parse_args()
    (name,) = args.methods  # one a run: the files of two repositories would be one package
    prepare()
    checkout, official = args.checkout.resolve(), OFFICIAL[name]
    scripts = official_files(checkout, official)
    run = run_norm if name == "norm" else run_official
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, PAIRS, SIZE)):
        case = Seeded(name, name, teacher_name, student_name, teacher, stream, official.joined)
        own = {key: term for key, term in case.stage.terms.items() if key != "cross_entropy"}
        options = "; ".join(
            f"{key}: weight {term.shown_weight}, "
            + ", ".join(f"{option} {value}" for option, value in term.options.items())
            for key, term in own.items()
        )
        phases = chosen(args, PHASES, wide=number > 0)
        comparisons += compare_case(case, partial(run, scripts, official), options, {}, phases)
    files = ", ".join(f"{file.replace('.', '/')}.py" for file in official.files)
    return write(
        args,
        {
            **checkout_facts(checkout, official.repository),
            "ran": f"what {files} of {official.folder}/ define",
            "replaced": f"{official.replaced}the loop, the networks (gkd's), the data (our batches), the optimiser "
            "(SGD with the rates of the method's file), the initial weights of trained modules (the official code "
            "draws them once for all runs)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
