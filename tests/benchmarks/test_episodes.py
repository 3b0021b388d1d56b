"""benchmarks/episodes.py: every way judges the same protocol, and what is committed is whole and reaches its aim."""

import json
from pathlib import Path

import pytest
import torch

from tests.processes import Child, python_file

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WAYS = [
    ("nearest-mean", "gkd"),
    ("nearest-mean", "learn2learn, NWays + KShots"),
    ("nearest-mean", "learn2learn, FusedNWaysKShots"),
    ("logistic", "gkd"),
    ("logistic", "scikit-learn"),
    ("ridge", "gkd"),
    ("ridge", "scikit-learn"),
]


def test_the_committed_result_has_every_way_and_reaches_what_is_asked_for(script):
    committed = json.loads((FOLDER / "results" / "episodes.json").read_text())
    rows = {(row["classifier"], row["how"]): row for row in committed["rows"]}
    assert list(rows) == WAYS
    assert 10_000 * rows["nearest-mean", "gkd"]["seconds_per_episode"] < script.ALLOWED_SECONDS
    for (classifier, how), row in rows.items():
        if how != "gkd":
            assert row["times_gkd"] >= script.PEERS[classifier]
        assert abs(row["accuracy"] - rows[classifier, "gkd"]["accuracy"]) < 2
    assert min(committed["same_answers"].values()) > 0.999
    assert (FOLDER / "results" / "episodes.md").read_text() == script.table(committed) + "\n"


@pytest.mark.full
def test_it_runs(tmp_path):
    out = tmp_path / "episodes.json"
    words = [
        "--episodes",
        "64",
        "--peer-episodes",
        "4",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    trial = Child(python_file, str(FOLDER / "episodes.py"), *words, cwd=FOLDER.parent)
    _, errors = trial.communicate()
    assert trial.returncode == 0, errors
    result = json.loads(out.read_text())
    assert [(row["classifier"], row["how"]) for row in result["rows"]] == WAYS
    assert all(row["seconds_per_episode"] > 0 for row in result["rows"])
    assert all(row["times_gkd"] == 1 for row in result["rows"] if row["how"] == "gkd")


@pytest.mark.parametrize("fused", [False, True])
def test_learn2learns_tasks_are_judged_as_gkds_episodes(script, fused):
    """The embeddings are neither easy nor hopeless, and both means agree within four standard errors."""
    embedding, labels = script.embeddings()
    assert (embedding.shape, torch.bincount(labels).tolist()) == ((12_000, 640), [600] * 20)
    theirs = script.learn2learn_tasks(embedding, labels, fused)(40)
    episodes = script.draw(labels, 400, 0)
    ours = script.episode_accuracies(embedding, episodes.support, episodes.query)
    assert 80 < ours.mean() < 98
    assert abs(theirs.mean() - ours.mean()) < 4 * ours.std() * (1 / 40 + 1 / 400) ** 0.5
