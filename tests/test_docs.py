"""README and docs tell the truth: their blocks are the repository's files, their links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("embed", ROOT / "docs" / "embed.py")
assert _spec is not None
assert _spec.loader is not None
embed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(embed)
PAGES = [*embed.PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_are_the_files_that_they_name(path):
    text = path.read_text()
    assert embed.refreshed(text) == text, "run python docs/embed.py"


def test_the_readme_shows_the_quickstart():
    expected = ["benchmarks/results/quickstart/table.md", "configs/quickstart.yaml"]
    assert embed.sources((ROOT / "README.md").read_text()) == expected


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_names_a_machine_path(path):
    assert not re.search(r"(^|[\s`(])/(home|root|tmp|work|opt)/", path.read_text())
