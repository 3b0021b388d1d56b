"""The kinds of faults, tried: a few of them here, a tenth in the full suite, all by ``make faults``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gkd.losses import LOSSES, cross_entropy_loss
from gkd.losses.signature import Mask
from gkd.storage.weights import read_weights, save_weights
from tests.faults import configs, crashes, kills, tensors
from tests.faults.__main__ import main
from tests.faults.changed_tensors import pickled_code, with_code
from tests.faults.commands import Ended, in_this_process
from tests.faults.file_operations import ERRORS, Operations, watched
from tests.faults.kinds import KINDS
from tests.faults.ledger import Case, write_results
from tests.faults.nasty import KEYS, STAGE_KEYS, TERM_KEYS
from tests.faults.scenarios import ALONE
from tests.faults.verdict import Outcome, Verdict, judged_by_ending, judged_by_results, survived
from tests.faults.workshop import Workshop
from tests.losses.all_specs import SPECS
from tests.scripts import script

# Kills in the midst of the least run, one at 56 % and one after another; many others strike before or after training.
BETWEEN_STEPS = (4, 9)


def failed(
    try_one: Callable[[int, Workshop], Verdict], numbers: Iterable[int], workshop: Workshop
) -> dict[int, str]:
    """Number -> outcome and what was seen, of the cases that did not survive."""
    verdicts = {number: try_one(number, workshop) for number in numbers}
    return {number: f"{each.outcome}: {each.told}" for number, each in verdicts.items() if each.failed}


@pytest.fixture(scope="module")
def at_hand(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The smallest run, in this process, which must not die."""
    root = tmp_path_factory.mktemp("faults")
    return Workshop(root, in_this_process, scenarios=(ALONE,), faults=tuple(ERRORS), may_die=False)


def test_two_kills_lose_nothing(at_hand: Workshop) -> None:
    workshop = Workshop(at_hand.root / "killed", scenarios=(ALONE,))
    assert failed(kills.try_one, BETWEEN_STEPS, workshop) == {}


def test_ten_errors_at_operations_on_files_lose_nothing(at_hand: Workshop) -> None:
    assert failed(crashes.try_one, range(10), at_hand) == {}


def test_a_hundred_wrong_configs_end_in_sentences(at_hand: Workshop) -> None:
    assert failed(configs.try_one, range(100), at_hand) == {}


def test_every_key_of_a_config_gets_wrong_values() -> None:
    listed = [key.dotted for keys in script("docs/reference.py").sections().values() for key in keys]
    keys = {key.replace("teachers.NAME", "teachers.a") for key in listed}
    tried = {
        *KEYS,
        *(f"method.stages.STAGE.{key}" for key in STAGE_KEYS),
        *(f"method.stages.STAGE.terms.TERM.{key}" for key in TERM_KEYS),
    }
    rows = {key for key in keys if "[]" in key}  # of a list, which gets wrong values as a whole
    assert keys - rows - tried == set()


