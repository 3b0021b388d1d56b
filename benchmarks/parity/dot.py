"""Loss curves of DOT beside its authors' optimiser.

The official side is ``DistillationOrientedTrainer`` of mdistiller's ``mdistiller/engine/dot.py``, unchanged, in a plain
loop from here that calls it as their trainer does: gkd's networks, our batches, cross-entropy and KD with the weights
of ``configs/methods/kd_dot.yaml``.

    python benchmarks/parity/dot.py --checkout ../mdistiller --out benchmarks/results/parity_dot.json
"""

from __future__ import annotations

import types
from functools import partial
from typing import Any

import torch
from _cifar import NUM_CLASSES, PROGRESS, Case, chosen, compare_case, pairs, parser, write
from _common import Curves, State, copied, official_surroundings, prepare
from _compare import PHASES, checkout_facts
from criteria import SIZE, Official, official_file
from torch.nn import functional as F

from gkd.losses import kd_loss
from gkd.models import build_network

METHOD = "kd_dot"
OPTIMISER = Official("megvii-research/mdistiller", "mdistiller/engine/dot.py", lambda *_: F.cross_entropy)


def run_official(
    script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """The authors' optimiser, with two backward passes a step."""
    stream, stage = case.stream.to(dtype), case.stage
    optimiser, terms = stage.optimiser, stage.terms
    assert optimiser.dot is not None
    curves: Curves = {"total": [], "cross_entropy": [], "kd": []}
    with official_surroundings(dtype):
        teacher, student = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        student.load_state_dict(start)
        teacher.eval()
        student.train()
        trainer = script.DistillationOrientedTrainer(
            student.parameters(),
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], stage.epochs),
            momentum=optimiser.momentum - optimiser.dot,
            momentum_kd=optimiser.momentum + optimiser.dot,
            weight_decay=optimiser.weight_decay,
        )
        for batch in stream:
            logits = student(batch.images)
            with torch.no_grad():
                answers = teacher(batch.images)
            hard = F.cross_entropy(logits, batch.labels)
            soft = kd_loss(logits, answers, temperature=terms["kd"].options["temperature"])
            weighted = [terms["cross_entropy"].weight * hard, terms["kd"].weight * soft]
            trainer.zero_grad(set_to_none=True)
            weighted[1].backward(retain_graph=True)
            trainer.step_kd()
            trainer.zero_grad(set_to_none=True)
            weighted[0].backward()
            trainer.step()
            for name, value in (("total", sum(weighted)), ("cross_entropy", hard), ("kd", soft)):
                curves[name].append(float(value.detach()))
    return curves, copied(student.state_dict())


def main() -> int:
    args = parser(__doc__, (METHOD,)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_file(checkout, OPTIMISER)
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, size=SIZE)):
        case = Case(METHOD, METHOD, teacher_name, student_name, teacher, stream)
        phases = chosen(args, PHASES, wide=number > 0)
        delta = f"momentum {case.stage.optimiser.momentum}, delta {case.stage.optimiser.dot}"
        comparisons += compare_case(case, partial(run_official, script), delta, {}, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, OPTIMISER.repository),
            "ran": f"the optimiser of {OPTIMISER.file}",
            "replaced": "the loop, the networks and KD (gkd's), the data (our batches)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
