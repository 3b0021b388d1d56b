"""Equal tensors and metadata are equal bytes, which the library of the format reads as they were."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gkd.storage.safetensors_format import write_safetensors
from tests.refusals import refused

TENSORS = {
    "fc.weight": torch.arange(6.0).view(2, 3),
    "double": torch.tensor([1.5, -2.5], dtype=torch.float64),
    "half": torch.tensor([[0.5]], dtype=torch.float16),
    "brain": torch.tensor([0.25, 3.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "small": torch.tensor([-3, 4], dtype=torch.int32),
    "short": torch.tensor([-3], dtype=torch.int16),
    "signed": torch.tensor([-1, 0, 1], dtype=torch.int8),
    "pixels": torch.tensor([0, 255], dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "none": torch.zeros(0, 4),
}
METADATA = {"network": "resnet8", "classes": '["é", "\\"", "日本"]', "method": "a\nb", "options": "{}"}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_safetensors(path, TENSORS, METADATA)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == set(TENSORS)
        for name, tensor in TENSORS.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert found.equal(tensor), name
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    for entry in json.loads(path.read_bytes()[8 : 8 + length]).values():
        if "dtype" in entry and entry["dtype"].endswith("64"):
            assert entry["data_offsets"][0] % 8 == 0  # aligned for readers that map the file


def test_equal_content_is_equal_bytes_in_whatever_order_it_came(tmp_path: Path) -> None:
    written = set()
    for number, order in enumerate(itertools.permutations(METADATA)):
        path = tmp_path / f"{number}.safetensors"
        names = sorted(TENSORS, reverse=bool(number % 2))
        write_safetensors(
            path, {name: TENSORS[name] for name in names}, {key: METADATA[key] for key in order}
        )
        written.add(path.read_bytes())
    assert len(written) == 1
    write_safetensors(path, TENSORS, {})
    assert path.read_bytes() not in written
    with safe_open(path, framework="pt") as file:
        assert file.metadata() is None


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_type_that_no_weight_file_holds_is_told(tmp_path: Path, dtype: torch.dtype) -> None:
    with refused("unknown-dtype"):
        write_safetensors(tmp_path / "w.safetensors", {"phase": torch.zeros(2).to(dtype)}, {})
    assert list(tmp_path.iterdir()) == []
