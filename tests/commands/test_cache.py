"""What the cache holds, and what is removed of it: the outputs of teachers, and nothing else."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

from gkd.commands.cache import Group, clear_outputs, in_cache
from gkd.distill.output_files import OutputFiles
from gkd.storage.cache_folder import NAMES, OUTPUTS
from tests.cli_helpers import FAST, gkd, start
from tests.processes import Child
from tests.refusals import refused


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two views of 3 KiB, decoded images, a fetched data set, and files that are not gkd's."""
    monkeypatch.setenv("GKD_CACHE", str(tmp_path))
    files = OutputFiles(tmp_path / OUTPUTS, ["k"])
    for path, size in {
        files.path(0): 3072, files.path(11): 3072, tmp_path / OUTPUTS / "notes.safetensors": 5,
        tmp_path / "abc.safetensors": 2048, tmp_path / "abc.txt": 10, tmp_path / "mine.zip": 7,
        tmp_path / NAMES / "d.safetensors": 9, tmp_path / "datasets" / "a" / "b.bin": 3 * 2**20,
    }.items():  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path


def test_sizes_are_in_the_unit_that_fits() -> None:
    sizes = {
        0: "0 bytes",
        1023: "1023 bytes",
        1024: "1.0 KiB",
        1536 * 2**20: "1.5 GiB",
        2**60: "1048576.0 TiB",
    }
    assert [Group(1, size).size for size in sizes] == list(sizes.values())


def test_the_cache_is_shown_and_cleared_of_outputs(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gkd("ls", "cache") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"cache in {cache}:",
        "  teacher outputs        2 files    6.0 KiB",
        "  decoded images         2 files    2.0 KiB",
        "  class names            1 files    9 bytes",
        "  fetched data sets      1 files    3.0 MiB",
    ]
    others = {path for path in cache.rglob("*") if path.is_file()} - set((cache / OUTPUTS).glob("*-*"))
    assert gkd("ls", "cache", "--clear") == 0
    assert capsys.readouterr().out == f"removed 2 files of teacher outputs, 6.0 KiB, from {cache}\n"
    assert {path for path in cache.rglob("*") if path.is_file()} == others
    assert clear_outputs() == Group(0, 0)


def test_what_killed_writers_left_is_cleared_and_what_is_being_written_is_not(cache: Path) -> None:
    left, living = (cache / OUTPUTS / f".gkd-{digit * 16}.tmp.safetensors" for digit in "ab")
    left.write_bytes(b"half")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_outputs()
        assert not left.exists()
        assert living.exists()


@pytest.mark.full
def test_runs_at_once_and_after_share_outputs_and_end_as_with_memory(
    cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes start together on one empty cache; a third is killed and started again."""
    clear_outputs()
    where = tmp_path_factory.mktemp("runs")
    words = ("run", "cross_task/digits", "data.views=2", "data.subset_seed=0", *FAST)

    def begun(name: str, method: str, *more: str) -> Child:
        return start(*words, f"method={method}", f"run.out={name}", *more, cwd=where)

    def weights(name: str) -> dict[str, bytes]:
        found = (where / name).glob("cross_task/digits/*/seed*/student*.safetensors")
        return {str(path.relative_to(where / name)): path.read_bytes() for path in found}

    disk = "run.teacher_cache=disk"
    for method in ("kd", "sp"):
        together = [begun(f"{method}{number}", method, disk) for number in (1, 2)]
        in_memory = begun(method, method)
        for child in (*together, in_memory):
            assert child.wait(120) == 0, child.output()
        assert weights(f"{method}1") == weights(f"{method}2") == weights(method)
        assert len(weights(method)) == 2
    held = in_cache()["teacher outputs"]
    assert held.count == 2
    again = begun("again", "kd", disk, "run.checkpoint_seconds=0", "run.epochs=60")
    while not list(where.glob("again/cross_task/digits/*/seed0/checkpoints/*")):
        assert again.poll() is None
        time.sleep(0.01)
    again.kill()
    again.wait(60)
    for name, more in (("again", (disk, "run.checkpoint_seconds=0")), ("whole", ())):
        assert begun(name, "kd", *more, "run.epochs=60").wait(120) == 0
    assert weights("again") == weights("whole")
    assert in_cache()["teacher outputs"] == held


def test_a_cache_that_is_not_there_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_CACHE", str(tmp_path / "none"))
    assert set(in_cache().values()) == {Group(0, 0)}
    assert clear_outputs() == Group(0, 0)


def test_a_file_that_cannot_be_removed_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    with refused("cannot-remove"):
        clear_outputs()


@pytest.mark.parametrize("words", [(), ("methods",)])
def test_only_the_cache_can_be_cleared(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert gkd("ls", *words, "--clear") == 2
    said = f"gkd ls {' '.join(words) or '--clear'} lists names, which cannot be cleared; the cache can:"
    assert said in " ".join(capsys.readouterr().err.split())
