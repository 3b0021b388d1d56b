"""An own teacher guides an own student by two losses, over an own DataLoader and in an own loop."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gkd

torch.manual_seed(0)
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
loader = DataLoader(TensorDataset(images[:200], labels[:200]), batch_size=50, shuffle=True)
large, small = (nn.Sequential(nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 10)) for w in (256, 16))


def train(distiller: gkd.Distiller, epochs: int) -> float:
    optimiser = torch.optim.Adam(distiller.student.parameters(), lr=0.01)
    for _ in range(epochs):
        for batch in loader:
            optimiser.zero_grad()
            distiller(gkd.Batch(*batch))["loss"].backward()
            optimiser.step()
    return 100 * (distiller.student(images[200:]).argmax(1) == labels[200:]).float().mean().item()


alone = {"cross_entropy": gkd.Term(loss="cross_entropy")}
both = {**alone, "pkt": gkd.Term(loss="pkt", weight=100)}
teacher, student = gkd.tap(large), gkd.tap(small)
print(f"teacher {train(gkd.Distiller(teacher, None, alone), epochs=20):.1f} %")
print(f"student {train(gkd.Distiller(student, gkd.Teacher(teacher), both), epochs=20):.1f} %")
