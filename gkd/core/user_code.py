"""Import and call a user's own code by name, ``pkg.module:name``, with one-sentence errors.

Importing runs the module, so only names from the command line or the user's own config are imported
(``gkd.config.trust``).
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gkd.core.errors import UserError, is_out_of_memory, unknown
from gkd.core.module_source import check_unedited

_GKD = Path(__file__).parents[1]
FORM = "pkg.module:name"


_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import_name(name: object) -> bool:
    """Whether a value has the form ``pkg.module:name``."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def import_object(name: str, *, what: str) -> Callable[..., Any]:
    """The callable behind ``pkg.module:name``.

    Args:
        name: the module's dotted path, a colon, the callable's name in it.
        what: the kind of object that the callable makes, for the error: ``network``, ``data set``.

    Raises:
        UserError: as ``import_attribute``, or an object that cannot be called.
    """
    value = import_attribute(name, what=what)
    if not callable(value):
        raise UserError(
            f"The {what} {name!r} is a {type(value).__name__}; name a function or class that gkd can call.",
            code="not-a-callable",
        )
    result: Callable[..., Any] = value
    return result


def make_importable(folder: Path) -> None:
    """Search a folder for modules, after all others, so that no file there hides an installed package."""
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def import_attribute(name: str, *, what: str) -> Any:
    """The object behind ``pkg.module:name``; the current folder is searched last.

    Args:
        name: the module's dotted path, a colon, the object's name in it.
        what: the kind of object, for the error: ``loss``.

    Raises:
        UserError: a name of another form, a missing module or attribute, or a module that fails on import.
    """
    if not is_import_name(name):
        raise UserError(f"The {what} {name!r} is not of the form {FORM}.", code="import-name-form")
    module_name, _, path = name.partition(":")
    if module_name.endswith(".py"):
        raise UserError(
            f"The {what} {name!r} names a file; write its module, without .py and with dots for folders: "
            f"{module_name.removesuffix('.py')}:{path}.",
            code="file-for-module",
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file here hides an installed package
    importlib.invalidate_caches()  # the file may have been written by this very process
    try:
        module: Any = importlib.import_module(module_name)
    except UserError:
        raise  # what the module itself does with gkd
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module_name):
            raise UserError(
                f"The {what} {name!r}: there is no module {error.name!r}, installed, in the current folder or "
                "beside the config; start gkd where it is, or install it.",
                code="module-missing",
            ) from None
        raise UserError(
            f"The {what} {name!r}: importing {module_name} failed with {told(error)}", code="import-failed"
        ) from error
    check_unedited(module, module_name)
    value = module
    for part in path.split("."):
        if not hasattr(value, part):
            public = [
                key
                for key in dir(value)
                if not key.startswith("_")
                and not isinstance(getattr(value, key), ModuleType)
                and getattr(getattr(value, key), "__module__", module_name) == module_name
            ]
            raise UserError(f"The {what} {name!r}: {unknown('name', part, public)}", code="unknown-name")
        value = getattr(value, part)
    return value


def call_factory(
    factory: Callable[..., Any],
    *,
    name: str,
    what: str,
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    only_taken: bool = False,
) -> Any:
    """Call ``factory(**arguments, **options)``: gkd's own keywords, and the config's options.

    Args:
        factory: what to call.
        name, what: of it, for errors.
        arguments: what gkd gives.
        options: what the user gives.
        only_taken: leaves out those ``arguments`` that the factory's signature has no keyword for.

    Raises:
        UserError: an option that the factory does not take, one that gkd gives itself, or a factory that
            fails.
    """
    for key in options:
        if key in arguments:
            raise UserError(
                f"The {what} {name!r}: gkd itself gives {key!r}; drop that option.", code="option-reserved"
            )
    given = _taken(factory, arguments) if only_taken else arguments
    try:
        return factory(**given, **options)
    except UserError:
        raise
    except Exception as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if isinstance(error, TypeError) and refused is not None:
            about = "takes no option" if refused[1] in options else "must take the keyword"
            code = "unknown-option" if refused[1] in options else "keyword-missing"
            raise UserError(
                f"The {what} {name!r} {about} {refused[1]!r}: {told(error)}", code=code
            ) from error
        if isinstance(error, TypeError) and re.search(r"missing \d+ required .*argument", str(error)):
            raise UserError(
                f"The {what} {name!r} asks for what gkd does not give, which is {' and '.join(arguments)} by keyword: "
                f"{told(error)} Name those so, or give the others as options or defaults.",
                code="argument-missing",
            ) from error
        shown = ", ".join(f"{key}={value!r}" for key, value in {**given, **options}.items()) or "no argument"
        raise UserError(
            f"The {what} {name!r} cannot be built with {shown}: {told(error)}", code="build-failed"
        ) from error


def _taken(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those arguments that a factory's signature has a keyword for: all where it takes any, or has no signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C
        return dict(arguments)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(arguments)
    names = {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return {key: value for key, value in arguments.items() if key in names}


@contextmanager
def told_of(own: object, what: str) -> Iterator[None]:
    """Turn what a third party's object raises into a sentence; what an object of gkd's own raises passes.

    Args:
        own: the object whose code runs.
        what: it is and is asked for, as in ``the task 'x' relates the classes``.

    Raises:
        UserError: the code failed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if type(own).__module__.startswith("gkd.") or is_out_of_memory(error):
            raise
        where = f"{type(own).__module__}.{type(own).__qualname__}"
        raise UserError(f"Where {what}, {where} fails: {told(error)}", code="own-code-fails") from error


def told(error: BaseException) -> str:
    """Describe an exception in a sentence: its type, first line, and the file and line that raised it, if not gkd's."""
    lines = str(error).strip().splitlines()
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(_GKD)
    ]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
    return f"{text}{where}."


def _is_part(missing: str | None, module_name: str) -> bool:
    """Whether the module that was not found is the named one or a package above it."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")
