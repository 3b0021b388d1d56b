"""What a step takes over from the one before: the last weights, columns, statistics; and on what its stages train."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd.config import load
from gkd.models.heads import class_proxies
from tests.step_helpers import normalise, run, student


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of every step what its student started from, the problem, and what training gave."""
    from gkd import sequence

    found: list[dict[str, Any]] = []
    fit = sequence.fit

    def noted(network: torch.nn.Module, teacher: Any, problem: Any, *more: Any) -> Any:
        found.append({"start": copy.deepcopy(network), "teacher": teacher, "problem": problem})
        last, best, position = fit(network, teacher, problem, *more)
        found[-1] |= {"last": dict(last), "best": dict(best)}
        return last, best, position

    monkeypatch.setattr(sequence, "fit", noted)
    return found


@pytest.mark.parametrize(
    ("method", "words"), [("ucir", ()), ("ucir", ("method.held_out=0.1",)), ("podnet", ())]
)
def test_new_columns_start_at_the_means_of_their_own_images(
    method: str, words: tuple[str, ...], fits: list[dict[str, Any]]
) -> None:
    """In the embedding of the network that the student grew out of, as long as the old columns are on average.

    What is held out is to be new to the student, so it is not among them.
    """
    from gkd.builders import prepare
    from gkd.evaluate import predict

    folder = run(f"method={method}", *words)
    settings = prepare(load(folder / "config.yaml")).settings
    for number, old in ((1, 6), (2, 8)):
        network = fits[number]["start"]
        images = fits[number]["problem"].step.new_images()
        assert len(fits[number]["problem"].step.held_out) == (2 * (old + 2) if words else 0)
        _, embedding = predict(network, images, settings)
        weight = network.head.weight.detach()
        for column in (old, old + 1):
            own = normalise(embedding[images.labels == column])
            if method == "ucir":
                expected = normalise(own.mean(0, keepdim=True))[0]
            else:
                expected = normalise(class_proxies(own, seed=settings.seed))
            lengths = weight[:old].norm(dim=-1).mean()
            torch.testing.assert_close(weight[column], lengths * expected, rtol=1e-4, atol=1e-5)


def test_a_step_goes_on_from_the_last_epoch_not_from_the_best(
    fits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is chosen by validation images of old classes too, of which a memory may have none."""
    from gkd import train

    falling = iter(range(100, 0, -1))
    monkeypatch.setattr(train, "validate", lambda *_: ("accuracy", float(next(falling))))
    folder = run("method=lwf", "evaluate.every=1")
    for number in (0, 1):
        done, following = fits[number], fits[number + 1]
        assert not torch.equal(done["last"]["conv1.weight"], done["best"]["conv1.weight"])
        saved = student(folder / "steps" / str(number + 1))
        assert all(torch.equal(saved[name], value) for name, value in done["last"].items())
        for after in (following["start"], following["teacher"].network):
            assert all(
                torch.equal(value, saved[name])
                for name, value in after.state_dict().items()
                if not name.startswith("fc.")
            ), "running statistics too"
        columns = len(saved["fc.weight"])
        assert torch.equal(following["start"].fc.weight[:columns], saved["fc.weight"])
        assert torch.equal(following["teacher"].network.fc.weight, saved["fc.weight"])


@pytest.mark.parametrize("method", ["podnet", "eeil"])
def test_the_second_stage_has_as_many_images_of_each_class(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gkd import train

    trained: list[list[int]] = []
    batches = train.Batches

    def noted(images: Any, *more: Any, **options: Any) -> Any:
        trained.append(images.class_counts().tolist())
        return batches(images, *more, **options)

    monkeypatch.setattr(train, "Batches", noted)
    run(f"method={method}")
    first, *later = trained
    assert len(first) == 6
    assert [len(counts) for counts in later] == [8, 8, 10, 10]
    for whole, even in (later[:2], later[2:]):
        assert whole[:-2] == even[:-2] == [20] * len(even[:-2])
        assert min(whole[-2:]) > 60
        assert even[-2:] == [20, 20]
