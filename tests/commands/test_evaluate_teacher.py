"""A weight file judged as a teacher, of classes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkd.models import build_network
from tests.cli_helpers import gkd, write_folders


def test_a_file_of_a_thousand_columns_is_judged_on_folders_of_wordnets_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=1000)
    with torch.no_grad():  # it answers with column 1 alone, among the shared 0 and 1 too
        network.fc.weight.zero_()
        network.fc.bias.zero_()[1] = 1
    torch.save(network.state_dict(), "w.pth")
    write_folders(tmp_path / "photos", {"n01440764_tench": 6, "n01443537": 2, "owl": 4})
    words = (
        "teacher.network=resnet8", "teacher.classes=imagenet-1k", "task.match=n\\d{8}", "data.name=folder",
        "data.root=photos", "data.validation={per_class: 1}",
    )  # fmt: skip
    assert gkd("eval", "w.pth", *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "25.00 % of the 8 test images of its 2 classes" in printed
    assert "(25.00 % among the shared columns alone)" in printed
    assert "its embedding knows the student's classes to" in printed


def test_what_a_file_says_of_its_network_and_classes_need_not_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    header = {"network": "resnet8", "classes": json.dumps(["owl", "fox"])}
    save_file(build_network("resnet8", num_classes=2).state_dict(), "w.safetensors", header)
    write_folders(tmp_path / "photos", {"owl": 3, "hen": 3})
    words = ("data.name=folder", "data.root=photos", "data.validation={per_class: 1}")
    assert gkd("eval", "w.safetensors", *words, "teacher.classes=file") == 0
    assert "of the 3 test images of its 1 classes" in " ".join(capsys.readouterr().out.split())
    assert gkd("eval", "w.safetensors", "teacher.classes=file") == 2
    assert "data" in capsys.readouterr().err
