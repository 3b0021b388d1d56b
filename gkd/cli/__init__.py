"""The command line: one verb a file, errors as one sentence."""

from __future__ import annotations

import importlib
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

# All else is imported within `main`, so that a Ctrl-C during the imports is told as any other.


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: the words after ``gkd``; None takes those of the process, which is taken to end afterwards: from the
            first Ctrl-C that stops it on, and from its result on, a further one is ignored.

    Returns:
        The exit code: 0, 2 for bad input (one sentence on stderr), 130 after Ctrl-C (all is saved).
    """
    ends = argv is None and threading.current_thread() is threading.main_thread()
    try:
        try:
            if ends:
                signal.signal(signal.SIGINT, _interrupt_once)
            return _guarded(lambda: _dispatch(argv))
        finally:
            if ends:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # a second one, while the first was told
        return _INTERRUPTED


_INTERRUPTED = 130


def _interrupt_once(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a further Ctrl-C would only break the leaving
    raise KeyboardInterrupt


def _dispatch(argv: Sequence[str] | None) -> int:
    from gkd.cli.arguments import parsed

    if argv is None:  # the process is ours, and what it warns of is for its user
        from gkd.core.memory import keep_freed_memory

        warnings.showwarning = _say_warning
        keep_freed_memory()

    arguments = parsed(argv)
    from rich.console import Console  # --help needs none

    code: int = importlib.import_module(f"gkd.cli.{arguments.verb}").main(arguments, Console(soft_wrap=True))
    return code


def _say_warning(message: Warning | str, *_about: object, **_named: object) -> None:
    from gkd.core.text import complain

    complain(f"warning: {' '.join(str(message).split())}")


def _guarded(body: Callable[[], int]) -> int:
    try:
        return _told(body)
    except KeyboardInterrupt:
        from gkd.core.text import complain

        complain("stopped at once; repeat the command to continue from what was saved.")
        return _INTERRUPTED


def _told(body: Callable[[], int]) -> int:
    from gkd.core.errors import UserError, is_out_of_memory
    from gkd.core.text import complain
    from gkd.training.interrupt import Interrupted

    try:
        return body()
    except UserError as error:
        complain(str(error))
        return 2
    except Interrupted as stop:
        complain(f"{stop}; repeat the command to continue.")
        return _INTERRUPTED
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            complain(
                "The memory does not suffice, and what was saved before is whole. Use a smaller data.batch_size, "
                "evaluate.batch_size, data.image_size or run.cache_gb, fewer workers or a larger machine, and "
                f"repeat the command to continue. ({' '.join(str(error).split())[:200] or type(error).__name__})"
            )
            return 2
        if not isinstance(error, OSError):
            raise
        if error.filename is None and error.errno is None:
            raise
        complain(f"{error.strerror}: {error.filename or 'device'}; mend that and repeat.")
        return 2
