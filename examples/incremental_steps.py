"""Digits arrive in three steps: each network grows out of the last one, which teaches it; a few exemplars are kept."""

import torch

from gkd.data import load_images
from gkd.incremental import Memory, Rehearsal, Step, class_steps, learn_step, seen_classes
from gkd.models import build_network

torch.manual_seed(0)
steps = class_steps(load_images("digits", "train").space, base=4, increment=3, order=1993)
train, test = (load_images("digits", part).restrict(seen_classes(steps, 2)) for part in ("train", "test"))
network, memory = build_network("resnet8", num_classes=len(steps[0]), in_channels=1), Memory({})
for number, new in enumerate(steps):
    step = Step(number, steps, train, Rehearsal(memory_per_class=20), memory=memory)
    outcome = learn_step(
        network,
        step,
        "wa",
        test=test,
        epochs=4,
        optimiser={"lr": 0.05, "schedule": "cosine", "milestones": []},
    )
    network, memory = outcome.student, outcome.memory
    print(
        f"step {number + 1}, classes {' '.join(new)}: {outcome.accuracy:.1f} % of all so far, {outcome.rules}"
    )
