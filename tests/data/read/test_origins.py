"""A data set that is not there is told with its layout and its address, by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.core.errors import UserError
from gkd.data import LAYOUTS, listing_of, load_images
from gkd.data.read.origins import ORIGINS
from tests.refusals import refused


def test_every_published_layout_has_an_origin() -> None:
    assert set(ORIGINS) == set(LAYOUTS) - {"folder", "step-folders"}
    assert all("//" in origin.address for origin in ORIGINS.values())


@pytest.mark.parametrize("name", sorted({origin: name for name, origin in ORIGINS.items()}.values()))
def test_a_published_set_that_is_not_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused("data-set-missing"):
        load_images(name, "train", root=tmp_path / "nowhere")
    with refused("data-set-missing"):
        listing_of(name, tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"nowhere in {tmp_path}; .*{name}"):
        load_images(name, "train", root=Path("nowhere"))


def test_images_of_ones_own_have_no_address(tmp_path: Path) -> None:
    with refused("data-root-missing"):
        load_images("folder", "train", root=tmp_path / "nowhere.zip")
