"""A loss of gkd in a plain PyTorch loop, without config or task: PKT from one digit classifier to another."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from gkd.losses import pkt_loss

torch.manual_seed(0)
data = load_digits()
images, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
teacher, student = (nn.Sequential(nn.Linear(64, width), nn.ReLU()) for width in (256, 32))
teacher_head, student_head = nn.Linear(256, 10), nn.Linear(32, 10)


def train(network: nn.Module, head: nn.Module, count: int, weight: float) -> float:
    """Trains on the first images; the accuracy in percent on the last 500."""
    optimiser = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=0.01)
    for _ in range(100):
        embedding = network(images[:count])
        loss = F.cross_entropy(head(embedding), labels[:count])
        if weight:
            loss = loss + weight * pkt_loss(embedding, teacher(images[:count]).detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return 100 * (head(network(images[-500:])).argmax(1) == labels[-500:]).float().mean().item()


print(f"teacher, 1,200 images: {train(teacher, teacher_head, 1200, weight=0):.1f} %")
print(f"student, 50 images, with PKT: {train(student, student_head, 50, weight=100):.1f} %")
