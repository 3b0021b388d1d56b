"""The shipped methods and experiments: where they stand, and by which names."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from gkd.config.method_files import configs_folder, method_content, method_name
from gkd.config.mistakes import sentences
from gkd.core.errors import UserError, unknown
from gkd.methods.method import Method


def load_method(name: str) -> Method:
    """A method by name or by the path of its file, on its own: what ``gkd show`` prints."""
    content = {**method_content(name), "name": method_name(name)}
    try:
        return Method.model_validate(content)
    except ValidationError as error:
        raise UserError(sentences(error, Method, f"method {name!r}")) from None


def shipped_methods() -> dict[str, Method]:
    """All methods under ``configs/methods``, by name."""
    folder = configs_folder() / "methods"
    return {path.stem: load_method(path.stem) for path in sorted(folder.glob("*.yaml"))}


def shipped_weights() -> dict[str, tuple[float, str]]:
    """Loss -> the weight in the shipped method of its name, or in the simplest that has it, and that method."""
    found: dict[str, tuple[float, str]] = {}

    def size(method: Method) -> tuple[int, int]:
        return len(method.needs), sum(len(stage.terms) for stage in method.stages.values())

    for method in sorted(shipped_methods().values(), key=size):
        for term in (term for stage in method.stages.values() for term in stage.terms.values()):
            if term.loss not in found or method.name == term.loss:
                found[term.loss] = (term.weight, method.name)
    return found


def shipped_configs() -> dict[str, Path]:
    """Every shipped experiment: name -> path."""
    folder = configs_folder()
    found = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    return {name: path for name, path in found.items() if not name.startswith("methods/")}


def config_name(path: Path) -> str:
    """A shipped config's name under ``configs/``, another file's stem."""
    for name, shipped in shipped_configs().items():
        if shipped.resolve() == path.resolve():
            return name
    return path.stem


def find(config: str | Path) -> Path:
    """The file behind a path or a shipped config's name.

    Raises:
        UserError: neither is there; the sentence lists the shipped names.
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
            f"The config file {path} does not exist; give a path or one of: {', '.join(sorted(shipped))}."
        )
    raise UserError(unknown("config", str(config), shipped))
