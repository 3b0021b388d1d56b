r"""Strings from outside, made fit for where they are shown: one function for each place.

The name of a class, a file or a config may hold anything: the escapes of a terminal, marks that turn the reading
direction, line breaks, the markup of rich, Markdown and matplotlib, the beginning of a spreadsheet's formula, bytes
that are no text. What cannot be seen becomes its escape, as in ``\x1b``. Ordinary names stay as they are.
"""

from __future__ import annotations

import hashlib
import re
import sys
import textwrap
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_JOINERS = "\u200c\u200d"  # they shape words and emoji, and hide nothing
# gkd's own signs, where a terminal has none but ASCII.
_ASCII = {
    "±": "+/-", "×": "x", "·": "*", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "Δ": "difference",
    "²": "^2", "≤": "<=", "≥": ">=", "σ": "sigma", "τ": "tau",
}  # fmt: skip
LONGEST_FILE_NAME = 250  # bytes; file systems take 255, and an ending comes behind
_MOST_COLUMNS = 100  # of lines on a terminal, however wide it is
_LONGEST_LABEL = 60  # characters in a plot
_HASH_DIGITS = 8


def visible(text: str, keep: str = "") -> str:
    r"""The text in one line, each character that shows nothing of its own as its escape, such as ``\x1b``.

    Args:
        text: any string.
        keep: characters that stay, such as the line break.
    """
    if text.isprintable():
        return text
    return "".join(each if each in keep or _is_seen(each) else _escape(each) for each in text)


def _is_seen(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def decoded(name: str) -> str:
    r"""A name from the file system whose bytes are no UTF-8, with each such byte as its escape (``caf\xe9``)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def for_terminal(text: str, encoding: str | None = "utf-8") -> str:
    """Lines that a terminal shows as they are; what the encoding lacks is spelled in ASCII or escaped."""
    shown, encoding = visible(text, keep="\n"), encoding or "utf-8"
    if _encodes(shown, encoding):
        return shown
    return "".join(each if _encodes(each, encoding) else _ASCII.get(each, _escape(each)) for each in shown)


def _encodes(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def say(console: Console, text: str, *, end: str = "\n", wrap: bool = True) -> None:
    """Print lines on a console as they are: no markup, no colours, no emoji in the place of ``:names:``.

    Args:
        console: where to.
        text: the lines.
        end: what follows them.
        wrap: whether lines that are longer than a terminal's (``text_width``) are broken at spaces.
    """
    shown, width = for_terminal(text, console.encoding), text_width(console)
    if wrap and width is not None:
        shown = "\n".join(wrapped(line, width) for line in shown.split("\n"))
    console.print(shown, end=end, markup=False, highlight=False, emoji=False, soft_wrap=True)


def complain(sentence: str) -> None:
    """Print a sentence of gkd's on standard error, beside what a verb answers."""
    print(for_terminal(f"gkd: {sentence}", sys.stderr.encoding), file=sys.stderr)


def text_width(console: Console) -> int | None:
    """The columns that text takes on a terminal, 100 at most; None where the output is a file or a pipe."""
    return min(console.width, _MOST_COLUMNS) if console.is_terminal else None


def wrapped(line: str, width: int) -> str:
    """A line broken at spaces, further ones under its text where it begins with a name and two spaces or more.

    A word that is longer stays whole, so that a path can be copied.
    """
    if len(line) <= width:
        return line
    name = re.match(r"\s*\S+ {2,}", line)
    indent = len(name[0]) if name is not None and len(name[0]) <= width // 2 else 2
    parts = textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts)


def for_file_name(text: str, longest: int = LONGEST_FILE_NAME) -> str:
    """The name of one file or folder: no path, neither ``.`` nor ``..``, and short enough; two texts have two names.

    Args:
        text: any string.
        longest: bytes that the name may take.
    """
    safe = visible(text).replace("/", "_")
    if not safe.strip("."):
        safe = safe.replace(".", "_") or "_"
    if len(safe.encode()) > longest:
        safe = safe.encode()[: longest - _HASH_DIGITS - 1].decode(errors="ignore")
    if safe == text:
        return text
    room = longest - _HASH_DIGITS - 1
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{safe.encode()[:room].decode(errors='ignore')}-{digest}"


def for_plot(text: str) -> str:
    """A label of a plot, which matplotlib draws as it is: no formula between dollars, at most 60 characters."""
    shown = visible(text)
    if len(shown) > _LONGEST_LABEL:
        shown = f"{shown[: _LONGEST_LABEL - 1]}…"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # a legend leaves labels out that begin with _


def for_markdown(text: str) -> str:
    """Text within a line or a table of Markdown, which shows it as it is."""
    shown = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", visible(text))
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", shown)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", shown)  # within a word it is no emphasis


def code_in_markdown(text: str) -> str:
    """Text as code within a line of Markdown, between more backticks than it has itself in a row."""
    shown = visible(text)
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def for_csv(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if re.match(r"\s*[=+\-@]", shown) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
