"""Files on the hub: out of its cache, where a file of random weights stands here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm

from gkd.config.schema import Teacher
from gkd.models.hub import hub_file
from gkd.storage.weights import read_weights, tensors_hash
from tests.library_caches import empty_caches, in_hubs_cache
from tests.refusals import refused


def test_an_address_is_the_file_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches, theirs = empty_caches(tmp_path, monkeypatch), timm.create_model("resnet10t")
    in_hubs_cache(caches, "someone/small", theirs)
    for address in (
        "hf://someone/small/model.safetensors",
        f"hf://someone/small@{'0' * 40}/model.safetensors",
    ):
        assert tensors_hash(read_weights(hub_file(address))[0]) == tensors_hash(theirs.state_dict())
    section = Teacher(network="timm/resnet10t", checkpoint="hf://someone/small/model.safetensors")
    assert section.checkpoint == hub_file("hf://someone/small/model.safetensors")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("hf://someone/else/model.safetensors", "weights-not-fetched"),
        ("hf://someone/else", "hub-address"),
        ("hf:///else/model.safetensors", "hub-address"),
    ],
)
def test_an_address_without_a_file_is_a_sentence(
    address: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_caches(tmp_path, monkeypatch)
    with refused(code):
        hub_file(address)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused("package-missing"):
        hub_file("hf://someone/small/model.safetensors")
