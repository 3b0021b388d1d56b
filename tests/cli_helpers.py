"""How tests call the command line: in this process, or as a real one that can be killed."""

import os
import subprocess
import sys
from pathlib import Path

from gkd.cli import main

# A run of about a second: few steps on digits, no teacher trained unless a test asks for one.
FAST = ("run.epochs=4", "teacher.train.epochs=1", "evaluate.every=2", "run.threads=1")


def gkd(*words: str) -> int:
    """The exit code of ``gkd WORDS`` in this process."""
    try:
        return main(list(words))
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def start(*words: str, cwd: Path) -> subprocess.Popen[str]:
    """``gkd WORDS`` as a process of its own, with one thread."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from gkd.cli import main; sys.exit(main(sys.argv[1:]))", *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
