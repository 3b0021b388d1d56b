"""Find a method's file: shipped under ``configs/methods``, in a plug-in's package, or at a user's path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gkd.config.section import from_home
from gkd.config.yaml_files import read_yaml
from gkd.core.errors import UserError, shown, unknown
from gkd.core.plugins import distribution, entry_point_table, plugin
from gkd.core.user_code import told

# An entry point of this group bears a method's name and names the package whose folder holds NAME.yaml.
GROUP = "gkd.methods"


def configs_folder() -> Path:
    """The folder of the shipped configs, in a clone and in a wheel."""
    return Path(str(resources.files("gkd.configs").joinpath("")))


def is_method_file(name: str) -> bool:
    """Whether a method is named by the path of its file."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def method_name(name: str) -> str:
    """The name of a method in folders and tables: the stem where it is named by its file.

    Raises:
        UserError: a stem that cannot name a folder.
    """
    if not is_method_file(name):
        return name
    stem = Path(name).stem
    if not re.fullmatch(r"[\w\-.]+", stem):
        raise UserError(
            f"The method file {name!r} gives its name to folders; call it by letters, digits, -, _ and dots alone.",
            code="not-a-folder-name",
        )
    return stem


def _from_home(name: str) -> Path:
    try:
        return from_home(Path(name))
    except ValueError as error:
        raise UserError(f"The method file {shown(name)}: {error}.", code="method-file-missing") from None


def method_content(name: str) -> dict[str, Any]:
    """The keys of a method's file.

    Args:
        name: of a shipped method or a plug-in, or the path of a file.

    Raises:
        UserError: an unknown name, no such file, or a file that is not YAML.
    """
    if is_method_file(name):
        method_name(name)  # refuses a stem that cannot name a folder
        path = _from_home(name)
        if not path.is_file():
            raise UserError(
                f"The method file {path} does not exist;{_shipped_stem(path)} a path in a config is relative to the "
                "config's folder, one on the command line to the working folder.",
                code="method-file-missing",
            )
        return read_yaml(path)
    shipped = {path.stem: path for path in (configs_folder() / "methods").glob("*.yaml")}
    if name in entry_point_table(GROUP):
        return read_yaml(_plugin_file(name, shipped))
    if name not in shipped:
        raise UserError(unknown("method", name, [*shipped, *entry_point_table(GROUP)]), code="unknown-method")
    return read_yaml(shipped[name])


def _shipped_stem(path: Path) -> str:
    """The method with a name that the path of a missing file may mean."""
    names = [each.stem for each in (configs_folder() / "methods").glob("*.yaml")]
    close = difflib.get_close_matches(path.stem, [*names, *entry_point_table(GROUP)], n=1, cutoff=0.5)
    return f" a shipped method is named without .yaml, as in method={close[0]};" if close else ""


def _plugin_file(name: str, shipped: Mapping[str, Path]) -> Path:
    """The file of a plug-in's method; to find it, only the parents of its package are imported."""
    point = plugin(GROUP, name, what="method", ours=shipped)
    where = f"The method {name!r} of the package {distribution(point)}"
    try:
        spec = find_spec(point.value)
    except UserError:
        raise  # what a parent package itself does with gkd
    except Exception as error:
        raise UserError(
            f"{where}: {point.value} cannot be found: {told(error)}", code="plugin-package-missing"
        ) from error
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        if (Path(folder) / f"{name}.yaml").is_file():
            return Path(folder) / f"{name}.yaml"
    raise UserError(
        f"{where}: there is no file {name}.yaml in the package {point.value}; its entry point names the package whose "
        "folder holds it.",
        code="plugin-file-missing",
    )


def place_method_files(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same sections, with the relative paths of method files joined to ``folder``, where the config is.

    In ``compare.methods`` a path becomes a row that is labelled by the file's stem.
    """

    def placed(name: Any) -> Any:
        if not isinstance(name, str) or not is_method_file(name):
            return name
        return str(folder / _from_home(name))

    def row(entry: Any) -> Any:
        if isinstance(entry, str) and is_method_file(entry):
            return {"label": method_name(entry), "method": placed(entry)}
        return {**entry, "method": placed(entry.get("method"))} if isinstance(entry, Mapping) else entry

    result = dict(content)
    method, compare = content.get("method"), content.get("compare")
    if isinstance(method, str):
        result["method"] = placed(method)
    elif isinstance(method, Mapping) and "name" in method:
        result["method"] = {**method, "name": placed(method["name"])}
    if isinstance(compare, Mapping) and isinstance(compare.get("methods"), list):
        result["compare"] = {**compare, "methods": [row(entry) for entry in compare["methods"]]}
    return result
