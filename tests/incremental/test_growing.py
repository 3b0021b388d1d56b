"""What a step takes over from the one before: weights, columns, extractors, statistics; and on what it trains."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.commands.export import load_student
from gkd.config.load import load
from gkd.models.heads import class_proxies
from gkd.storage.weights import read_weights
from tests.cli_helpers import gkd
from tests.step_helpers import WORDS, normalise, read, run, student


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of every step what its student started from, the problem, and what training gave."""
    from gkd.incremental import learn as sequence

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
    from gkd.experiment.prepare import prepare
    from gkd.training.predictions import predict

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
    from gkd.problems.judging import Judging

    falling = iter(range(100, 0, -1))
    monkeypatch.setattr(Judging, "validate", lambda *_: ("accuracy", float(next(falling))))
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
    from gkd.training import stage_run

    trained: list[list[int]] = []
    batches = stage_run.Batches

    def noted(images: Any, *more: Any, **options: Any) -> Any:
        trained.append(images.class_counts().tolist())
        return batches(images, *more, **options)

    monkeypatch.setattr(stage_run, "Batches", noted)
    run(f"method={method}")
    first, *later = trained
    assert len(first) == 6
    assert [len(counts) for counts in later] == [8, 8, 10, 10]
    for whole, even in (later[:2], later[2:]):
        assert whole[:-2] == even[:-2] == [20] * len(even[:-2])
        assert min(whole[-2:]) > 60
        assert even[-2:] == [20, 20]


def weights(folder: Path, number: int) -> dict[str, Tensor]:
    return read_weights(folder / "steps" / str(number) / "student.safetensors")[0]


def extractor(state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    prefix = f"extractors.{number}."
    return {key.removeprefix(prefix): values for key, values in state.items() if key.startswith(prefix)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def options(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_weights(path)[1].get("options", "{}"))
    return found


def test_the_extractors_of_earlier_steps_stay_to_the_bit() -> None:
    folder = run("method=der")
    first, second, third = (weights(folder, number) for number in (1, 2, 3))
    body = {key: values for key, values in first.items() if not key.startswith("fc.")}
    assert "bn1.running_mean" in body
    assert same(extractor(second, 0), body)
    assert same(extractor(third, 0), body)
    assert same(extractor(third, 1), extractor(second, 1))
    for state, newest in ((second, 1), (third, 2)):
        before, after = extractor(state, newest - 1), extractor(state, newest)
        moved = [key for key in after if not torch.equal(after[key], before[key])]
        assert moved == list(after), "all of the newest is trained, its statistics among it"
    assert [state["head.weight"].shape for state in (second, third)] == [(8, 128), (10, 192)]
    assert {key.split(".")[0] for key in third} == {"extractors", "head"}, "no auxiliary head"
    counts = [options(folder / "steps" / str(number) / "student.safetensors") for number in (1, 2, 3)]
    assert counts == [{}, {"extractors": 2}, {"extractors": 3}]
    summary = read(folder)
    trained = sum(v.numel() for k, v in third.items() if "running" not in k and "num_batches" not in k)
    assert summary["parameters"] == trained
    lengths = third["head.weight"].norm(dim=1)
    assert lengths[:8].mean().item() == pytest.approx(lengths[8:].mean().item(), rel=1e-5)
    stages = [json.loads(line) for line in (folder / "steps/1/metrics.jsonl").read_text().splitlines()]
    assert all("loss/auxiliary" not in record for record in stages), "of no use where no class is old"
    checkpoints = sorted((folder / "steps/2/checkpoints").iterdir())
    saved = read_weights(checkpoints[-1] / "distiller.safetensors")[0]
    assert saved["adapters.auxiliary.0.weight"].shape == (3, 64)


@pytest.mark.full
def test_an_expanded_student_is_judged_exported_and_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run("method=der")
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0
    accuracy = read(folder)["last"]["accuracy"]
    assert f"accuracy {accuracy:.4g}" in capsys.readouterr().out
    assert gkd("eval", str(folder / "student.safetensors"), "data.name=digits") == 0
    assert f"\naccuracy {accuracy:.4g}" in capsys.readouterr().out
    assert load_student(folder).network.embedding_dim == 192
    assert gkd("export", str(folder), "--format", "pt2", "--out", "student.pt2") == 0
    assert Path("student.pt2").stat().st_size > 3 * 4 * 70_000


@pytest.mark.full
def test_a_given_model_is_the_first_extractor_whether_it_was_expanded_or_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = (run("method=replay") / "steps" / "1" / "student.safetensors").resolve()
    folder = run("method=der", "teacher.network=resnet8", f"teacher.checkpoint={plain}")
    body = {key: values for key, values in read_weights(plain)[0].items() if not key.startswith("fc.")}
    assert same(extractor(weights(folder, 2), 0), body)
    assert options(folder / "student.safetensors") == {"extractors": 3}
    expanded = (folder / "steps" / "2" / "student.safetensors").resolve()
    later = run(
        "method=der", "teacher.network=resnet8", f"teacher.checkpoint={expanded}", "task.start_from=2",
    )  # fmt: skip
    assert options(later / "student.safetensors") == {"extractors": 3}
    assert same(extractor(weights(later, 3), 1), extractor(weights(folder, 2), 1))
    # Another method goes on with as many extractors as there are, and distils all of them.
    wa = run("method=wa", "teacher.network=resnet8", f"teacher.checkpoint={expanded}", "task.start_from=2")
    assert options(wa / "student.safetensors") == {"extractors": 2}
    assert same(extractor(weights(wa, 3), 0), body)
    capsys.readouterr()
    assert gkd("eval", str(wa)) == 0
    assert f"accuracy {read(wa)['last']['accuracy']:.4g}" in capsys.readouterr().out


def test_a_stage_of_balanced_images_trains_the_head_alone() -> None:
    """A second stage much as DER's authors have it, which a first step goes without; a network with options."""
    words = (
        "method=der",
        "method.after=[]",
        "method.stages.balance={epochs: 30, data: balanced-memory, train: [head], terms: {cross_entropy: {}}}",
        "run.epochs=4",
        "student.options={last_relu: false}",
    )
    folder = run(*words)
    records = [json.loads(line) for line in (folder / "steps/2/metrics.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(record["stage"] for record in records)) == ["expand", "balance"]
    assert options(folder / "student.safetensors") == {"last_relu": False, "extractors": 3}
    assert same(extractor(weights(folder, 3), 1), extractor(weights(folder, 2), 1))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["task.fresh_student=true"], "starts every student anew; drop task.fresh_student"),
        (["task.memory_per_class=null"], "rehearses exemplars of old classes"),
        (
            ["student.options={head: cosine}"],
            "is a CosineHead, but a method with growth: {extractor: expand} widens",
        ),
        (["student.options={extractors: 2}"], "an incremental student has one extractor and grows others"),
        (["student.options={extractors: many}"], "1 extractor or more"),
        (["method.growth.new=imprint"], "leave out new and old"),
    ],
)
def test_what_cannot_be_expanded_is_refused_in_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gkd("run", *WORDS, "method=der", *words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(Path("runs").rglob("metrics.jsonl"))
