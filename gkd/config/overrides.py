"""The form of an override, ``a.b=c``; it needs no schema, so the command line knows one before it imports torch."""

from __future__ import annotations

import re
from pathlib import Path

# The sections of an experiment file, in their order.
SECTIONS = (
    "task",
    "data",
    "teacher",
    "teachers",
    "student",
    "method",
    "optimiser",
    "evaluate",
    "run",
    "compare",
)
_KEY = re.compile(r"[\w\-]+(\.[\w\-/]+)*")


def split_override(word: str) -> tuple[str, str] | None:
    """Dotted key and value of a word of the form ``a.b=c``; None for any other."""
    key, equals, value = word.partition("=")
    return (key, value) if equals and _KEY.fullmatch(key) else None


def is_override(word: str) -> bool:
    """Whether a word that may name a file as well is an override: a section or a dotted key, and no file that is there.

    ``student.network=my:net`` is one, ``a=b.png`` is not, and ``./run.seed=1`` is a file whatever it is called.
    """
    parts = split_override(word)
    return parts is not None and ("." in parts[0] or parts[0] in SECTIONS) and not Path(word).exists()


def why_no_override(word: str) -> str:
    """What a shell made of an override that was typed with spaces, or with braces and no quotes; or nothing."""
    if is_cut(word):
        return f"; {QUOTE}"
    if "=" not in word or split_override("".join(word.split())) is not None:
        return "; it is one word, without spaces around ="
    return ""


QUOTE = "a shell cuts a word at spaces and braces, so put the whole word in quotes"


def is_cut(text: str) -> bool:
    """Whether a text has brackets or braces that are not closed, or closes some that it has not."""
    return any(text.count(opened) != text.count(closed) for opened, closed in ("[]", "{}"))
