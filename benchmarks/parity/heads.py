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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
from _common import Curves, OfficialLoader, State, copied, official_surroundings, prepare
from _compare import PHASES, checkout_facts
from _head_criteria import OFFICIAL, Official, Step
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.tapped import output_shapes
from gkd.distill.fit_check import shapes_of_reading
from gkd.methods.stage import Stage
from gkd.models import build_network

SIZE = 8
# 128 channels to 64; a WRN averages its last map after a BatchNorm.
PAIRS = [("wrn_10_2", "resnet8"), ("wrn_16_2", "wrn_16_1")]
EPOCH = 10  # steps; CTKD's curriculum is over ten epochs


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
        width = term.options["copies"] * teacher.embedding_dim
        expansion = nn.Sequential(
            nn.Conv2d(student.embedding_dim, width, 1, 1, 0, bias=False), nn.BatchNorm2d(width)
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
