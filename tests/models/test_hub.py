"""Files on the hub: out of its cache, where a file of random weights stands here; and from a stand-in for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from gkd.config.schema import Teacher
from gkd.core.errors import UserError
from gkd.models.hub import hub_file
from gkd.models.pretrained import describe, pretrained_file
from gkd.storage.weights import read_weights, tensors_hash
from tests.hub_stand_in import hub_stand_in
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


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub would ask for most of a minute."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    nobody = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nobody)

    def asked_again(*_about: object, **_named: object) -> None:
        raise AssertionError("the hub was asked again")

    for name in ("huggingface_hub.hf_hub_download", "timm.create_model", "gkd.models.pretrained.whole_clip"):
        monkeypatch.setattr(name, asked_again)
    for fetch in (
        lambda: hub_file("hf://someone/else/model.safetensors"),
        lambda: pretrained_file(describe("timm/resnet10t")),
        lambda: pretrained_file(describe("open_clip/RN50")),
    ):
        with pytest.raises(UserError) as caught:
            fetch()
        assert caught.value.code == "weights-not-fetched"
        assert "asked again" not in str(caught.value)


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused("package-missing"):
        hub_file("hf://someone/small/model.safetensors")


FILE = "timm/resnet10t.c3_in1k/model.safetensors"
TEACHES = (
    "run", "cross_task/digits", "task={name: cross_task, size: null, shift: 0}", "data.channels=3", "method=sp",
    "run.epochs=1", "run.threads=1",
)  # fmt: skip
TEACHER = "teacher={{network: timm/resnet10t, image_size: 32, {}}}".format
BY_ADDRESS, BY_NAME = TEACHER(f"classes: imagenet-1k, checkpoint: 'hf://{FILE}'"), TEACHER("pretrained: true")


@pytest.fixture
def gkd_by(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``gkd_by(endpoint, cache, *words)``: a process of its own, for the hub's library reads both when imported."""

    def call(endpoint: str, cache: str, *words: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gkd", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    return call


@pytest.mark.full
def test_weights_come_from_the_hub_over_a_cut_connection_and_later_from_its_cache(
    tmp_path: Path, gkd_by: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    theirs = timm.create_model("resnet10t")
    with hub_stand_in({FILE: save(theirs.state_dict())}, cut=1) as hub:
        first = gkd_by(hub.endpoint, "one", *TEACHES, BY_ADDRESS)
        assert first.returncode == 0, first.stderr
        asked = [line for line in hub.asked if line.startswith("GET") and "model.safetensors" in line]
        assert len(asked) == 2  # it went on where it was cut
        assert int(asked[1].partition(" from ")[2]) > 10**6
        hub.asked.clear()
        by_name = gkd_by(hub.endpoint, "two", *TEACHES, BY_NAME, "--dry-run")
        assert by_name.returncode == 0, by_name.stderr
        assert any(line.startswith("GET") and "model.safetensors" in line for line in hub.asked)
        elsewhere = TEACHER("classes: null, checkpoint: 'hf://timm/resnet10t.c3_in1k/weights.pth'")
        missing = gkd_by(hub.endpoint, "one", *TEACHES, elsewhere, "--dry-run")
        assert one_sentence(missing, "weights.pth cannot be had here")
    (path,) = (tmp_path / "runs").rglob("summary.json")
    assert json.loads(path.read_text())["relation"]["kind"] == "disjoint"
    for cache, teacher in (("one", BY_ADDRESS), ("two", BY_NAME)):  # the hub is gone
        again = gkd_by(hub.endpoint, cache, *TEACHES, teacher, "--dry-run")
        assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.full
@pytest.mark.parametrize("teacher", [BY_ADDRESS, BY_NAME], ids=["checkpoint", "pretrained"])
def test_a_hub_that_nobody_answers_for_is_a_sentence(
    teacher: str, gkd_by: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with hub_stand_in({}) as hub:
        gone = hub.endpoint
    assert one_sentence(gkd_by(gone, "none", *TEACHES, teacher, "--dry-run"), "cannot be had here")


def one_sentence(done: subprocess.CompletedProcess[str], part: str) -> bool:
    """Whether a command ended as on bad input, and said no more than why: no retries, which take half a minute."""
    (line,) = done.stderr.splitlines()
    return done.returncode == 2 and line.startswith("gkd: ") and part in line