@pytest.mark.parametrize("how", list(pickled_code(Path("canary"))))
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_so_where_it_is_let(tmp_path: Path, how: str, zipped: bool) -> None:
    canary = tmp_path / "canary"
    content = with_code(how, {"w": torch.zeros(1)}, canary, zipped=zipped)
    assert not canary.exists()
    with contextlib.suppress(
        RuntimeError
    ):  # a bare pickle is no torch file, which torch sees when it is loaded
        torch.load(io.BytesIO(content), weights_only=False)
    assert canary.exists()


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_a_tenth_of_every_kind(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    workshop = Workshop(tmp_path_factory.mktemp("faults"))
    assert failed(KINDS[kind].try_one, range(0, KINDS[kind].COUNT, 10), workshop) == {}


def test_the_kinds_are_of_the_promised_sizes() -> None:
    sizes = {name: kind.COUNT for name, kind in KINDS.items()}
    assert sizes == {
        "kills": 200, "crashes": 200, "damaged_files": 200, "configs": 2000, "weight_files": 600, "tensors": 5000,
    }  # fmt: skip


def _forgets_the_mask(student_logits: Tensor, labels: Tensor, *, mask: Mask = None) -> Tensor:
    return cross_entropy_loss(student_logits, labels)


def _has_twice_its_gradient_under_a_mask(
    student_logits: Tensor, labels: Tensor, *, mask: Mask = None
) -> Tensor:
    value = cross_entropy_loss(student_logits, labels, mask=mask)
    return value if mask is None else 2 * value - value.detach()


def _multiplies_by_the_mask(student_logits: Tensor, labels: Tensor, *, mask: Mask = None) -> Tensor:
    mask = torch.ones(len(labels), dtype=torch.bool) if mask is None else mask
    rows = -student_logits.float().log_softmax(1).gather(1, labels[:, None].long())[:, 0]
    return (mask * rows).sum() / mask.sum().clamp_min(1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (_forgets_the_mask, "its rows alone"),
        (_has_twice_its_gradient_under_a_mask, "gradient of student_logits that is"),
        (_multiplies_by_the_mask, "gives nan, its rows alone"),
    ],
)
def test_a_loss_that_is_wrong_is_seen(
    wrong: Callable[..., Tensor], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cross_entropy"
    places = range(list(LOSSES).index(name), tensors.COUNT, len(LOSSES))
    monkeypatch.setitem(LOSSES, name, replace(LOSSES[name], function=wrong))
    monkeypatch.setitem(SPECS, name, replace(SPECS[name], options=({},)))
    seen = [each.told for each in map(tensors.try_one, places) if each.outcome is Outcome.DIFFERENT]
    assert any(said in told for told in seen), seen


def test_results_that_were_changed_in_silence_are_seen(tmp_path: Path, at_hand: Workshop) -> None:
    """Other weights, another number in a summary, a record and a file that are gone, a file of other content."""
    reference, well = at_hand.reference(ALONE), Ended(0, "", "", 0.0)
    (run,) = [path.parent for path in reference.folder.glob("runs/faults/*/seed0/summary.json")]
    place = run.relative_to(reference.folder)

    def other_weights(folder: Path) -> None:
        tensors, metadata = read_weights(folder / "student.safetensors")
        tensors["fc.bias"][0] += 1
        save_weights(folder / "student.safetensors", tensors, metadata)

    def other_number(folder: Path) -> None:
        summary = json.loads((folder / "summary.json").read_text())
        summary["last"]["accuracy"] += 1
        (folder / "summary.json").write_text(json.dumps(summary))

    def lost_record(folder: Path) -> None:
        (folder / "metrics.jsonl").write_text("")

    def lost_file(folder: Path) -> None:
        (folder / "correct.json").unlink()

    def other_config(folder: Path) -> None:  # which no snapshot holds, but the summary's manifest
        (folder / "config.yaml").write_text("")

    for number, change in enumerate((other_weights, other_number, lost_record, lost_file, other_config)):
        folder = tmp_path / str(number)
        shutil.copytree(reference.folder, folder)
        assert judged_by_results("left alone", well, reference.results, folder).outcome is Outcome.SURVIVED
        change(folder / place)
        found = judged_by_results("changed", well, reference.results, folder)
        assert found.outcome is Outcome.DIFFERENT, change.__name__


@pytest.mark.parametrize(
    ("code", "err", "outcome"),
    [
        (0, "", None),
        (2, "gkd: a.yaml has 2 mistakes:\n  data: nothing is there.", None),
        (2, "Segmentation fault", Outcome.TRACEBACK),
        (1, "Traceback (most recent call last):\nValueError: no", Outcome.TRACEBACK),
        (0, "Traceback (most recent call last):\nValueError: in a thread", Outcome.TRACEBACK),
        (-11, "", Outcome.LOST),
        (None, "", Outcome.LOST),
    ],
)
def test_how_a_command_ended_is_told(code: int | None, err: str, outcome: Outcome | None) -> None:
    verdict = judged_by_ending("a fault", Ended(code, "", err, 1.0))
    assert (verdict.outcome if verdict else None) is outcome


def test_an_operation_on_files_fails_as_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four operations the third; before it a full disk leaves half of what was written."""
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        Path("made").mkdir()
        Path("made/text").write_text("12345678")
        os.replace("made/text", "made/final")

    with watched(operations := Operations()):
        work()
        Path("/dev/null").read_text()  # not below this folder
    assert operations.made == ["mkdir made", "open made/text", "write made/text", "replace made/text"]
    shutil.rmtree("made")
    with watched(Operations(2, "no space")), pytest.raises(OSError, match="No space left"):
        work()
    assert Path("made/text").read_text() == "1234"
    assert open is io.open  # all is as it was


def test_a_series_goes_on_and_tells_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def third_fails(number: int, workshop: Workshop) -> Verdict:
        seen.append(number)
        return Verdict(Outcome.LOST, "gone") if number == 2 else survived("well")

    kinds = {"toys": SimpleNamespace(COUNT=5, try_one=third_fails)}
    monkeypatch.setattr("tests.faults.__main__.KINDS", kinds)
    words = ["--ledger", str(tmp_path), "toys"]
    written: list[object] = []
    monkeypatch.setattr("tests.faults.__main__.write_results", written.append)
    assert main([*words, "--minutes", "0"]) == 0  # one case, and time is up
    assert seen == [0]
    assert "4 cases are not tried yet" in capsys.readouterr().out
    assert written == []
    assert main(words) == 1
    assert seen == [0, 1, 2, 3, 4]
    out = capsys.readouterr().out
    assert "python -m tests.faults toys --only 2" in out
    assert "| toys | 5 | 4 | 1 | 0 | 0 | 0.0 |" in out
    assert len(written) == 1
    assert main([*words, "--minutes", "0", "--partly"]) == 1  # nothing is missing
    assert len(written) == 2
    assert main([*words, "--only", "2"]) == 1
    assert "lost: gone" in capsys.readouterr().out


def test_results_hold_the_counts_and_how_to_repeat_what_failed(tmp_path: Path) -> None:
    cases = [Case("kills", 0, "survived", "well", 60.0), Case("kills", 7, "lost", "gone", 60.0)]
    write_results({"kills": cases}, tmp_path / "faults.json")
    content = json.loads((tmp_path / "faults.json").read_text())
    assert content["kinds"] == {
        "kills": {"tried": 2, "survived": 1, "lost": 1, "silently different": 0, "traceback": 0}
    }
    assert [each["repeat"] for each in content["failed"]] == ["python -m tests.faults kills --only 7"]
    assert "| kills | 2 | 1 | 1 | 0 | 0 | 2.0 |" in (tmp_path / "faults.md").read_text()
