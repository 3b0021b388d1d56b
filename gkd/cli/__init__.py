"""The command line: one verb a file, errors as one sentence."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Sequence

from gkd.cli.arguments import parsed
from gkd.core.errors import UserError, is_out_of_memory
from gkd.core.text import complain
from gkd.training.interrupt import Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        The exit code: 0, 2 for bad input (one sentence on stderr), 130 after Ctrl-C (all is saved).
    """
    try:
        code = _guarded(lambda: _dispatch(argv))
    except KeyboardInterrupt:  # a second one, while the first was told
        code = _INTERRUPTED
    if code == _INTERRUPTED and argv is None:
        # The process ends now; a further Ctrl-C would only break its leaving.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


_INTERRUPTED = 130


def _dispatch(argv: Sequence[str] | None) -> int:
    arguments = parsed(argv)
    from rich.console import Console  # --help needs none

    code: int = importlib.import_module(f"gkd.cli.{arguments.verb}").main(arguments, Console(soft_wrap=True))
    return code


def _guarded(body: Callable[[], int]) -> int:
    try:
        return body()
    except UserError as error:
        complain(str(error))
        return 2
    except Interrupted as stop:
        complain(f"{stop}; repeat the command to continue.")
        return _INTERRUPTED
    except KeyboardInterrupt:
        complain("stopped at once; repeat the command to continue from what was saved.")
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
