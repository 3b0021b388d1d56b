"""Puts tables and files of the repository into the pages that show them: ``python docs/embed.py``.

A page holds ``<!-- table: PATH -->`` (the first paragraph of a Markdown file: its table),
``<!-- file: PATH -->`` (a whole file as a code block) or ``<!-- code: NAME -->`` (a table that
``docs/tables.py`` writes from the code), up to ``<!-- end of table -->``. What stands between
is replaced, so that no number in a page is typed by hand.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from tables import GENERATED

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "parity" / "README.md",
)
_BLOCK = re.compile(
    r"(<!-- (table|file|code): (\S+) -->\n).*?(<!-- end of (?:table|file) -->)", flags=re.DOTALL
)


def sources(page: str) -> list[str]:
    """The paths that a page takes its blocks from."""
    return [match[3] for match in _BLOCK.finditer(page) if match[2] != "code"]


def refreshed(page: str) -> str:
    """The page with every block as its file is now."""

    def block(match: re.Match[str]) -> str:
        if match[2] == "code":
            return f"{match[1]}{GENERATED[match[3]]()}\n{match[4]}"
        path = ROOT / match[3]
        content = path.read_text().strip()
        if match[2] == "table":
            content = content.split("\n\n")[0]
        else:
            content = f"```{path.suffix.removeprefix('.')}\n{content}\n```"
        return f"{match[1]}{content}\n{match[4]}"

    return _BLOCK.sub(block, page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(refreshed(path.read_text()))
