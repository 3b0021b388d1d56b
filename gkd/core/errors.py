"""The one exception that means "the user's input is wrong", and the closest-match sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one sentence that says what was given, what is allowed and what to do.

    The command line prints it without a traceback and exits with 2.
    """


def unknown(what: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for an unknown name: the name, the closest match, and the valid names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what} {given!r}.{hint} Allowed: {', '.join(names)}."
