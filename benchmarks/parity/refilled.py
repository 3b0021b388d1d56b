"""Loss curves of both REFILLED stages beside the authors' code, njulus/REFILLED and njulus/GKD.

``--checkout`` may be any of three generations; the script tells them apart by their files:

- ``refilled_2021``: njulus/REFILLED at be649aa (HEAD). ``Train.train_stage1`` with ``--flag_merge`` (tuples
  with all their semi-hard negatives, padded and masked: ``utils.triplet.merge``) and
  ``Train.train_stage2``. Beside ``configs/methods/refilled_2021.yaml``. Its triplet branch (no
  ``--flag_merge``) joins p and 1 − p along the wrong axis and is not compared.
- ``refilled_cvpr``: njulus/REFILLED at c5e077f, the CVPR code. ``Train.do_train_process``, once with no
  epoch of stage 2 and once with none of stage 1; ``utils.Triplet`` mines. Beside
  ``configs/methods/refilled_cvpr.yaml``.
- ``refilled``: njulus/GKD at a37fc79 (HEAD), the TPAMI code. ``Train.train_stage2`` as ``gkd`` and as
  ``wgkd``. Beside ``configs/methods/refilled.yaml`` and ``refilled_weighted.yaml``. Its stage 1 is not
  compared: ``merge`` cuts all tuples of a batch to the smallest number of negatives that any of them has,
  which gkd does not reproduce.

These training functions run unchanged, with their own optimisers, for one epoch of our batches; other
hyper-parameters than the learning rate are read from the defaults in the checkout's ``main.py``. Around
them, from here: the loaders hand out our batches, ``.cuda()`` stays on the CPU,
``utils.global_variable`` (it parses nvidia-smi) and ``tensorboardX`` are replaced by modules that do
nothing. The networks are the authors' ``networks.wide_resnet`` without dropout on both sides, gkd's
through ``TappedNetwork``. The 2021 stage 1 needs the package pytorch-metric-learning, whose miner it calls.

    python benchmarks/parity/refilled.py --checkout ../REFILLED --out benchmarks/results/parity_refilled.json
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from _common import (
    WARM_STEPS,
    Curves,
    State,
    arguments,
    copied,
    data_facts,
    digits,
    official_surroundings,
    prepare,
    recorded,
    train_gkd,
    train_teacher,
)
from _compare import PHASES, TOLERANCE, Phase, checkout_facts, compare_sides, environment, finish
from _refilled_official import (
    DEPTH,
    NUM_CLASSES,
    STUDENT_WIDTH,
    TEACHER_WIDTH,
    Adapter,
    Case,
    load_official,
    stage_2021,
    stage_cvpr,
)

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.tapped import TappedNetwork
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import class_centres

TEACHER_DIGITS, STUDENT_DIGITS = range(0, 7), range(3, 10)  # four of seven classes are shared
# Mining in float32 decides by rounding which negatives lie within the margin, and one of them more or
# less moves a batch's loss by 1e-4. gkd mines in float64; so must the official loss, to be compared.
STAGE_1_PHASES = (
    Phase("late", torch.float32, True, exact_mining=True),
    Phase("first", torch.float64, True),
    Phase("late", torch.float32, False),
)
# Below the end of the published schedules (0.01, and at CVPR 0.1): between the two sides no negative
# should cross a margin because of a last bit.
LATE_STAGE_1_LR = 1e-4
CROSS_ENTROPY = {"CrossEntropyLoss": "cross_entropy"}
BOTH_TERMS = {**CROSS_ENTROPY, "KLDivLoss": "induced"}


def run_official(
    case: Case, lr: float, exact: bool, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """One official stage from the given weights."""
    student = case.official.network(STUDENT_WIDTH).to(dtype)
    student.load_state_dict(start)
    sides = [Adapter(network, exact) for network in (student, case.teacher_network(dtype))]
    sides[1].eval()
    with official_surroundings(dtype), recorded(case.terms) as curves:
        run = stage_cvpr if case.official.generation == "refilled_cvpr" else stage_2021
        run(case, *sides, lr, case.stream.to(dtype))
    if case.official.generation == "refilled_cvpr" and "induced" in curves:
        # its mean is over all B × K entries; ours is over the B rows
        curves["induced"] = [NUM_CLASSES * value for value in curves["induced"]]
    return curves, copied(student.state_dict())


def run_gkd(
    case: Case, lr: float, start: State, dtype: torch.dtype, steps: int | None = None
) -> tuple[Curves, State]:
    """gkd's Distiller, terms and optimiser over the same batches, on the authors' networks."""
    stream, stage, terms = case.stream.to(dtype), case.stage, case.stage.terms
    module = case.official.network(STUDENT_WIDTH).to(dtype)
    module.load_state_dict(start)
    if case.official.generation == "refilled_cvpr" and "induced" in terms:
        # 1000 times a mean over all B × K entries; gkd's own weight, 10, stands for K = 100
        weight = case.official.defaults["beta"] / NUM_CLASSES
        terms = {**terms, "induced": terms["induced"].model_copy(update={"weight": weight})}
    spaces = [LabelSpace([f"digit {d}" for d in names]) for names in (TEACHER_DIGITS, STUDENT_DIGITS)]
    network = TappedNetwork(case.teacher_network(dtype), head="fc")
    teacher = Teacher(network, spaces[0], mean=(0.0,) * 3, std=(1.0,) * 3)
    centres = None
    if "induced" in terms and terms["induced"].centres == "train":
        embedding = torch.cat([teacher.features(batch.images).embedding for batch in stream])
        centres, _ = class_centres(embedding, stream.labels[stream.index.flatten()], NUM_CLASSES)
    distiller = Distiller(
        TappedNetwork(module, head="fc"), TeacherSide(teacher, LabelRelation(*spaces), centres=centres), terms
    )
    optimiser = stage.optimiser.model_copy(update={"lr": lr}).build(distiller.param_groups(stage.train))
    return train_gkd(distiller, optimiser, stream, steps), copied(module.state_dict())


# A weight of 100 at the published learning rate of 0.1 kills the student on these images within ten steps,
# and dead networks agree in anything.
HEAVY_STAGE_2_LR = 0.01
# generation -> stage, name, method, the method's stage, first and late learning rate, terms, what runs
CASES: dict[str, list[tuple[int, str, str, str, float, float, dict[str, str], str]]] = {
    "refilled_2021": [
        (1, "stage 1, padded tuples", "refilled_2021", "embedding", 0.1, LATE_STAGE_1_LR, {},
         "Train.train_stage1 with flag_merge"),
        (2, "stage 2", "refilled_2021", "classifier", HEAVY_STAGE_2_LR, 8e-5, BOTH_TERMS, "Train.train_stage2"),
    ],
    "refilled_cvpr": [
        (1, "stage 1, triplets", "refilled_cvpr", "embedding", 0.1, LATE_STAGE_1_LR, {},
         "Train.do_train_process, only stage 1"),
        (2, "stage 2", "refilled_cvpr", "classifier", HEAVY_STAGE_2_LR, 1e-4, BOTH_TERMS,
         "Train.do_train_process, only stage 2"),
    ],
    "refilled": [
        (2, "stage 2, gkd", "refilled", "classifier", 0.1, 8e-4, BOTH_TERMS,
         "Train.train_stage2 with model_name=gkd"),
        (2, "stage 2, wgkd", "refilled_weighted", "classifier", 0.1, 8e-4, CROSS_ENTROPY,
         "Train.train_stage2 with model_name=wgkd"),
    ],
}  # fmt: skip


def compare_case(case: Case, dtype: str | None) -> list[dict[str, Any]]:
    """The stage in each phase, from one student that gkd trained for a while."""
    torch.manual_seed(2)
    untrained = copied(case.official.network(STUDENT_WIDTH).state_dict())
    _, student = run_gkd(case, case.first_lr, untrained, torch.float32, WARM_STEPS)
    results = []
    for phase in STAGE_1_PHASES if case.stage_name == "embedding" else PHASES:
        if dtype not in (None, str(phase.dtype)[6:]):
            continue
        lr = case.late_lr if phase.name == "late" else case.first_lr
        facts = {"method": f"configs/methods/{case.method}.yaml", "official_ran": case.ran, "lr": lr}
        results.append(
            compare_sides(
                case.name,
                phase,
                student,
                partial(run_official, case, lr, phase.exact_mining),
                partial(run_gkd, case, lr),
                facts,
            )
        )
    return results


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--stage", type=int, choices=(1, 2), help="only this stage (default: both)")
    args = parser.parse_args()
    prepare()
    checkout = args.checkout.resolve()
    official = load_official(checkout)
    torch.manual_seed(1)
    network = official.network(TEACHER_WIDTH)
    teacher = train_teacher(network, digits(TEACHER_DIGITS, steps=WARM_STEPS, seed=1))
    stream = digits(STUDENT_DIGITS, steps=args.steps, seed=0)
    for batch in stream:
        assert batch.labels.unique().numel() == NUM_CLASSES  # the CVPR weight depends on it
    comparisons: list[dict[str, Any]] = []
    for stage, *row in CASES[official.generation]:
        if args.stage in (None, stage):
            comparisons += compare_case(Case(*row, official, teacher, stream), args.dtype)
    repository = "njulus/GKD" if official.generation == "refilled" else "njulus/REFILLED"
    return finish(
        args.out,
        {
            "what": f"per-step losses of gkd beside {repository}: same weights, same batches",
            **environment(),
            "official": {
                **checkout_facts(checkout, repository),
                "ran": "the training functions as they are, with their optimisers; see each comparison",
                "replaced": "data loaders (our batches), .cuda(), utils.global_variable, tensorboardX",
                "defaults_of_main.py": {
                    name: official.defaults[name]
                    for name in (
                        "tau1",
                        "tau2",
                        "tau3",
                        "lambd",
                        "beta",
                        "wd",
                        "mo",
                        "weight_decay",
                        "momentum",
                    )
                    if name in official.defaults
                },
            },
            "networks": f"official wide_resnet, depth {DEPTH}, width {TEACHER_WIDTH} -> {STUDENT_WIDTH}, no dropout",
            "data": f"{data_facts()}; teacher's classes 0 to 6, student's 3 to 9",
            "tolerance": TOLERANCE,
            "comparisons": comparisons,
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
