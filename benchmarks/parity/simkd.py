"""Loss curves of simkd beside its authors' projector.

The official side is ``SimKD`` of ``models/util.py`` and the loop of ``helper/loops.py`` as it stands there for simkd,
from here: the mean squared error of the projected map alone, gkd's networks, our batches, and SGD with the rates of the
method's file. gkd's side has the projector in the student, under the teacher's frozen head.

    python benchmarks/parity/simkd.py --checkout ../SimKD --out benchmarks/results/parity_simkd.json
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
from torch import nn
from torch.nn import functional as F

from gkd.core.tapped import output_shapes
from gkd.models import build_network, projected

METHOD = "simkd"
FILE = Official("DefangChen/SimKD", "models/util.py", lambda *_: F.mse_loss)


class Projected(Case):
    """A student that ends in the teacher's head."""

    def student(self) -> nn.Module:
        teacher: Any = build_network(self.teacher_name, num_classes=NUM_CLASSES)
        teacher.load_state_dict(copied(self.teacher))
        shape = output_shapes(teacher, self.stream.images.shape[1:]).pooled
        assert shape is not None
        student = projected(super().student(), {"channels": shape[0], "size": shape[1:]})
        student.head.load_state_dict(teacher.head.state_dict())
        return student


def run_official(
    script: types.ModuleType, case: Case, place: str, start: State, dtype: torch.dtype
) -> tuple[Curves, State]:
    """The authors' projector and criterion over our batches."""
    stream, optimiser = case.stream.to(dtype), case.stage.optimiser
    curves: Curves = {"total": [], "simkd": []}
    with official_surroundings(dtype):
        teacher, student = (
            build_network(name, num_classes=NUM_CLASSES) for name in (case.teacher_name, case.student_name)
        )
        teacher.load_state_dict(copied(case.teacher, dtype))
        body = {
            key.removeprefix("network."): value for key, value in start.items() if key.startswith("network.")
        }
        student.load_state_dict(body, strict=False)  # but for the head, which is not used
        widths = [network.embedding_dim for network in (student, teacher)]
        module = script.SimKD(s_n=widths[0], t_n=widths[1], factor=2)
        projector = [value for key, value in start.items() if key.startswith("projector.")]
        module.transfer.load_state_dict(dict(zip(module.transfer.state_dict(), projector, strict=True)))
        teacher.eval()
        student.train()
        criterion = nn.MSELoss()
        sgd = torch.optim.SGD(
            [*student.parameters(), *module.parameters()],
            lr=optimiser.lr * optimiser.lr_factor(PROGRESS[place], case.stage.epochs),
            momentum=optimiser.momentum,
            weight_decay=optimiser.weight_decay,
        )
        for batch in stream:
            ours: Any = student.features(batch.images)  # type: ignore[operator]
            with torch.no_grad():
                theirs: Any = teacher.features(batch.images)  # type: ignore[operator]
            led, target, _ = module(ours.pooled_map, theirs.pooled_map, teacher.head)
            loss = criterion(led, target)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            for name in curves:
                curves[name].append(float(loss.detach()))
    state = {f"network.{key}": value for key, value in student.state_dict().items() if key in body}
    names = [key for key in start if key.startswith("projector.")]
    learnt = zip(names, module.transfer.state_dict().values(), strict=True)
    heads = {key: value for key, value in start.items() if key.startswith("head.")}
    return curves, copied({**state, **dict(learnt), **heads})


def main() -> int:
    args = parser(__doc__, (METHOD,)).parse_args()
    prepare()
    checkout = args.checkout.resolve()
    script = official_file(checkout, FILE)
    comparisons: list[dict[str, Any]] = []
    for number, (teacher_name, student_name, teacher, stream) in enumerate(pairs(args, size=SIZE)):
        case = Projected(METHOD, METHOD, teacher_name, student_name, teacher, stream)
        phases = chosen(args, PHASES, wide=number > 0)
        comparisons += compare_case(case, partial(run_official, script), "-c 0 -d 0 -b 1", {}, phases)
    return write(
        args,
        {
            **checkout_facts(checkout, FILE.repository),
            "ran": f"SimKD of {FILE.file}",
            "replaced": "the loop (as it stands in helper/loops.py), the networks (gkd's), the data (our batches)",
        },
        comparisons,
        SIZE,
    )


if __name__ == "__main__":
    raise SystemExit(main())
