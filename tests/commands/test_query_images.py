"""The images that a command is asked about: what is taken of files, folders and zips, and in which parts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from gkd.commands import query_images as module
from gkd.commands.query_images import parts, query_images
from gkd.core.errors import UserError
from gkd.data.decoding import Form
from tests.refusals import refused


def grey(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)
    return path


def test_folders_and_zips_are_walked_and_what_is_no_image_or_hidden_is_left_out(tmp_path: Path) -> None:
    files = [
        grey(tmp_path / "in" / name, 0) for name in ("b.png", "deep/er/a.PNG", ".hidden.png", ".cache/c.png")
    ]
    (tmp_path / "in" / "readme.md").touch()
    zipped = Path(shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")).rename(
        tmp_path / "IN.ZIP"
    )
    found = query_images([tmp_path / "in", files[0], zipped])
    of_zip = [zipped / "b.png", zipped / "deep/er/a.PNG"]
    assert [image.shown for image in found] == [files[0], files[1], files[0], *of_zip]


def test_parts_keep_the_order_over_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 2)
    paths = [
        grey(tmp_path / name, value)
        for value, name in enumerate(("x/0.png", "1.png", "x/2.png", "1b.png", "y/4.png"))
    ]
    read = list(parts(query_images(paths), Form(1, 4)))
    assert [len(images) for _, images in read] == [2, 2, 1]
    assert [name for names, _ in read for name in names] == paths
    pixels = torch.cat([images.images for _, images in read])
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_what_is_not_there_or_empty_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with refused("query-missing"):
        query_images([Path("none.png")])
    with refused("no-image-inside"):
        query_images([Path("empty")])
    os.symlink("nowhere", "link.png")
    with refused("query-missing"):
        query_images([Path("link.png")])


def test_broken_files_are_counted(tmp_path: Path) -> None:
    grey(tmp_path / "a.png", 1)
    for name in ("b.png", "c.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(UserError, match=r"'b.png' in .* cannot be decoded .* So it is with 1 more\."):
        list(parts(query_images([tmp_path]), Form(1, 4)))
