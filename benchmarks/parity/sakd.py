"""Loss curves of spot-adaptive distillation beside zju-vipa/spot-adaptive-pytorch.

The official side is the whole of ``train.main()``, unchanged, called with its own config of a method: networks,
criteria, hints, policy, both optimisers, ``train_epoch`` and ``validate``. Around it, from here: the config names other
networks and their weights, one epoch has all the steps, and the data loader hands out our batches (digits in place of
CIFAR-100). ``models.gs.sample_gumbel``, which asks for a GPU, returns the noise that gkd's router draws. Two
functions fail under today's PyTorch: ``LinearClassifier.set_n_to_True`` adds its 10 without autograd here, and
``accuracy``, which is for the log alone, is left out. What the official code draws itself (policy, hints, the weights
of a criterion) it draws once; both sides begin from it.

gkd's side is its own networks (same weights, loaded with ``strict=True``), its Distiller with a Router, and terms,
optimiser and schedule of ``configs/methods/<method>.yaml``; logit distillation and routing are those of ``sakd.yaml``.

The curves are what the official loop logs and trains on: the student's loss, its cross-entropy, the logits' term and
the distiller's, each times the share of the batch that it is on, the loss of the policy, and those shares. The policy
begins without a preference (``kd_loss.homo: False``), so that its gates differ between samples, except in
``at, bias 10``. Images are 16x16: in float64 the convolutions at 32x32 would take a CPU several hours.

    python benchmarks/parity/sakd.py --checkout ../spot-adaptive-pytorch \\
        --out benchmarks/results/parity_sakd.json
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from _cifar import (
    NOISE_SEED,
    NUM_CLASSES,
    Case,
    chosen,
    compare_case,
    negatives,
    pairs,
    parser,
    positive_first,
    without_epsilon,
    write,
)
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
from torch import Tensor, nn

from gkd.config.shipped import load_method
from gkd.losses import CCNeighbourLoss, Regressor
from gkd.methods.stage import Stage

SIZE = 16
CONFIGS = "configs/cifar-100/seed-1029"
# Our pair -> the one whose official config is read: one family, and two.
PAIRS = {("resnet14", "resnet8"): "resnet56-resnet20", ("wrn_16_2", "resnet8"): "wrn_40_2-ShuffleNetV1"}
LR = {"first": 0.05, "late": 0.0005}  # training.lr; the config of a ShuffleNet has 0.01
# At the first rate the penalty has all logits' gates on after a step or two, and an only spot's soon after; at the late
# one they differ between the samples of every batch. So float64 has to agree at both.
ROUTED = (*PHASES[:2], Phase("late", torch.float64, True))
RECORDED = tuple(Phase(phase.name, phase.dtype, False) for phase in ROUTED)


@dataclass(frozen=True)
class Method:
    """How the official code is asked for a method, and what is compared.

    Attributes:
        config: a folder of the official configs.
        method: a file of configs/methods.
        curve: our term, or the name under which several are joined.
        spots: gkd's names of the gates, in order.
        joined: see `Case`.
        weights: official name -> ours, of what the distiller's own modules own; ``{}`` is the spot's number.
        same_family: whether the policy begins with 10 more for distilling (``kd_loss.homo``).
        across: whether the second pair is compared too.
        negatives: K of a contrastive criterion.
        exact: what makes gkd or the official code do as the other does where they are known to differ.
    """

    config: str
    method: str
    curve: str
    spots: tuple[str, ...]
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    same_family: bool = False
    across: bool = False
    phases: Sequence[Phase] = ROUTED
    negatives: int = 0
    exact: Callable[[types.ModuleType], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@contextlib.contextmanager
def statistics_of_the_batch(_script: types.ModuleType) -> Iterator[None]:
    """gkd's ``Regressor`` with BatchNorm over all rows, also those that are not distilled."""
    forward = Regressor.forward
    with patch.object(Regressor, "forward", lambda self, x, _mask=None: forward(self, x)):
        yield


