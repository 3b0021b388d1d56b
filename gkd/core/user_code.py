"""A user's own code by name: ``pkg.module:factory``, imported and called with one-sentence errors.

Importing runs the module, so only a name that the command line or the user's own config gives comes here
(``gkd.config.trust``).
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError, unknown

FORM = "pkg.module:factory"


_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import_name(name: object) -> bool:
    """Whether a value has the form ``pkg.module:factory``."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def import_object(name: str, *, what: str) -> Callable[..., Any]:
    """The callable behind ``pkg.module:factory``.

    Args:
        name: the module's dotted path, a colon, the callable's name in it.
        what: what the callable makes, for the error: ``network``, ``data set``.

    Raises:
        UserError: as ``import_attribute``, or something that cannot be called.
    """
    found = import_attribute(name, what=what)
    if not callable(found):
        raise UserError(
            f"The {what} {name!r} is a {type(found).__name__}; name a function or class that gkd can call."
        )
    result: Callable[..., Any] = found
    return result


def import_attribute(name: str, *, what: str) -> Any:
    """The object behind ``pkg.module:name``; the current folder is importable too, after all else.

    Args:
        name: the module's dotted path, a colon, the object's name in it.
        what: what it is, for the error: ``loss``.

    Raises:
        UserError: a name of another form, a missing module or attribute, or what the module raised while it was
            imported.
    """
    if not is_import_name(name):
        raise UserError(f"The {what} {name!r} is not of the form {FORM}.")
    module_name, _, path = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file here hides an installed package
    importlib.invalidate_caches()  # the file may have been written by this very process
    try:
        module: Any = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module_name):
            raise UserError(
                f"The {what} {name!r}: there is no module {error.name!r}, installed or in the current folder; "
                "start gkd where it is, or install it."
            ) from None
        raise UserError(f"The {what} {name!r}: importing {module_name} failed with {told(error)}") from error
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            public = [key for key in dir(found) if not key.startswith("_")]
            raise UserError(f"The {what} {name!r}: {unknown('name', part, public)}")
        found = getattr(found, part)
    return found


def call_factory(
    factory: Callable[..., Any], *, name: str, what: str, given: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """``factory(**given, **options)``: what gkd gives and what the config adds.

    Raises:
        UserError: an option that the factory does not take, one that gkd gives itself, or what it raised.
    """
    for key in options:
        if key in given:
            raise UserError(f"The {what} {name!r}: gkd itself gives {key!r}; drop that option.")
    try:
        return factory(**given, **options)
    except UserError:
        raise
    except Exception as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and refused is not None:
            about = "takes no option" if refused[1] in options else "must take the keyword"
            raise UserError(f"The {what} {name!r} {about} {refused[1]!r} ({told(error)})") from error
        shown = ", ".join(f"{key}={value!r}" for key, value in {**given, **options}.items())
        raise UserError(f"The {what} {name!r} cannot be built with {shown}: {told(error)}") from error


def told(error: BaseException) -> str:
    """An exception as a part of a sentence: its type, its first line, and the file and line it comes from."""
    lines = str(error).strip().splitlines()
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
    return f"{text}{where}."


def _is_part(missing: str | None, module_name: str) -> bool:
    """Whether the module that was not found is the named one or a package above it."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")
