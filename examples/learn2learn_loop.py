"""ProtoNet over learn2learn's tasks, and a loss of gkd that keeps a teacher's relations within each task."""

import random

import torch
from learn2learn.data import MetaDataset, Taskset
from learn2learn.data.transforms import FusedNWaysKShots, LoadData
from sklearn.datasets import load_digits
from torch import nn

from gkd.few_shot.classifiers import episode_accuracies, nearest_mean
from gkd.few_shot.learn2learn import taskset_episodes
from gkd.losses import cross_entropy_loss, tuple_loss

torch.manual_seed(0)
random.seed(0)  # learn2learn's
images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images = images.float() / 16
teacher, student = (nn.Sequential(nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 16)) for w in (256, 8))
parts = (torch.utils.data.TensorDataset(images[i::3], labels[i::3]) for i in range(2))
tasks, new = (Taskset(d, [FusedNWaysKShots(d, n=5, k=15), LoadData(d)]) for d in map(MetaDataset, parts))
episodes = taskset_episodes(new, labels[1::3], shots=5, queries=10, count=500, seed=0)

for name, network, weight in (("teacher", teacher, 0), ("student", student, 1000)):
    optimiser = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(100):
        task, task_labels = tasks.sample()  # 5 classes of 15 samples, one class after the other
        embedding = network(task)
        support, query = embedding.view(1, 5, 15, 16).split([5, 10], dim=2)
        loss = cross_entropy_loss(nearest_mean(support, query).view(50, 5), torch.arange(50) // 10)
        loss = loss + weight * tuple_loss(embedding, teacher(task).detach(), task_labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    accuracy = episode_accuracies(network(images[1::3]).detach(), episodes.support, episodes.query)
    print(f"{name}: {accuracy.mean():.1f} % of the queries of new images")
