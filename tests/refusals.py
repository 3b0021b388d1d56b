"""How tests ask for a refusal: by the code of its `UserError`, its sentence held in tests/golden/errors.txt.

A sentence may be worded anew without a change in any test: ``UPDATE_GOLDEN=1 make test`` adds the sentences that the
file lacks. To drop those that nothing says any more, delete the file first. Either way, read its diff.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gkd.core.errors import UserError

GOLDEN = Path(__file__).parent / "golden" / "errors.txt"
# What is another elsewhere: places, checksums, versions, what a library says; and lists that grow with what is shipped.
_PASSING = tuple(
    (re.compile(pattern), shown)
    for pattern, shown in {
        r"(?<![\w.])/(?:[\w.@+=,\[\]-]+/)+(?:test_\w+\d\b)?": "…/",
        r"\b[0-9a-f]{12,}\b|(?<=_)\d{9,}\b|(?<=-)[0-9a-f]{10}\b": "…",
        r"\b\d+\.\d+\.\d+\b": "x.y.z",
        r"\b(\w+(?:Error|Exception)): .*?\(\w+\.py:\d+\)": r"\1: …",
        r"Error while \w+ header: [^).;]*": "Error while …",
        r"Did you mean \S+ or .*?\?": "Did you mean …?",
        r"Allowed: (?:[^,]+, ){8,}.+?\.(?= |$)": "Allowed: ….",
        r"Methods that work here: .+?\.(?= |$)": "Methods that work here: ….",
    }.items()
)


@contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """A block that must end with a `UserError` of this code, in a sentence that the golden file holds."""
    with pytest.raises(UserError) as caught:
        yield caught
    line = told(caught.value)
    assert line.startswith(f"{code}: "), f"refused otherwise: {line}"
    if os.environ.get("UPDATE_GOLDEN"):
        _add(line)
        return
    assert line in GOLDEN.read_text().splitlines(), (
        f"tests/golden/errors.txt has no line {line!r}; if it is meant so: UPDATE_GOLDEN=1 make test, and read the diff"
    )


def told(error: UserError) -> str:
    """``code: sentence``, its lines in one, without what passes."""
    sentence = " / ".join(str(error).splitlines())
    for pattern, shown in _PASSING:
        sentence = pattern.sub(shown, sentence)
    return f"{error.code}: {sentence}"


def _add(line: str) -> None:
    with GOLDEN.open("a+") as file:  # other workers of the suite add theirs
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = {*file.read().splitlines(), line}
        file.truncate(0)
        file.write("".join(f"{each}\n" for each in sorted(lines)))
