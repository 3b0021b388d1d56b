"""One link of a chain of augmentations as text: a name, and its options in brackets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gkd.core.errors import UserError

# A link's option: a number; of a library's transform also a word, true or false, none, or a list of those.
Value = float | str | bool | None | tuple["Value", ...]
Options = Mapping[str, Value]

LIBRARY = "v2:"  # before the name of a transform of torchvision.transforms.v2
RANDOM = "random"  # of random-erasing's fill

_LINK = re.compile(r"\s*((?:v2:)?[A-Za-z][A-Za-z0-9_-]*)\s*(?:\(([^()]*)\))?\s*")
_NAME = re.compile(r"[a-z-]+")
_COMMA = re.compile(r",(?![^\[]*\])")  # not inside of a list
_WORDS = {"true": True, "false": False, "none": None}
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def parse_link(link: str) -> tuple[str, dict[str, Value]]:
    """Parse ``name(option=value, ...)`` into the name and its options.

    A value is a number. Of ``v2:NAME`` it may also be a word, ``true``, ``false``, ``none``, or a list of values in
    square brackets; ``random`` is a word anywhere.

    Raises:
        UserError: a text of another form.
    """
    match = _LINK.fullmatch(link)
    name = match[1] if match else ""
    library = name.startswith(LIBRARY)
    if not library and not _NAME.fullmatch(name):
        match = None
    pairs = [part.partition("=") for part in _COMMA.split(match[2] or "") if part.strip()] if match else []
    try:
        options = {key.strip(): _value(value.strip(), library) for key, _, value in pairs}
    except ValueError:
        match = None
    if match is None:
        raise UserError(
            f"The augmentation {link!r} is not of the form name or name(option=number), such as "
            "crop-flip+cutout(size=0.25).",
            code="augmentation-form",
        )
    return name, options


def _value(text: str, library: bool) -> Value:
    """The value that a text says; a ValueError where it says none."""
    if text == RANDOM and not library:
        return text
    if library and text.startswith("[") and text.endswith("]"):
        parts = [part.strip() for part in text[1:-1].split(",") if part.strip()]
        if any(part.startswith("[") for part in parts):
            raise ValueError(text)
        return tuple(_value(part, library) for part in parts)
    if library and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if library and _WORD.fullmatch(text) and text.lower() not in ("inf", "nan", "infinity"):
        return text
    number = float(text)
    return int(number) if number.is_integer() else number