@contextlib.contextmanager
def teacher_projection_fixed(_script: types.ModuleType) -> Iterator[None]:
    """gkd's ``CCNeighbourLoss`` with the teacher's projection as it was drawn."""
    build = CCNeighbourLoss.__init__

    @functools.wraps(build)  # its options are read from its signature
    def fixed(self: CCNeighbourLoss, *shapes: Sequence[int], **options: Any) -> None:
        build(self, *shapes, **options)
        self.teacher_projection.requires_grad_(False)

    with patch.object(CCNeighbourLoss, "__init__", fixed):
        yield


def layer_names(official: str, ours: str) -> dict[str, str]:
    """The tensors of a ``ConvReg``, or of a ``LinearClassifier``, as official name -> that of our ``Regressor``."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {
        f"{official}.{layer}.{end}": f"{ours}.resize.{end}"
        for layer in ("conv", "net")
        for end in ("weight", "bias")
    }
    return names | {f"{official}.bn.{end}": f"{ours}.norm.{end}" for end in norm}


MAPS = ("map1", "map2", "map3", "logits")
EMBEDDING = ("embedding", "logits")
FITNET = partial(
    Method, "fitnet", "fitnet", "fitnet", ("map2", "logits"), weights=layer_names("loss_hint", "regressor")
)
CC = partial(
    Method,
    "cc",
    "cc",
    "cc_neighbour",
    EMBEDDING,
    weights={
        f"cc_embed_{side[0]}.linear.{end}": f"{side}_projection.{end}"
        for side in ("student", "teacher")
        for end in ("weight", "bias")
    },
)
PKT = partial(Method, "pkt", "pkt", "pkt", EMBEDDING)
VID = {
    "criterion.{}.log_scale": "raw_variance",
    **{f"criterion.{{}}.regressor.{layer}.weight": f"regressor.{layer}.weight" for layer in (0, 2, 4)},
}
CRD = partial(
    Method,
    "crd",
    "crd",
    "crd",
    EMBEDDING,
    negatives=16384,
    weights={
        **{
            f"crd_embed_{side[0]}.linear.{end}": f"projections.{side}.{end}"
            for side in ("student", "teacher")
            for end in ("weight", "bias")
        },
        "criterion.contrast.memory_v1": "student_bank",
        "criterion.contrast.memory_v2": "teacher_bank",
    },
)
METHODS = {
    "at": Method("at", "sakd", "at", MAPS, across=True, phases=(*ROUTED, PHASES[2])),
    "at, bias 10": Method("at", "sakd", "at", MAPS, same_family=True),
    "sp": Method("sp", "sp", "sp", ("map3", "logits")),
    "rkd": Method("rkd", "rkd", "rkd", EMBEDDING, joined={"rkd": ("rkd_distance", "rkd_angle")}, across=True),
    "vid": Method("vid", "vid", "vid", MAPS, weights=VID),
    "cc": CC(phases=RECORDED),
    "cc with the teacher's projection fixed": CC(exact=teacher_projection_fixed),
    "fitnet": FITNET(phases=RECORDED),
    "fitnet with statistics of the batch": FITNET(exact=statistics_of_the_batch),
    "pkt": PKT(phases=RECORDED),
    "pkt without 1e-7": PKT(phases=(RECORDED[0], *ROUTED[1:]), exact=without_epsilon),
    "crd": CRD(phases=PHASES[:1]),
    "crd without 1e-7": CRD(phases=PHASES[1:2], exact=without_epsilon),
}


@dataclass(frozen=True)
class RoutedCase(Case):
    """A method at the spots that a policy chooses, beside logit distillation.

    Attributes:
        options: the official config.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> Stage:
        official = self.options["kd"]["loss_weights"]
        stage, routed = (load_method(name).stages["distil"] for name in (self.method, "sakd"))
        terms = {**stage.terms, "kd": routed.terms["kd"]}
        if "fitnet" in terms:  # 100 in RepDistiller
            terms["fitnet"] = terms["fitnet"].model_copy(update={"weight": official["other_kd"]})
        spots = routed.spots.model_copy(update={"classify_weight": official["classify_weight"]})
        return stage.model_copy(update={"terms": terms, "spots": spots})


