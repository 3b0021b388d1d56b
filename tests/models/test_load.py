"""Loading a network: built as its file says, refused where the caller says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd.core.tapped import TappedNetwork
from gkd.models import build_network, num_extractors
from gkd.models.load import load_network
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights, state_hash
from tests.refusals import refused

SAYS_ALL = WeightMetadata(
    network="wrn_10_1", classes=("cat", "dog"), mean=(0.5,), std=(0.5,), image_shape=(1, 8, 8),
    options={"dropout": 0.1, "extractors": 2}, taps={"maps": ["block1"]},
)  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A file that says all of a network with options, of two extractors."""
    network = build_network("wrn_10_1", num_classes=2, in_channels=1, **SAYS_ALL.options)
    path = tmp_path / "student.safetensors"
    save_weights(path, network.state_dict(), SAYS_ALL.to_header())
    return path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A torch file, which says nothing."""
    path = tmp_path / "student.pth"
    torch.save(build_network("resnet8", num_classes=2).state_dict(), path)
    return path


def test_a_file_that_says_all_needs_nothing_else(saved: Path) -> None:
    loaded = load_network(str(saved), taps={})
    assert loaded.metadata == SAYS_ALL
    assert num_extractors(loaded.network) == 2
    assert loaded.network.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    again = load_network(
        saved, network="wrn_10_1", classes=["cat", "dog"], options={"dropout": 0.1}, taps={}, in_channels=1
    )
    assert state_hash(again.network) == state_hash(loaded.network)


def test_the_files_taps_are_those_that_nobody_states(tmp_path: Path) -> None:
    path, network = tmp_path / "w.safetensors", build_network("wrn_10_1", num_classes=2, in_channels=1)
    metadata = WeightMetadata("wrn_10_1", ("a", "b"), image_shape=(1, 8, 8), taps={"maps": ["block1"]})
    save_weights(path, network.state_dict(), metadata.to_header())
    assert isinstance(load_network(path).network, TappedNetwork)
    assert not isinstance(load_network(path, taps={}).network, TappedNetwork)


def test_a_file_that_says_nothing_is_built_as_the_caller_states(bare: Path) -> None:
    loaded = load_network(bare, network="resnet8", classes=["cat", "dog"])
    assert loaded.metadata == WeightMetadata()
    assert loaded.network(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        ({"network": "resnet8"}, "other-network"),
        ({"network": "resnet8", "section": "student"}, "other-network"),
        ({"options": {"dropout": 0.2}}, "other-options"),
        ({"classes": ["dog", "cat"]}, "other-classes"),
        ({"num_classes": 3}, "other-classes"),
        ({"num_classes": 3, "classes": ["cat", "dog"]}, "classes-disagree"),
        ({"in_channels": 3}, "other-channels"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused(saved: Path, stated: dict[str, Any], code: str) -> None:
    with refused(code):
        load_network(saved, **{"taps": {}, **stated})


def test_what_nobody_says_is_asked_for(bare: Path) -> None:
    with refused("network-missing"):
        load_network(bare)
    with refused("classes-missing"):
        load_network(bare, network="resnet8")


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (
            {"network": "os:abort"},
            "untrusted-import",
        ),
        ({"options": json.dumps({"num_classes": 9})}, "option-reserved"),
    ],
)
def test_a_header_imports_nothing_and_names_no_argument(
    saved: Path, tmp_path: Path, entry: dict[str, str], code: str
) -> None:
    path = tmp_path / "other.safetensors"
    save_weights(path, {"w": torch.zeros(1)}, SAYS_ALL.to_header() | entry)
    with refused(code):
        load_network(path, taps={})
