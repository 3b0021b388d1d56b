"""Processes of their own that can be killed, forked from one that has imported torch and gkd already.

A new interpreter takes longer to import torch than most runs of a test take.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "gkd.commands.compare",
        "gkd.commands.run",
        "gkd.commands.evaluate",
        "gkd.commands.predict",
        "gkd.commands.dry_run",
        "gkd.cli.run",
        "torch._dynamo",
        "matplotlib.pyplot",
        "sklearn.datasets",
    ]
)


class Child:
    """What tests ask of a `subprocess.Popen`, of a forked process."""

    def __init__(self, body: Callable[..., object], *arguments: object, cwd: Path) -> None:
        self._said = Path(tempfile.mkdtemp(prefix="gkd-child-"))
        # The server's environment is that of its start.
        about = (body, arguments, str(cwd), str(self._said), dict(os.environ))
        self._process = _SERVER.Process(target=_child, args=about)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; what it wrote to stdout and to stderr."""
        if self.wait(timeout) is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s")
        return self.output()

    def output(self) -> tuple[str, str]:
        """What it has written so far."""
        return (self._said / "stdout").read_text(), (self._said / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def forget(self) -> None:
        """Remove the files of what it has written."""
        shutil.rmtree(self._said)


def _child(
    body: Callable[..., Any], arguments: tuple[object, ...], cwd: str, said: str, environment: dict[str, str]
) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.exit(body(*arguments))


def python_file(path: str, *arguments: str) -> None:
    """A Python file as the main program, with its own folder first on the path."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(path, run_name="__main__")


def command_line(*words: str) -> int:
    """``gkd WORDS``."""
    from gkd.cli import main

    sys.argv = ["gkd", *words]
    return main()
