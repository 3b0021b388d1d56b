"""What a step takes over where the network itself is expanded: DER's runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.checkpoint import read_weights
from gkd.export import load_student
from tests.cli_helpers import gkd

# Six digits, then two and two; a second a run.
WORDS = (
    "incremental/digits", "task.base=6", "task.increment=2", "task.base_epochs=2", "run.epochs=2", "run.threads=1",
    "data.batch_size=64",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Path:
    """The folder of a run on digits."""
    before = set(Path("runs").rglob("matrix.json"))
    assert gkd("run", *WORDS, *words) == 0
    (path,) = set(Path("runs").rglob("matrix.json")) - before
    return path.parent


def read(folder: Path, name: str = "summary") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


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


def test_an_expanded_student_is_judged_exported_and_asked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run("method=der")
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0
    accuracy = read(folder)["last"]["accuracy"]
    assert f"accuracy {accuracy:.4g}" in capsys.readouterr().out
    assert gkd("eval", str(folder / "student.safetensors"), "data.name=digits") == 0
    assert f"{accuracy:.4g}" in capsys.readouterr().out
    assert load_student(folder).network.embedding_dim == 192
    assert gkd("export", str(folder), "--format", "pt2", "--out", "student.pt2") == 0
    assert Path("student.pt2").stat().st_size > 3 * 4 * 70_000


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
