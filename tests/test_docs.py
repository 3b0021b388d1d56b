"""README and docs tell the truth: their tables and files are those of the repository, their links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def embedded(page: str) -> list[tuple[str, str]]:
    """(path, text) of every block that a page takes from a file."""
    pattern = r"<!-- (?:table|file): (\S+) -->\n(.*?)\n?<!-- end of (?:table|file) -->"
    return re.findall(pattern, page, flags=re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_embedded_blocks_are_the_files(path):
    for source, text in embedded(path.read_text()):
        content = (ROOT / source).read_text()
        table = content.split("\n\n")[0]
        shown = text.replace("```yaml\n", "").replace("\n```", "")
        assert shown.strip() == (table if source.endswith(".md") else content).strip()


def test_the_readme_shows_the_quickstart():
    sources = [source for source, _ in embedded((ROOT / "README.md").read_text())]
    assert sources == ["benchmarks/results/quickstart/table.md", "configs/quickstart.yaml"]


def test_no_page_names_a_machine_path():
    for path in PAGES:
        assert not re.search(r"(^|[\s`(])/(home|root|tmp|work|opt)/", path.read_text()), path
