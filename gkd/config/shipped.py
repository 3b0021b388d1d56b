"""Find the shipped methods and experiments by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from gkd.config.method_files import configs_folder, method_content, method_name
from gkd.config.mistakes import sentences
from gkd.core.errors import UserError, unknown
from gkd.methods.method import Method
from gkd.methods.terms import RelativeWeight


def load_method(name: str) -> Method:
    """Load a method by its name or the path of its file, without an experiment, as ``gkd show`` prints it."""
    if name in shipped_configs():
        raise UserError(
            f"{name!r} is a config, not a method; gkd validate {name} prints it, gkd ls methods lists the methods.",
            code="config-for-method",
        )
    content = {**method_content(name), "name": method_name(name)}
    try:
        return Method.model_validate(content)
    except ValidationError as error:
        raise UserError(sentences(error, Method, f"method {name!r}"), code="invalid-method") from None


def shipped_methods() -> dict[str, Method]:
    """All methods under ``configs/methods``, by name."""
    folder = configs_folder() / "methods"
    return {path.stem: load_method(path.stem) for path in sorted(folder.glob("*.yaml"))}


def shipped_weights() -> dict[str, tuple[float, str]]:
    """Loss -> its weight in the shipped method of the same name, else in the simplest with that loss; and which one."""
    weights: dict[str, tuple[float, str]] = {}

    def size(method: Method) -> tuple[int, int]:
        return len(method.needs), sum(len(stage.terms) for stage in method.stages.values())

    for method in sorted(shipped_methods().values(), key=size):
        for term in (term for stage in method.stages.values() for term in stage.terms.values()):
            if isinstance(term.weight, RelativeWeight):
                continue
            if term.loss not in weights or method.name == term.loss:
                weights[term.loss] = (term.weight, method.name)
    return weights


def shipped_configs() -> dict[str, Path]:
    """Every shipped experiment: name -> path."""
    folder = configs_folder()
    paths = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    return {name: path for name, path in paths.items() if not name.startswith("methods/")}


def config_name(path: Path) -> str:
    """The name of a config: its path under ``configs/`` where it is shipped, else its file's stem."""
    for name, shipped in shipped_configs().items():
        if shipped.resolve() == path.resolve():
            return name
    return path.stem


def _closest(path: Path, shipped: Iterable[str]) -> str:
    """The files beside a missing one, or shipped configs, that are called almost like it."""
    beside = [str(each) for kind in ("*.yaml", "*.yml") for each in path.parent.glob(kind)]
    close = difflib.get_close_matches(str(path), beside, n=1) or difflib.get_close_matches(
        path.stem, shipped, n=1
    )
    return f" did you mean {close[0]!r}?" if close else ""


def find(config: str | Path) -> Path:
    """Find the file of a config, by its path or by the name of a shipped one.

    Raises:
        UserError: there is no such file or name; the sentence lists the shipped names.
    """
    path = Path(config)
    if path.is_file():
        return path
    shipped = shipped_configs()
    name = str(config).removeprefix("configs/").removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    if path.suffix in (".yaml", ".yml") and path.parent != Path("."):
        raise UserError(
            f"The config file {path} does not exist;{_closest(path, shipped)} gkd ls configs lists the shipped ones.",
            code="config-missing",
        )
    written = next(
        (each for end in (".yaml", ".yml") if (each := path.parent / f"{path.name}{end}").is_file()), None
    )
    if written is not None:
        raise UserError(
            f"There is no shipped config {str(config)!r}; your own file is named whole: {written}.",
            code="config-without-ending",
        )
    raise UserError(unknown("config", str(config), shipped), code="unknown-config")
