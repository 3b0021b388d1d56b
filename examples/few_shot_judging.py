"""An own encoder is judged on few-shot episodes: square roots of pixels, of unit length, beside the pixels."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gkd


class SquareRoots(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(images.sqrt(), dim=1)


images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
loader = DataLoader(TensorDataset(images.float() / 16, labels), batch_size=256)
episodes = gkd.draw_episodes(labels, count=1000, ways=5, shots=1, queries=15, seed=0)
for name, encoder in {"pixels": nn.Identity(), "square roots": SquareRoots()}.items():
    results = gkd.evaluate_episodes(encoder, loader, episodes, classifiers=("nearest-mean", "logistic"))
    print(f"{name}: " + ", ".join(f"{classifier} {result}" for classifier, result in results.items()))
