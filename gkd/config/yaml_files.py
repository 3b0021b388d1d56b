"""Read YAML: ``1e-3`` is a number; a repeated key and a file that is not YAML are errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gkd.core.errors import UserError, shown

# libyaml's parser where PyYAML was built with it: ten times as fast, and a config is several files.
if TYPE_CHECKING or not hasattr(yaml, "CSafeLoader"):
    from yaml import SafeLoader as _SafeLoader
else:
    from yaml import CSafeLoader as _SafeLoader


_MOST_BYTES = 2**24  # of a config file
_MOST_VALUES = 200_000  # of a text, each alias counted as what it stands for


class _Loader(_SafeLoader):
    """YAML 1.1 in which ``1e-3`` is a number, and a key that appears twice or too much behind aliases is an error."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(
                f"with its aliases written out it has more than {_MOST_VALUES:,} values; use fewer"
            )
        return node


def _expanded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is where each alias is written out; ``known`` are those of the nodes seen so far.

    An anchor within itself counts as nothing there: it is refused when it is read.
    """
    if id(node) in known or not isinstance(node, yaml.CollectionNode):
        return known.get(id(node), 1)
    known[id(node)] = 0
    inner = (child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,)))
    known[id(node)] = 1 + sum(_expanded(child, known) for child in inner)
    return known[id(node)]


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


def _scalar(kind: str) -> Callable[[_Loader, yaml.ScalarNode], Any]:
    """PyYAML's reader of a kind of scalar, whose errors say where they are."""
    read = yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]

    def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
        try:
            return read(loader, node)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError):
            problem = f"{shown(node.value)} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    return construct


for _kind in ("int", "float", "bool", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _scalar(_kind))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text into plain data."""
    try:
        content = yaml.load(text, Loader=_Loader)
        _refuse_what_holds_itself(content, where)
        return content
    except UnicodeEncodeError:
        raise UserError(
            f"{where} has bytes that are no UTF-8; rename what it names, or link to it by a name of letters.",
            code="not-utf-8",
        ) from None
    except RecursionError:
        raise UserError(
            f"{where} is nested too deeply to be read; a config has a handful of levels.", code="invalid-yaml"
        ) from None
    except yaml.YAMLError as error:
        sentence = f"{where} is not valid YAML: {' '.join(str(error).split())}"
        raise UserError(sentence, code="invalid-yaml") from None


def _refuse_what_holds_itself(content: Any, where: str) -> None:
    """Refuse an alias within its own anchor, as in ``&a [*a]``."""
    above: set[int] = set()  # the mappings and lists around a node
    done: set[int] = set()

    def walk(node: Any) -> None:
        if not isinstance(node, (dict, list)) or id(node) in done:
            return
        if id(node) in above:
            raise UserError(
                f"{where} has an alias within its own anchor; write the value out.", code="invalid-yaml"
            )
        above.add(id(node))
        for value in node.values() if isinstance(node, dict) else node:
            walk(value)
        above.discard(id(node))
        done.add(id(node))

    walk(content)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)  # of a device, or of a file that is no config, no more
    except OSError as error:
        raise UserError(
            f"The config file {path} cannot be read ({error.strerror}).", code="config-unreadable"
        ) from None
    if len(raw) > _MOST_BYTES:
        raise UserError(
            f"The config file {path} is larger than {_MOST_BYTES // 2**20} MiB, which no config is; give another.",
            code="config-unreadable",
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise UserError(
            f"The config file {path} cannot be read (it is not text).", code="config-unreadable"
        ) from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        kinds = {list: "holds a list", str: "holds a text", type(None): "is empty"}
        held = kinds.get(type(content), "holds one value")
        raise UserError(
            f"{path} {held}, where a mapping is expected, such as the sections task and data of an experiment.",
            code="not-a-mapping",
        )
    return content
