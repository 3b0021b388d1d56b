"""Means on the device, the latch for the first non-finite value, and metrics.jsonl."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gkd.core.errors import UserError
from gkd.training.meter import Diverged, Meter, MetricsFile

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")


def add(meter: Meter, step: int, **values: float) -> None:
    meter.add({name.replace("__", "/"): torch.tensor(value) for name, value in values.items()}, step)


def test_it_reads_means_and_the_sum_of_empty_batches() -> None:
    meter = Meter(CPU)
    for step, (loss, empty) in enumerate([(1.0, 0.0), (2.0, 1.0), (6.0, 1.0)]):
        add(meter, step, loss=loss, loss__kd=2 * loss, empty__kd=empty)
    assert meter.read() == {"loss": 3.0, "loss/kd": 6.0, "empty/kd": 2.0}


def test_means_are_summed_in_float64() -> None:
    meter = Meter(CPU)
    for step in range(3):
        add(meter, step, loss=(1e8, 1.0, -1e8)[step])
    assert meter.read()["loss"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_non_finite_step_and_term_are_kept(value: float) -> None:
    meter = Meter(CPU)
    add(meter, 7, loss=1.0, loss__a=0.5, loss__b=0.5)
    add(meter, 8, loss=value, loss__a=0.5, loss__b=value)  # the sum breaks with its term
    add(meter, 9, loss=value, loss__a=value, loss__b=0.5)
    for look in (meter.check, meter.read):
        with pytest.raises(Diverged, match=r"^loss/b became non-finite at step 8; .* Lower optimiser.lr"):
            look()
    assert issubclass(Diverged, UserError)


def test_the_sum_is_named_where_it_broke_alone() -> None:
    meter = Meter(CPU)
    add(meter, 3, loss=INF, loss__a=1e38)
    with pytest.raises(Diverged, match=r"^loss became non-finite at step 3"):
        meter.check()


def test_a_restored_meter_goes_on() -> None:
    whole, first = Meter(CPU), Meter(CPU)
    for step in range(4):
        add(whole, step, loss=0.1 * step, loss__a=1.0)
    for step in range(2):
        add(first, step, loss=0.1 * step, loss__a=1.0)
    second = Meter(CPU)
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        add(second, step, loss=0.1 * step, loss__a=1.0)
    assert second.read() == whole.read()


@pytest.fixture
def metrics(tmp_path: Path) -> MetricsFile:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        file.add({"step": step, "loss": 0.1 * step})
    return file


def test_metrics_are_cut_back_to_a_step(metrics: MetricsFile) -> None:
    before = metrics.path.read_text().splitlines()
    metrics.cut_back(20)
    assert metrics.path.read_text().splitlines() == before[:2]
    metrics.add({"step": 25})
    assert [record["step"] for record in metrics.read()] == [10, 20, 25]
    metrics.cut_back(0)
    assert metrics.read() == []
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("rest", ['{"step": 40, "lo', '{"step": 4', "{", "\0\0\0\0"])
def test_a_half_written_last_line_is_removed(metrics: MetricsFile, rest: str) -> None:
    before = metrics.path.read_text()
    metrics.path.write_text(before + rest)
    assert [record["step"] for record in metrics.read()] == [10, 20, 30]
    metrics.cut_back(30)
    assert metrics.path.read_text() == before


@pytest.mark.parametrize(
    "damage", [b'{"step": 20, "lo', b"\xff\xfe\x00\x80", b"[1, 2]", b'{"loss": 2.0}', b'{"step": "x"}', b""]
)
def test_a_damaged_line_costs_no_other_record(metrics: MetricsFile, damage: bytes) -> None:
    first, second, third = metrics.path.read_bytes().splitlines(keepends=True)
    metrics.path.write_bytes(first + damage + b"\n" + third)
    assert [record["step"] for record in metrics.read()] == [10, 30]
    assert metrics.cut_back(30) == 1
    assert metrics.path.read_bytes() == first + third
    assert metrics.cut_back(30) == 0
    assert second not in metrics.path.read_bytes()


def test_no_record_holds_a_number_that_json_does_not_have(metrics: MetricsFile) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        metrics.add({"step": 40, "loss": float("nan")})
    assert [record["step"] for record in metrics.read()] == [10, 20, 30]


def test_metrics_start_where_there_is_no_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert file.read() == []
    file.cut_back(0)
    assert file.read() == []
