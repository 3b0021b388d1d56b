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


# What a stranger looks for: any of these files, reached from README.md over three links or fewer.
SOUGHT = {
    "the loop": ["gkd/training/loop.py"],
    "a loss": ["gkd/losses/*.py"],
    "a task": ["tasks/*.py"],
    "a method": ["configs/methods/*.yaml"],
    "the plug-in example": ["examples/plugin", "examples/plugin/*"],
}


def linked(page):
    """The files and folders that a page links to; another kind of file leads no further."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()) if page.suffix == ".md" else []
    return {(page.parent / target).resolve() for target in targets}


def reached(start, steps):
    """What is reached from a page over at most this many links."""
    pages = {start}
    for _ in range(steps):
        pages |= {target for page in pages if page.is_file() for target in linked(page)}
    return pages


@pytest.mark.parametrize("what", SOUGHT)
def test_a_stranger_walks_there_from_the_readme(what):
    sought = {
        path.resolve()
        for pattern in SOUGHT[what]
        for path in ROOT.glob(pattern)
        if path.name != "__init__.py"
    }
    assert sought, f"no file of {SOUGHT[what]}"
    assert sought & reached(ROOT / "README.md", 3)


def test_what_takes_more_links_is_not_reached(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.md").write_text(f"[on]({number + 1}.md)")
    (tmp_path / "4.md").write_text("the end")
    assert tmp_path / "3.md" in reached(tmp_path / "0.md", 3)
    assert tmp_path / "4.md" not in reached(tmp_path / "0.md", 3)
