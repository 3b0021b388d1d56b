"""Files of class vectors: a tensor under each name, or one matrix whose header names its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkd.core.class_vectors import ClassVectors
from gkd.core.labels import LabelSpace
from gkd.storage.class_vector_files import read_class_vectors, write_class_vectors
from tests.refusals import refused

VECTORS = torch.arange(6.0).reshape(3, 2)


def test_both_layouts_are_read(tmp_path: Path) -> None:
    path, space = tmp_path / "names.safetensors", LabelSpace(["c", "a", "b/ä"])
    write_class_vectors(path, ClassVectors(space, VECTORS))
    assert torch.equal(read_class_vectors(path).ordered(space), VECTORS)
    save_file({"w": VECTORS.half()}, path, {"classes": json.dumps(space.names)})
    found = read_class_vectors(path)
    assert found.space == space
    assert torch.equal(found.vectors, VECTORS)


@pytest.mark.parametrize(
    ("tensors", "header", "code"),
    [
        ({"a": VECTORS}, {}, "file-unreadable"),
        ({"a": VECTORS[0], "b": VECTORS[:, 0]}, {}, "file-unreadable"),
        ({"a": VECTORS}, {"classes": '["a", "b"]'}, "file-unreadable"),
        ({"a": VECTORS}, {"classes": "a, b, c"}, "file-unreadable"),
        ({"a": VECTORS}, {"classes": "[[], 1, 2]"}, "file-unreadable"),
        ({"a": torch.tensor([float("nan")])}, {}, "weights-not-finite"),
    ],
)
def test_another_file_is_a_sentence(
    tensors: dict[str, torch.Tensor], header: dict[str, str], code: str, tmp_path: Path
) -> None:
    path = tmp_path / "names.safetensors"
    save_file({name: values.contiguous() for name, values in tensors.items()}, path, header)
    with refused(code):
        read_class_vectors(path)


def test_a_file_that_is_not_there_or_is_none_is_a_sentence(tmp_path: Path) -> None:
    with refused("file-missing"):
        read_class_vectors(tmp_path / "nowhere.safetensors")
    (tmp_path / "x.safetensors").write_text("no")
    with refused("file-unreadable"):
        read_class_vectors(tmp_path / "x.safetensors")
    with refused("file-unreadable"):
        read_class_vectors(tmp_path)
