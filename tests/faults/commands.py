"""Commands of gkd as processes that can die, and how they ended."""

from __future__ import annotations

import contextlib
import io
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.processes import Child, command_line

PATIENCE = 120.0  # seconds; what takes longer hangs


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Attributes:
        code: its exit code; minus a signal's number; None where it was still running and was killed.
        out, err: what it wrote to stdout and stderr.
        seconds: how long it ran.
    """

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def traceback(self) -> bool:
        """Whether an exception came through to the user."""
        return "Traceback (most recent call last)" in self.err + self.out or self.code == 1

    @property
    def in_a_sentence(self) -> bool:
        """Whether stderr ends with what gkd (or argparse, on words that are no command) has to say."""
        return any(line.startswith(("gkd: ", "gkd ", "usage: gkd")) for line in self.err.splitlines())

    @property
    def last_line(self) -> str:
        """The last thing that it said."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "nothing was said"


def in_a_process(
    folder: Path, *arguments: object, body: Callable[..., object] = command_line, patience: float = PATIENCE
) -> Ended:
    """``gkd WORDS`` in a folder, as a process of its own that caches images in that folder too.

    Args:
        folder: where it runs.
        arguments: the words; or those of the body.
        body: what is called in place of the command line.
        patience: seconds until it is killed.
    """
    began = time.monotonic()
    child = Child(in_own_cache, body, *arguments, cwd=folder)
    child.wait(patience)
    code = child.returncode
    if code is None:
        child.kill()
        child.wait(10)
    out, err = child.output()
    child.forget()
    return Ended(code, out, err, time.monotonic() - began)


def in_own_cache(body: Callable[..., object], *arguments: object) -> object:
    """Call a function; decoded images are kept under the folder that it runs in."""
    os.environ["GKD_CACHE"] = str(Path.cwd() / "cache")
    return body(*arguments)


def in_this_process(
    folder: Path, *arguments: object, body: Callable[..., object] = command_line, patience: float = PATIENCE
) -> Ended:
    """As `in_a_process`, without a process: for what neither dies nor hangs."""
    began, before = time.monotonic(), os.environ.get("GKD_CACHE")
    out, err = io.StringIO(), io.StringIO()
    code: int | None
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = in_own_cache(body, *arguments)  # type: ignore[assignment]
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            os.environ.pop("GKD_CACHE")
            if before is not None:
                os.environ["GKD_CACHE"] = before
    return Ended(code, out.getvalue(), err.getvalue(), time.monotonic() - began)
