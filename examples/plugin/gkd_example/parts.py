"""A data set, a network and a metric."""

import math

import torch
from torch import nn


class Stripes(torch.utils.data.Dataset):
    """Grey 8-pixel stripes of eight directions under noise; called as gkd calls a data set."""

    classes = tuple(f"{45 * k // 2} degrees" for k in range(8))

    def __init__(self, split, root):
        generator = torch.Generator().manual_seed(int(split == "test"))
        self.targets = torch.arange(400) % 8
        angle, phase = self.targets * math.pi / 8, 2 * math.pi * torch.rand(400, generator=generator)
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
        noise = 0.3 * torch.randn(400, 8, 8, generator=generator)
        self.images = (0.5 + 0.3 * (1.5 * along + phase[:, None, None]).sin() + noise).clamp(0, 1)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], int(self.targets[index])


class TwoConvolutions(nn.Module):
    """A small classifier; gkd finds its last linear layer by itself."""

    def __init__(self, num_classes, in_channels, width=16):
        super().__init__()
        first = nn.Conv2d(in_channels, width, 3, padding=1)
        second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        pool = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.body = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), pool)
        self.fc = nn.Linear(4 * width, num_classes)

    def forward(self, x):
        return self.fc(self.body(x))


def worst_class(logits, labels, relation):
    """The lowest accuracy of a class, in percent."""
    right = (logits.argmax(1) == labels).double()
    return 100 * min(right[labels == label].mean() for label in labels.unique())
