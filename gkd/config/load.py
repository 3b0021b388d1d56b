"""Experiments as YAML: layers, overrides, validation with every error at once, identity.

Precedence is method < file that ``extends`` names < experiment file < override; ``Resolved.origins``
keeps for each key the layer that set it. Config objects stop at ``gkd.experiment.prepare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gkd.config.identity import forget_files
from gkd.config.layers import BEFORE, Layer, set_dotted
from gkd.config.method_files import configs_folder, place_method_files
from gkd.config.pair_files import place_tables
from gkd.config.resolve import Resolved, override_layers, resolve
from gkd.config.shipped import config_name, find
from gkd.config.trust import lies_in_run_folder, named_in
from gkd.config.yaml_files import read_yaml
from gkd.core.errors import UserError
from gkd.core.user_code import make_importable
from gkd.data import LAYOUTS


def load(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    from_run: bool = False,
    vouched: frozenset[str] = frozenset(),
) -> Resolved:
    """Read an experiment file, merge its layers and validate the result.

    Args:
        config: a path, or the name of a shipped config such as ``quickstart``.
        overrides: ``a.b=c`` strings, read as YAML values.
        from_run: imports no module on the file's word alone; always so for a file in a run folder.
        vouched: modules that the user has named elsewhere (``gkd.config.trust``).

    Raises:
        UserError: a missing file, or every mistake in it at once, each with its dotted path.
    """
    forget_files()
    path = find(config)
    layers: list[Layer] = []
    foreign = [path] if from_run or lies_in_run_folder(path) else []
    if not foreign and not path.resolve().is_relative_to(configs_folder().resolve()):
        make_importable(path.parent)
    content = _placed(read_yaml(path), path.parent)
    extends = content.pop("extends", None)
    if extends is not None:
        beside = path.parent / f"{extends}.yaml"
        base = read_yaml(base_path := beside if beside.is_file() else find(str(extends)))
        if "extends" in base:
            raise UserError(
                f"{path} extends {extends!r}, which extends another file; extends goes one level deep.",
                code="nested-extends",
            )
        layers.append(Layer("extends", _placed(base, base_path.parent), str(extends)))
        foreign += [base_path] if lies_in_run_folder(base_path) else []
    layers.append(Layer("experiment", content))
    if lies_in_run_folder(path):
        layers.append(Layer(BEFORE, _as_before(content)))
    words = override_layers(overrides)
    trusting = [*([] if path in foreign else [content]), *(layer.content for layer in words)]
    trusted = named_in(trusting) | vouched if foreign else None
    return resolve(config_name(path), [*layers, *words], trusted)


def _placed(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A config's sections, with the files found that it names relative to its own folder."""
    return place_tables(place_method_files(content, folder), folder)


def _as_before(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's config does not say, because the version that wrote it knew no other way.

    Photographs were not turned, and rows of classes that the teacher lacks had the method's weights; so a run of them
    is judged and found as it was trained.
    """
    added: dict[str, Any] = {}
    teacher = content.get("teacher")
    of_teacher = teacher.get("data") if isinstance(teacher, Mapping) else None
    for key, data in (("data", content.get("data")), ("teacher.data", of_teacher)):
        if isinstance(data, Mapping) and data.get("name") in LAYOUTS and "exif" not in data:
            set_dotted(added, f"{key}.exif", "ignore")
    method = content.get("method")
    stages = method.get("stages") if isinstance(method, Mapping) else None
    for name, stage in stages.items() if isinstance(stages, Mapping) else ():
        if isinstance(stage, Mapping) and "unknown_rows" not in stage:
            added.setdefault("method", {}).setdefault("stages", {})[name] = {"unknown_rows": "published"}
    return added


def from_content(name: str, content: dict[str, Any], overrides: Sequence[str] = ()) -> Resolved:
    """Resolve sections that stand in no file; imports only what overrides name. Errors as of :func:`load`."""
    words = override_layers(overrides)
    return resolve(name, [Layer("experiment", content), *words], named_in(layer.content for layer in words))
