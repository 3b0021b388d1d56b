"""Digits arrive in four steps: each network grows out of the last one, which teaches it; a few exemplars are kept."""

import copy

import torch

from gkd.data import load_images
from gkd.incremental.accuracy_matrix import accuracy_matrix, images_by_step, incremental_summary, matrix_row
from gkd.incremental.memory import Memory, choose_exemplars, samples_of
from gkd.incremental.scenario import class_steps, seen_classes, step_of_class
from gkd.losses import cross_entropy_loss, kd_loss
from gkd.models import build_network, grow_head

torch.manual_seed(0)
digits = load_images("digits", "train")
steps = class_steps(digits.space, base=4, increment=2, order=1993)
train, test = (load_images("digits", split).restrict(seen_classes(steps, 3)) for split in ("train", "test"))
network = build_network("resnet8", num_classes=len(steps[0]), in_channels=1)
teacher, memory, rows = None, Memory({}), []
for number, new in enumerate(steps):
    if teacher is not None:
        grow_head(network, len(new))
    samples = torch.cat([samples_of(train, new), memory.samples])
    images, labels = train.images[samples].float() / 255, train.labels[samples]
    optimiser = torch.optim.SGD(network.train().parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for batch in (torch.randperm(len(samples))[:64] for _ in range(60)):
        logits = network(images[batch])
        loss = cross_entropy_loss(logits, labels[batch])
        if teacher is not None:
            old = teacher(images[batch]).detach()
            loss = loss + kd_loss(logits[:, : old.shape[1]], old, temperature=2.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    teacher = copy.deepcopy(network).eval()
    with torch.no_grad():
        known, shown = (teacher.features(x) for x in (images, test.images.float() / 255))
    memory = memory.add(choose_exemplars(train, new, 20, samples=samples, embedding=known.embedding))
    row = matrix_row(shown.logits, shown.embedding, test.labels, step_of_class(steps), step=number)
    rows.append(row["classifier"].tolist())
summary = incremental_summary(accuracy_matrix(rows), images_by_step(test.labels, step_of_class(steps)))
for name in ("average", "last", "forgetting_best_previous", "old", "new"):
    print(f"{name}: {summary[name]:.1f} %")