class Writer:
    """torch.utils.tensorboard.SummaryWriter that keeps what a step's losses and gates are."""

    def __init__(self, **_options: object) -> None:
        self.curves: Curves = {}

    def add_scalar(self, *_values: object) -> None: ...

    def add_scalars(self, main_tag: str, tag_scalar_dict: Mapping[str, float], global_step: int) -> None:
        if main_tag in ("train/loss", "train_gate_num"):
            for name, value in tag_scalar_dict.items():
                self.curves.setdefault(name, []).append(float(value))


STUBS: dict[str, dict[str, Any]] = {
    "torch.utils.tensorboard": {"SummaryWriter": Writer},
    "tqdm": {"tqdm": lambda batches: batches},
    "pandas": {},
}


def no_accuracy(_output: Tensor, target: Tensor, topk: Sequence[int]) -> list[Tensor]:
    """``helper.util.accuracy``, for the log alone: its ``view`` of a transposed tensor fails today."""
    return [torch.ones(1, device=target.device) for _ in topk]


def bias_without_autograd(policy: Any) -> None:
    """``LinearClassifier.set_n_to_True``: autograd refuses its writing into a parameter."""
    with torch.no_grad():
        policy.net.bias[::2] += 10


def gumbel(dtype: torch.dtype) -> Callable[..., Tensor]:
    """``models.gs.sample_gumbel`` that draws what gkd's router does, from the same seed."""
    generator = torch.Generator().manual_seed(NOISE_SEED)

    def sample(shape: torch.Size, eps: float = 0.0) -> Tensor:
        return torch.empty(shape, dtype=dtype).exponential_(generator=generator).log().neg()

    return sample


def shared(official: Mapping[str, Tensor], names: Mapping[str, str], ours: State) -> None:
    """Fills ``ours`` from the official tensors where it is empty, else those from it."""
    there = {theirs: name for theirs, name in names.items() if theirs in official}
    if not ours:
        ours.update(copied({name: official[theirs] for theirs, name in there.items()}))
    for theirs, name in there.items():
        official[theirs].data.copy_(ours[name])


def share_weights(method: Method, case: Case, train_kd: Callable[..., None], **given: Any) -> None:
    """``train.train_kd``, begun from the weights that the first run drew."""
    modules = nn.ModuleDict({**given["module_dict"], "criterion": given["criterion_dict"]["kd"]})
    official = dict(modules.named_parameters()) | dict(modules.named_buffers())
    inner = range(len(method.spots) - 1)
    names = {f"policy.net.{end}": f"policy.{end}" for end in ("weight", "bias")}
    for number in inner:
        suffix = f"_{number}" if "hint_0" in modules else ""
        for side in ("hint", "anti_hint"):
            names |= layer_names(f"{side}{suffix}", f"splice.{side}s.{number}.regressor")
    shared(official, names, case.router)
    if method.weights:
        if not case.adapters:
            case.adapters.extend({} for _ in inner)
        for number in inner:
            own = {theirs.format(number): ours for theirs, ours in method.weights.items()}
            shared(official, own, case.adapters[number])
    train_kd(**given)


