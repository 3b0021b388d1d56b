"""docs/reliability.md names tests that exist, and the table of what was tried is of its results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
_NAMED = re.compile(r"\]\(\.\./(tests/[\w/]+\.py)\)`::(\w+)`")


def absent(page: str, root: Path) -> list[str]:
    """The tests that a page names and that are not there."""
    named = _NAMED.findall(page)
    return [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^def {name}\(", (root / path).read_text(), flags=re.MULTILINE)
    ]


def promises(page: str) -> list[str]:
    """The rows of the table of promises."""
    table = page.split("## Promises")[1].split("\n## ")[0]
    return [line for line in table.splitlines() if line.startswith("| ")][1:]


def test_every_promise_names_a_test_and_each_exists() -> None:
    page = PAGE.read_text()
    assert len(promises(page)) > 10
    assert [row for row in promises(page) if not _NAMED.search(row)] == []
    assert absent(page, ROOT) == []


@pytest.mark.parametrize(("name", "found"), [("test_it", []), ("test_gone", ["tests/test_a.py::test_gone"])])
def test_a_test_that_is_gone_is_seen(tmp_path: Path, name: str, found: list[str]) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("def test_it() -> None: ...\n")
    assert absent(f"[test_a.py](../tests/test_a.py)`::{name}`", tmp_path) == found
