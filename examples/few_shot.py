"""A teacher guides a small student through episodes of five digits; both are judged on episodes of the other five."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from gkd.data.episodes import draw_episodes
from gkd.few_shot.classifiers import episode_accuracies
from gkd.losses import episode_induced_loss, prototype_loss, tuple_loss
from gkd.metrics.intervals import mean_interval

images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
images, novel = images.float() / 16, labels >= 5
lessons = draw_episodes(labels[~novel], count=300, ways=5, shots=5, queries=10, seed=0)
exam = draw_episodes(labels[novel] - 5, count=2000, ways=5, shots=5, queries=15, seed=1)
way, support = torch.arange(5).repeat_interleave(15), torch.arange(75) % 15 < 5


def learn(width: int, teacher: nn.Module | None = None) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.002)
    for rows in lessons.index.flatten(1):
        batch = images[~novel][rows]
        loss = prototype_loss(embedding := network(batch), way, support)
        if teacher is not None:
            target = teacher(batch).detach()
            loss = loss + episode_induced_loss(embedding, target, way, support)
            loss = loss + 100 * tuple_loss(embedding, target, way)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network, episode_accuracies(network(images[novel]).detach(), exam.support, exam.query)


def told(accuracies: torch.Tensor) -> str:
    return "{:.1f} ± {:.1f} %".format(*mean_interval(accuracies))


teacher, found = learn(512)
(_, alone), (_, taught) = learn(16), learn(16, teacher)
print(
    f"teacher {told(found)}, student alone {told(alone)}, taught {told(taught)}, gain {told(taught - alone)}"
)
