"""UserError, the exception for wrong input of the user's, and the sentence for an unknown name."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one sentence that says what was given, what is allowed and what to do.

    The command line prints it without a traceback and exits with 2. Code that catches
    ``ValueError`` around a function of gkd re-raises a ``UserError`` first.

    Attributes:
        code: a short name of the mistake (``unknown-loss``) that stays when the sentence is worded anew; None where
            none was set.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|(can't|cannot|unable to|failed to) allocate|bad_?alloc|alloc(ation)? failed|"
    r"size calculation overflowed|can't start new thread",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated, on the device or for a thread."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


_ALIKE = 0.6  # below it the names have to begin alike, or one is a part of the other


def unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    """The sentence for an unknown name: the name, the closest match, and the valid names."""
    names = sorted(allowed)
    folded = {each.casefold(): each for each in names}
    given = name.casefold()
    close = difflib.get_close_matches(given, folded, n=1, cutoff=0.5)
    if close and difflib.SequenceMatcher(None, close[0], given).ratio() < _ALIKE:
        turned = sorted(given)  # letters that changed places, as in "tf" for "ft"
        close = [each for each in close if each[:1] == given[:1] or given in each or sorted(each) == turned]
    hint = f" Did you mean {folded[close[0]]!r}?" if close else ""
    return f"Unknown {what} {name!r}.{hint} Allowed: {', '.join(names)}."


_LONGEST = 100  # characters of a value in a sentence


def shown(value: object) -> str:
    """A value that was given, as a sentence shows it: its ``repr``, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out no integer of more than 4,300 digits
        text = f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
