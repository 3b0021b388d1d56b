"""The number type that a machine computes in."""

from __future__ import annotations

import pytest
import torch

from gkd.training.device import choose_dtype, use_threads
from tests.refusals import refused


def test_auto_precision_is_bf16_only_where_the_machine_has_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    assert choose_dtype("float32", cpu) == torch.float32


@pytest.mark.parametrize(("stated", "threads"), [("3", 3), ("2,4", 2), (" 1 , 1", 1)])
def test_threads_are_those_that_openmp_would_take(monkeypatch, stated, threads):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert use_threads(None) == threads
    assert use_threads(5) == 5


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("stated", ["four", "0", "-1", "4;2", "9" * 20, "1.5", ",", "²"])
def test_an_environment_variable_that_is_no_number_is_said(monkeypatch, variable, stated):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv(variable, stated)
    with refused("environment-variable"):
        use_threads(None)


def test_more_threads_than_a_machine_can_run_are_refused(monkeypatch):
    taken = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert use_threads(8) == 8
    with refused("too-many-threads"):
        use_threads(9)
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    with refused("too-many-threads"):
        use_threads(None)
    monkeypatch.setattr("os.cpu_count", lambda: 10**4)
    with refused("too-many-threads"):
        use_threads(1025)
    assert taken == [8]