def run_official(
    method: Method,
    script: types.ModuleType,
    case: RoutedCase,
    place: str,
    start: State,
    dtype: torch.dtype,
) -> tuple[Curves, State]:
    """``train.main()`` for one epoch of our batches."""
    stream, writer = case.stream.to(dtype), Writer()
    fields = 4 if case.negatives else 2
    train = OfficialLoader(stream, fields, fourth=partial(positive_first, case))
    loaders = (train, [next(iter(OfficialLoader(stream, 2)))])
    trained: list[nn.Module] = []

    def train_kd(original: Callable[..., None], **given: Any) -> None:
        trained.append(given["module_dict"]["student"])
        share_weights(method, case, original, **given)

    with official_surroundings(dtype) as folder, recorded({}) as backward:
        torch.save({"model": copied(case.teacher, dtype)}, folder / "teacher.pth")
        torch.save({"model": start}, folder / "student.pth")
        options = dict(case.options)
        options["kd"] = {
            **options["kd"],
            "teacher": {"name": case.teacher_name, "checkpoint": "teacher.pth"},
            "student": {"name": case.student_name, "checkpoint": "student.pth"},
        }
        options["training"] = {**options["training"], "epochs": 1, "lr": LR[place]}
        (folder / "config.yml").write_text(yaml.safe_dump(options))
        with (
            patch.object(script, "get_dataloader", lambda _options: (*loaders, NUM_CLASSES)),
            patch.object(
                script, "get_cifar100_dataloaders_sample", lambda **_options: (*loaders, len(stream.images))
            ),
            patch.object(script, "SummaryWriter", lambda **_options: writer),
            patch.object(script, "get_logger", lambda **_options: logging.getLogger("official")),
            patch.object(script, "train_kd", partial(train_kd, script.train_kd)),
            patch.object(script, "__global_values__", {"it": 0}, create=True),
            patch.object(script.LinearClassifier, "set_n_to_True", bias_without_autograd),
            patch.object(script, "accuracy", no_accuracy),
            patch.object(sys.modules["helper.validate"], "accuracy", no_accuracy),
            patch.object(sys.modules["models.gs"], "sample_gumbel", gumbel(dtype)),
            patch.object(torch, "float", dtype),  # of the sums that begin as torch.tensor(0.0)
        ):
            script.main("config.yml", "log", "run")
    # a step calls backward for the policy, then for the student
    curves = {"total": backward["total"][1::2], "routing": backward["total"][::2]}
    names = {"cls": "cross_entropy", "div": "kd", "kd": method.curve}
    names |= {f"graft_cnt{number}": f"share {spot}" for number, spot in enumerate(method.spots)}
    return curves | {ours: writer.curves[theirs] for theirs, ours in names.items()}, copied(
        trained[0].state_dict()
    )


def read_config(checkout: Path, method: Method, pair: tuple[str, str]) -> tuple[str, dict[str, Any]]:
    """What was read, and the official config of a method for our pair."""
    file = f"{CONFIGS}/{method.config}/{PAIRS[pair]}.yml"
    options: dict[str, Any] = yaml.safe_load((checkout / file).read_text(encoding="utf-8"))
    options["kd_loss"]["homo"] = method.same_family
    return f"{file}, kd_loss.homo {method.same_family}", options


def main() -> int:
    args = parser(__doc__, tuple(METHODS)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_module(checkout, "train", STUBS)
    comparisons: list[dict[str, Any]] = []
    for teacher_name, student_name, teacher, stream in pairs(args, list(PAIRS), SIZE):
        pair = (teacher_name, student_name)
        for name in args.methods:
            method = METHODS[name]
            if pair != next(iter(PAIRS)) and not method.across:
                continue
            file, options = read_config(checkout, method, pair)
            draw = partial(negatives, stream, method.negatives) if method.negatives else None
            case = RoutedCase(
                method.method, name, *pair, teacher, stream, method.joined, negatives=draw, options=options
            )
            official = partial(run_official, method, script)
            phases = chosen(args, method.phases)
            more = {place: f"training.lr {lr}" for place, lr in LR.items()}
            with method.exact(script):
                comparisons += compare_case(case, official, file, more, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, "zju-vipa/spot-adaptive-pytorch"),
            "ran": "train.main() as it is: networks, distiller_zoo, ConvReg, LinearClassifier, both optimisers, "
            "train_kd, train_epoch and validate",
            "replaced": "the data loader (our batches), networks, their weights and epochs in the config, "
            "models.gs.sample_gumbel (gkd's noise; it asks for a GPU), LinearClassifier.set_n_to_True (the same "
            "without autograd, which refuses it), the initial weights of policy, hints and criteria (the official "
            "code draws them once for all runs), SummaryWriter (keeps the scalars), accuracy (for the log alone; its "
            "view fails today), get_logger, tqdm, pandas, torch.cuda.is_available (False)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
