"""The time of a few-shot episode: gkd's batches of episodes beside learn2learn's tasks and scikit-learn's classifiers.

12,000 embeddings of width 640 over 20 classes, as of mini-ImageNet's test classes: noise around class centres. An
episode is 5-way 5-shot with 15 queries a class; every way draws its own and ends with their accuracies.

- nearest mean: gkd draws all episodes and judges them; learn2learn samples one task after the other from a
  TensorDataset of the same embeddings by the transforms of its benchmarks (``NWays`` and ``KShots``; omniglot's, which
  fuses these, is the faster one), then ``partition_task`` and ``PrototypicalClassifier``.
- logistic and ridge regression: gkd's batches beside one scikit-learn fit and prediction for each of the same episodes,
  whose answers are compared.

All ways take turns in one process; the numbers are medians over the rounds. `make learn2learn` installs the peer.

    python benchmarks/episodes.py --out benchmarks/results/episodes.json && python docs/embed.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _measure import Cell, arguments, facts, in_fresh_process, write
from torch import Tensor
from torch.nn import functional as F

from gkd.data.episodes import Episodes, draw_episodes
from gkd.few_shot.classifiers import CLASSIFIERS, episode_accuracies

CLASSES, EACH, WIDTH = 20, 600, 640
WAYS, SHOTS, QUERIES = 5, 5, 15
# What is asked for: seconds of 10,000 episodes by nearest mean, and how many times as long a peer takes.
ALLOWED_SECONDS, WANTED_TASKS, WANTED_FITS = 4.0, 25.0, 10.0
PEERS = {"nearest-mean": WANTED_TASKS, "logistic": WANTED_FITS, "ridge": WANTED_FITS}


def embeddings() -> tuple[Tensor, Tensor]:
    """float32 ``[12000, 640]`` and labels; neither easy nor hopeless for a classifier."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat(EACH)
    centres = torch.randn(CLASSES, WIDTH, generator=generator)
    return centres[labels] + 4 * torch.randn(len(labels), WIDTH, generator=generator), labels


def draw(labels: Tensor, count: int, seed: int) -> Episodes:
    return draw_episodes(labels, count=count, ways=WAYS, shots=SHOTS, queries=QUERIES, seed=seed)


def learn2learn_tasks(embedding: Tensor, labels: Tensor, fused: bool) -> Callable[[int], Tensor]:
    """Accuracies in percent of as many tasks, sampled and judged as learn2learn's examples do."""
    import learn2learn as l2l
    from learn2learn.data import transforms

    dataset = l2l.data.MetaDataset(torch.utils.data.TensorDataset(embedding, labels))
    samples = SHOTS + QUERIES
    if fused:
        drawn = [transforms.FusedNWaysKShots(dataset, n=WAYS, k=samples)]
    else:
        drawn = [transforms.NWays(dataset, WAYS), transforms.KShots(dataset, samples)]
    rest = (transforms.LoadData, transforms.RemapLabels, transforms.ConsecutiveLabels)
    taskset = l2l.data.Taskset(dataset, [*drawn, *(step(dataset) for step in rest)])

    def judge(count: int) -> Tensor:
        found = []
        for _ in range(count):
            task, remapped = taskset.sample()
            (support, own), (query, asked) = l2l.data.partition_task(task, remapped, shots=SHOTS)
            answers = l2l.nn.PrototypicalClassifier(support, own)(query).argmax(1)
            found.append((answers == asked).double().mean())
        return 100 * torch.stack(found)

    return judge


