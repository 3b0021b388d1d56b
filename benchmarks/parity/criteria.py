"""Loss curves of logit losses beside the criteria that their authors published.

The official side is the authors' criterion, unchanged, in a plain loop from here: gkd's networks, our batches,
cross-entropy beside it, and SGD with the rates of the method's file.

    python benchmarks/parity/criteria.py --checkout ../TTM --methods ttm wttm --out benchmarks/results/parity_ttm.json
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
from _common import Curves, State, copied, module_of_file, official_surroundings, prepare
from _compare import PHASES, checkout_facts
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.methods.terms import Term
from gkd.models import build_network

SIZE = 16

Criterion = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # student's and teacher's logits, labels -> the unweighted loss


@dataclass(frozen=True)
class Official:
    """Where a criterion is published, and how it is called.

    Attributes:
        repository: as GitHub spells it.
        file: of the criterion.
        build: the file's module and our term -> the criterion.
        stubs: modules that the file imports and the criterion does not need -> what they have.
        replaced: what was changed around it, for the result file.
    """

    repository: str
    file: str
    build: Callable[[types.ModuleType, Term], Criterion]
    stubs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replaced: str = ""


def _ttm(name: str) -> Callable[[types.ModuleType, Term], Criterion]:
    def build(script: types.ModuleType, term: Term) -> Criterion:
        criterion = getattr(script, name)(1 / term.options["temperature"])
        return lambda student, teacher, _labels: criterion(student, teacher)

    return build


def _nkd(script: types.ModuleType, term: Term) -> Criterion:
    criterion = script.NKDLoss("nkd", True, temp=term.options["temperature"], gamma=term.options["gamma"])
    return lambda student, teacher, labels: criterion(student, teacher, labels)


def _wsld(script: types.ModuleType, term: Term) -> Criterion:
    """Their module takes two networks and adds the cross-entropy: logits go through, and it is taken off.

    So is the entropy of the weighted soft labels, by which their cross-entropy with the teacher is more than KL.
    """
    temperature, alpha = term.options["temperature"], term.weight
    module = script.WSLDistiller(lambda logits: logits[1], lambda logits: logits[0])
    module.T, module.alpha = temperature, alpha
    script.F = types.SimpleNamespace(one_hot=lambda labels, num_classes: F.one_hot(labels, NUM_CLASSES))

    def criterion(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        _, total = module((student, teacher), labels)
        with torch.no_grad():
            of_student, of_teacher = (
                F.cross_entropy(z, labels, reduction="none") for z in (student, teacher)
            )
            soft = (teacher / temperature).softmax(1)
            entropy = -(soft * soft.log()).sum(1)
            constant = temperature**2 * ((1 - (-of_student / (of_teacher + 1e-7)).exp()) * entropy).mean()
        return (total - F.cross_entropy(student, labels)) / alpha - constant

    return criterion


_REGISTRY = {
    "mmcls": {},
    "mmcls.registry": {"MODELS": types.SimpleNamespace(register_module=lambda: lambda cls: cls)},
}
OFFICIAL = {
    "ttm": Official("zkxufo/TTM", "distiller_zoo/ttm.py", _ttm("TTM")),
    "wttm": Official("zkxufo/TTM", "distiller_zoo/wttm.py", _ttm("WTTM")),
    "nkd": Official("yzd-v/cls_KD", "mmcls/models/dis_losses/nkd.py", _nkd, _REGISTRY),
    "wsld": Official(
        "bellymonster/Weighted-Soft-Label-Distillation",
        "knowledge_distiller.py",
        _wsld,
        {
            "imagenet_train_cfg": {
                "cfg": types.SimpleNamespace(optim=types.SimpleNamespace(label_smooth=False))
            },
            "tools": {"utils": None},
        },
        "of knowledge_distiller.py the number of classes (1000 in the code), T and alpha; from its value the "
        "cross-entropy and the entropy of the weighted soft labels are taken off (gkd's loss is the KL, of the same "
        "gradient); ",
    ),
}


def run_official(
    script: types.ModuleType, official: Official, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """Cross-entropy and the authors' criterion over our batches."""
    stream, optimiser = case.stream.to(dtype), case.stage.optimiser
    term = case.stage.terms[case.term]
    curves: Curves = {"total": [], "cross_entropy": [], case.term: []}
    with official_surroundings(dtype):
        teacher, student = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        student.load_state_dict(start)
        teacher.eval()
        student.train()
        criterion = official.build(script, term)
        sgd = torch.optim.SGD(
            student.parameters(),
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], case.stage.epochs),
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
        )
        for batch in stream:
            logits = student(batch.images)
            with torch.no_grad():
                answers = teacher(batch.images)
            hard, soft = F.cross_entropy(logits, batch.labels), criterion(logits, answers, batch.labels)
            total = hard + term.weight * soft
            sgd.zero_grad()
            total.backward()
            sgd.step()
            for name, value in (("total", total), ("cross_entropy", hard), (case.term, soft)):
                curves[name].append(float(value.detach()))
    return curves, copied(student.state_dict())


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
            script = module_of_file(checkout / OFFICIAL[name].file, OFFICIAL[name].stubs)
            case = Case(name, name, teacher_name, student_name, teacher, stream)
            options = ", ".join(
                f"{key} {value}" for key, value in case.stage.terms[case.term].options.items()
            )
            phases = chosen(args, PHASES, wide=number > 0)
            comparisons += compare_case(
                case, partial(run_official, script, OFFICIAL[name]), options, {}, phases
            )
    official = OFFICIAL[args.methods[0]]
    return write(
        args,
        {
            **checkout_facts(checkout, official.repository),
            "ran": f"the criteria of {', '.join(sorted({OFFICIAL[name].file for name in args.methods}))}",
            "replaced": f"{official.replaced}the loop, the networks (gkd's), the data (our batches), the optimiser "
            "(SGD with the rates of the method's file)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
