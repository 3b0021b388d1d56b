"""The kinds of faults, tried: a few of them here, a tenth in the full suite, all by ``make faults``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import configs, crashes, kills
from tests.faults.commands import in_this_process
from tests.faults.file_operations import ERRORS
from tests.faults.kinds import KINDS
from tests.faults.scenarios import ALONE
from tests.faults.verdict import Verdict
from tests.faults.workshop import Workshop


def failed(try_one: Callable[[int, Workshop], Verdict], numbers: range, workshop: Workshop) -> dict[int, str]:
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
    assert failed(kills.try_one, range(2), workshop) == {}


def test_ten_errors_at_operations_on_files_lose_nothing(at_hand: Workshop) -> None:
    assert failed(crashes.try_one, range(10), at_hand) == {}


def test_a_hundred_wrong_configs_end_in_sentences(at_hand: Workshop) -> None:
    assert failed(configs.try_one, range(100), at_hand) == {}


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


def test_a_fault_is_told_apart_from_its_absence(tmp_path: Path, at_hand: Workshop) -> None:
    """A result that was changed in silence, one that is missing, and an exception are seen."""
    reference = at_hand.reference("alone")
    assert [operation.split()[0] for operation in reference.operations].count("replace") > 5