def scikit_learn_answers(embedding: Tensor, episodes: Episodes, classifier: str) -> Tensor:
    """int64 ``[E, N · Q]``: a fit and a prediction for each episode."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    numbers = torch.arange(WAYS).repeat_interleave(SHOTS).numpy()
    found = []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        own, asked = embedding[support.flatten()], embedding[query.flatten()]
        if classifier == "logistic":  # as RFS: unit embeddings
            own, asked = F.normalize(own, dim=1), F.normalize(asked, dim=1)
        model = LogisticRegression(C=1.0, max_iter=1000) if classifier == "logistic" else RidgeClassifier()
        found.append(torch.from_numpy(model.fit(own.numpy(), numbers).predict(asked.numpy())))
    return torch.stack(found)


def agreement(embedding: Tensor, episodes: Episodes, classifier: str) -> float:
    """The share of queries that get the same answer from gkd and from scikit-learn."""
    scores = CLASSIFIERS[classifier](embedding[episodes.support], embedding[episodes.query])
    theirs = scikit_learn_answers(embedding, episodes, classifier)
    return (scores.argmax(3).flatten(1) == theirs).double().mean().item()


def ways(count: int, peer_count: int, rounds: int) -> Cell:
    """Median seconds of every way, their accuracies, and how far the answers agree."""
    embedding, labels = embeddings()
    seeds = iter(range(10**6))

    def ours(classifier: str, count: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            episodes = draw(labels, count, next(seeds))
            return episode_accuracies(embedding, episodes.support, episodes.query, classifier)

        return run

    def fits(classifier: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            answers = scikit_learn_answers(embedding, draw(labels, peer_count, next(seeds)), classifier)
            return 100 * (answers == torch.arange(WAYS).repeat_interleave(QUERIES)).double().mean(1)

        return run

    apart, fused = (learn2learn_tasks(embedding, labels, fused) for fused in (False, True))
    fewer = max(count // 10, 1)  # logistic regression takes several times as long
    runs: dict[tuple[str, str], tuple[int, Callable[[], Tensor]]] = {
        ("nearest-mean", "gkd"): (count, ours("nearest-mean", count)),
        ("nearest-mean", "learn2learn, NWays + KShots"): (peer_count, lambda: apart(peer_count)),
        ("nearest-mean", "learn2learn, FusedNWaysKShots"): (peer_count, lambda: fused(peer_count)),
        ("logistic", "gkd"): (fewer, ours("logistic", fewer)),
        ("logistic", "scikit-learn"): (peer_count, fits("logistic")),
        ("ridge", "gkd"): (fewer, ours("ridge", fewer)),
        ("ridge", "scikit-learn"): (peer_count, fits("ridge")),
    }
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    accuracies: dict[tuple[str, str], float] = {}
    for number in range(rounds + 1):
        for key, (_, run) in runs.items():
            start = time.perf_counter()
            accuracies[key] = run().mean().item()
            if number > 0:  # the first round warms up
                taken[key].append(time.perf_counter() - start)
    each = {key: statistics.median(times) / runs[key][0] for key, times in taken.items()}
    rows = [
        {
            "classifier": key[0],
            "how": key[1],
            "episodes": runs[key][0],
            "seconds_per_episode": each[key],
            "times_gkd": each[key] / each[key[0], "gkd"],
            "accuracy": accuracies[key],
        }
        for key in runs
    ]
    compared = draw(labels, min(peer_count, 100), 0)
    agree = {name: agreement(embedding, compared, name) for name in ("logistic", "ridge")}
    return {"rounds": rounds, "rows": rows, "same_answers": agree}


def table(result: dict[str, Any]) -> str:
    lines = [
        "| classifier | how | episodes a run | an episode | 10,000 episodes | × gkd | accuracy |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        each = row["seconds_per_episode"]
        lines.append(
            f"| {row['classifier']} | {row['how']} | {row['episodes']:,} | {1e3 * each:.3f} ms | {1e4 * each:.1f} s "
            f"| {row['times_gkd']:.1f} | {row['accuracy']:.1f} % |"
        )
    same = ", ".join(f"{100 * share:.2f} % ({name})" for name, share in result["same_answers"].items())
    lines.append(
        f"\nThe same answers as scikit-learn's on the same episodes: {same}. Medians of {result['rounds']} rounds, "
        f"{result['threads']} threads, {result['machine']}."
    )
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--episodes", type=int, default=10_000, help="of gkd by nearest mean (default 10,000)"
    )
    parser.add_argument("--peer-episodes", type=int, default=200, help="of every peer (default 200)")
    args = parser.parse_args()
    cell = in_fresh_process(ways, args.episodes, args.peer_episodes, args.repeats, threads=args.threads)
    result = {**facts(args), "allowed_seconds": ALLOWED_SECONDS, "wanted_times": PEERS, **cell}
    print(table(result))
    if args.out:
        write(result, table(result), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
