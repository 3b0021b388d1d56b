"""Options of a network that a weight file or a run folder may state: numbers, and words that name no file.

An option goes to whatever builds the network, and a library may open what it names: ``timm.create_model`` unpickles its
``checkpoint_path``, and reads ``pretrained_cfg`` and ``cache_dir``. Only the user's own config may state such a one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gkd.core.user_code import is_import_name
from gkd.models.external import is_external

# What timm and torchvision take as a word: the name of a kind of layer, never a place.
_WORDS = frozenset(
    {
        "act_layer", "attn_layer", "attn_type", "block_type", "conv_init", "embed_layer", "global_pool", "head",
        "mlp_layer", "norm_layer", "pad_type", "pool_type", "pos_embed", "rel_pos_type", "rope_type", "se_layer",
        "stem_type", "weight_init",
    }
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,40}")
_PRETRAINED = re.compile(r"pretrained(?!_window_sizes?$)")
_PLACES = frozenset(
    {
        "cache", "cfg", "checkpoint", "ckpt", "config", "dir", "directory", "file", "filename", "folder", "hub", "load",
        "path", "pickle", "pretrained", "repo", "root", "source", "state", "url", "weights",
    }
)  # fmt: skip


def refused_options(network: str, options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every option that only the user's own config may state.

    Args:
        network: the name of the network that they are for.
        options: as a weight file or a run folder states them.
    """
    if not is_external(network):  # whose options are checked by name and type, and name no file
        return
    library = not is_import_name(network) and "/" in network
    for key, value in options.items():
        yield from _refused(str(key), value, library=library)


def _refused(key: str, value: Any, *, library: bool) -> Iterator[tuple[str, Any]]:
    name = key.rpartition(".")[2]
    if isinstance(value, Mapping) and not library and _PLACES.isdisjoint(name.lower().split("_")):
        for inner, each in value.items():
            yield from _refused(f"{key}.{inner}", each, library=library)
    elif _PRETRAINED.match(name) or not _is_plain(name, value, library=library):
        yield key, value


def _is_plain(name: str, value: Any, *, library: bool) -> bool:
    """Whether a value is made of numbers, truth values, and words where words are taken."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(name, each, library=library) for each in value)
    if not isinstance(value, str):
        return value is None or isinstance(value, (bool, int, float))
    takes_words = name in _WORDS or (not library and _PLACES.isdisjoint(name.lower().split("_")))
    return takes_words and (not value or _WORD.fullmatch(value) is not None)
