"""The corridors: imports run from floor to floor downwards, and wings of one floor form no circle."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import script

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def house() -> ModuleType:
    return script("docs/house.py")


def test_every_wing_has_a_floor(house: ModuleType) -> None:
    assert {house.wing(name) for name in house.modules()} == set(house.FLOOR_OF)


def test_no_import_runs_upwards(house: ModuleType) -> None:
    found = list(house.imports(house.modules()))
    assert len(found) > 300  # the reader reads
    assert house.upward(found) == []


def test_wings_of_one_floor_form_no_circle(house: ModuleType) -> None:
    assert house.circles(list(house.imports(house.modules()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import gkd.cli",
        "from gkd.cli import main",
        "from gkd import cli",
        "from ..cli import main",
        "def late():\n    from gkd.cli import main",
        "if TYPE_CHECKING:\n    from gkd.cli import main",
        "import gkd",
    ],
)
def test_an_import_to_a_higher_floor_is_seen_wherever_it_stands(
    house: ModuleType, tmp_path: Path, line: str
) -> None:
    planted = tmp_path / "labels.py"
    planted.write_text(f"{line}\n")
    known = {**house.modules(), "gkd.core.labels": planted}
    found = [each for each in house.upward(list(house.imports(known))) if each.importer == "gkd.core.labels"]
    assert [house.wing(each.imported) for each in found] in (["cli"], ["gkd"])


def test_a_circle_on_one_floor_is_seen(house: ModuleType) -> None:
    to_and_fro = [
        house.Import("gkd.losses.tuples", "gkd.data.images", 1),
        house.Import("gkd.data.images", "gkd.models.wrn", 1),
        house.Import("gkd.models.wrn", "gkd.losses.tuples", 1),
    ]
    assert house.circles(to_and_fro) == [("data", "losses"), ("data", "models"), ("losses", "models")]
    assert house.circles(to_and_fro[:2]) == []


def test_the_picture_is_of_the_code_as_it_is(house: ModuleType) -> None:
    committed = (ROOT / "docs" / "house.svg").read_text()
    assert committed == house.picture(), "run python docs/house.py"
    assert len(committed) < 100_000
    assert "http" not in committed.replace(
        "http://www.w3.org/2000/svg", ""
    )  # no font or style from elsewhere
    assert "prefers-color-scheme: dark" in committed


def test_an_arrow_stands_for_an_import_that_no_chain_of_others_implies(house: ModuleType) -> None:
    every = [
        house.Import("gkd.cli.run", "gkd.data.images", 1),
        house.Import("gkd.cli.run", "gkd.commands.run", 1),
        house.Import("gkd.commands.run", "gkd.data.images", 1),
        house.Import("gkd.commands.run", "gkd.commands.export", 1),
    ]
    assert house.shown_imports(every) == [("cli", "commands"), ("commands", "data")]


def test_the_page_names_the_wings_of_every_floor(house: ModuleType) -> None:
    page = (ROOT / "docs" / "concepts.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", page, flags=re.MULTILINE)
    floors = {int(number): set(re.findall(r"\[`(\w+)`\]", wings)) for number, wings in rows}
    assert floors == {number: set(wings) for number, wings in enumerate(house.FLOORS[:-1], start=1)}
