"""Files of a teacher's outputs: shared, whole or absent, and made anew where they cannot be used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gkd.core.network import Features
from gkd.distill.output_files import OutputFiles
from gkd.storage import mapped_rows
from gkd.storage.cache_folder import OUTPUT_FILE


def outputs(number: float = 1.0) -> Features:
    maps = (torch.empty(0), torch.full((4, 2, 3, 3), number))
    return Features(torch.full((4, 3), number), torch.full((4, 5), number), maps)


def equal(one: Features | None, other: Features) -> bool:
    assert one is not None
    pairs = zip(
        (one.logits, one.embedding, *one.maps), (other.logits, other.embedding, *other.maps), strict=True
    )
    return all(torch.equal(first, second) for first, second in pairs)


def test_a_view_is_found_by_its_key_and_number(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path / "below", ["weights", "images"])
    assert files.read(0, 4) is None
    assert files.write(0, 4, [outputs()], views=2)
    assert equal(OutputFiles(tmp_path / "below", ["weights", "images"]).read(0, 4), outputs())
    assert files.read(1, 4) is None
    assert files.write(1, 4, [outputs(2.0)], views=2)
    assert equal(files.read(1, 4), outputs(2.0))
    assert equal(files.read(0, 4), outputs())
    assert OutputFiles(tmp_path / "below", ["weights", "others"]).read(0, 4) is None
    assert OutputFiles(tmp_path / "below", ["weightsimages"]).key != files.key
    assert OUTPUT_FILE.fullmatch(files.path(0).name)


def test_two_writers_of_a_view_do_not_meet(tmp_path: Path) -> None:
    """The second writes the whole view while the first is half way."""
    first, second = OutputFiles(tmp_path, ["k"]), OutputFiles(tmp_path, ["k"])
    halves = [
        Features(*(part.chunk(2)[half] for part in (outputs().logits, outputs().embedding)),
                 (torch.empty(0), outputs().maps[1].chunk(2)[half]))
        for half in (0, 1)
    ]  # fmt: skip
    seen: list[Features | None] = []

    def parts() -> Iterator[Features]:
        yield halves[0]
        seen.append(second.read(0, 4))  # half a file is no file
        assert second.write(0, 4, [outputs()], views=1)
        seen.append(second.read(0, 4))
        yield halves[1]

    assert first.write(0, 4, parts(), views=1)
    assert seen[0] is None
    assert all(equal(found, outputs()) for found in (seen[1], first.read(0, 4), second.read(0, 4)))
    assert [path.name for path in tmp_path.iterdir()] == [first.path(0).name]


def test_what_a_killed_writer_left_is_no_view_and_is_cleared(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path, ["k"])
    (tmp_path / f".gkd-{'ab' * 8}.tmp.safetensors").write_bytes(b"half")
    assert files.read(0, 4) is None
    assert files.write(0, 4, [outputs()], views=1)
    assert [path.name for path in tmp_path.iterdir()] == [files.path(0).name]


@pytest.mark.parametrize("harm", ["damaged", "of another version"])
def test_a_file_that_cannot_be_used_is_told_and_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    files = OutputFiles(tmp_path, ["k"])
    with monkeypatch.context() as earlier:
        if harm == "of another version":
            earlier.setattr(mapped_rows, "FORMAT", "gkd rows 0")
        assert files.write(0, 4, [outputs(2.0)], views=1)
    if harm == "damaged":
        files.path(0).write_bytes(files.path(0).read_bytes()[:-1])
    with pytest.warns(
        UserWarning, match=rf"-0\.safetensors is {harm}; the teacher's outputs in it are computed again"
    ):
        assert files.read(0, 4) is None
    assert files.write(0, 4, [outputs()], views=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(files.read(0, 4), outputs())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = OutputFiles(tmp_path / "file", ["k"])
    with pytest.warns(
        UserWarning, match=r"cannot be kept in .*/file \(.+\) and stay in memory; free some space"
    ):
        assert not files.write(0, 4, [outputs()], views=1)
