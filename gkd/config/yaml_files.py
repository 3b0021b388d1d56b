"""Read YAML: ``1e-3`` is a number; a repeated key and a file that is not YAML are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gkd.core.errors import UserError

# libyaml's parser where PyYAML was built with it: ten times as fast, and a config is several files.
if TYPE_CHECKING or not hasattr(yaml, "CSafeLoader"):
    from yaml import SafeLoader as _SafeLoader
else:
    from yaml import CSafeLoader as _SafeLoader


class _Loader(_SafeLoader):
    """YAML 1.1 in which ``1e-3`` is a number and a key that appears twice is an error."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            line = node.value[position][0].start_mark.line + 1
            raise yaml.YAMLError(f"the key {key!r} appears twice, again in line {line}; keep one")
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text into plain data."""
    try:
        return yaml.load(text, Loader=_Loader)
    except UnicodeEncodeError:
        raise UserError(
            f"{where} has bytes that are no UTF-8; rename what it names, or link to it by a name of letters.",
            code="not-utf-8",
        ) from None
    except yaml.YAMLError as error:
        sentence = f"{where} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(sentence, code="invalid-yaml") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(
            f"The config file {path} cannot be read ({reason}).", code="config-unreadable"
        ) from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds {type(content).__name__} where sections such as task and data are expected.",
            code="not-a-mapping",
        )
    return content
