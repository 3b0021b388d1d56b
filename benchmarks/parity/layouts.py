"""State-dict layouts and outputs of gkd's networks beside those of the authors' code.

For each network by name that a checkout has: a state dict of fixed numbers is loaded into it and into gkd's with
``strict=True``, the order of the keys is compared, and on fixed images in eval mode and float64 the logits, the
embedding, and every map with and without ``preact``. A difference is relative to the largest magnitude of the official
value.

Written are ``tests/models/layouts.json``, the facts that the tests hold every network to (parameters, entries,
SHA-256 over the lines "key shape" in order at 100 classes, shapes of the features, and two means of each output of
the authors' code on these weights and images), and with ``--out`` the differences.

    python benchmarks/parity/layouts.py --repdistiller ../RepDistiller --mdistiller ../mdistiller \\
        --sakd ../spot-adaptive-pytorch --refilled ../REFILLED --learn2learn ../learn2learn \\
        --out benchmarks/results/layouts.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from _common import prepare
from _compare import checkout_facts, environment, write_result
from torch import Tensor, nn

from gkd.models import NETWORKS, build_network, count_parameters

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))
from tests.network_helpers import fingerprint, fixed_images, fixed_weights  # noqa: E402

NUM_CLASSES = 100
TOLERANCE = 1e-13  # float64, relative to the largest value
FACTS = ROOT / "tests" / "models" / "layouts.json"
FEW_SHOT_SIZE = 84

# What a network gives: logits, embedding, maps, maps with preact; None where official code has no such tap.
Outputs = tuple[Tensor, Tensor, list[Tensor] | None, list[Tensor] | None]


@dataclass(frozen=True)
class Official:
    """A network of the authors' code.

    Attributes:
        build: the network with 100 classes.
        outputs: network and images -> what it gives.
        sizes: sides of the images to compare at; the facts are of the first.
        renamed: an official key -> ours, where they differ; then the order may differ too.
    """

    build: Callable[[], nn.Module]
    outputs: Callable[[nn.Module, Tensor], Outputs]
    sizes: tuple[int, ...] = (32,)
    renamed: Callable[[str], str] | None = None


def load(path: Path, name: str) -> types.ModuleType:
    """A file or package under a name of its own: two checkouts may both call theirs ``models``."""
    sys.dont_write_bytecode = True  # leave the checkout as it is
    folder = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        name,
        path / "__init__.py" if folder else path,
        submodule_search_locations=[str(path)] if folder else None,
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def listed(network: nn.Module, images: Tensor) -> Outputs:
    """RepDistiller's and SAKD's ``is_feat=True``: the last of the features is the embedding."""
    (*maps, embedding), logits = network(images, is_feat=True)
    (*preacts, _), _ = network(images, is_feat=True, preact=True)
    return logits, embedding, maps, preacts


def named(network: nn.Module, images: Tensor) -> Outputs:
    """mdistiller's dictionary; its MobileNetV2 has no pre-activations."""
    logits, features = network(images)
    return logits, features["pooled_feat"], features["feats"], features.get("preact_feats")


def both(network: nn.Module, images: Tensor) -> Outputs:
    """REFILLED's logits and embedding."""
    logits, embedding = network(images, flag_both=True)
    return logits, embedding, None, None


def split(network: nn.Module, images: Tensor) -> Outputs:
    """learn2learn's backbone and classifier."""
    return network(images), network.features(images), None, None  # type: ignore[operator]


def _sizes(name: str) -> tuple[int, ...]:
    """64 too where official code works there."""
    return (32, 64) if name.startswith(("vgg", "ResNet")) else (32,)


def repdistiller(checkout: Path) -> dict[str, Official]:
    module = load(checkout / "models", "official_repdistiller")
    builders = {**module.model_dict, **{n: getattr(module.resnetv2, n) for n in ("ResNet18", "ResNet34")}}
    return {
        name: Official(partial(build, num_classes=NUM_CLASSES), listed, _sizes(name))
        for name, build in builders.items()
    }


def mdistiller(checkout: Path) -> dict[str, Official]:
    module = load(checkout / "mdistiller" / "models" / "cifar", "official_mdistiller")
    return {
        name: Official(partial(build, num_classes=NUM_CLASSES), named)
        for name, (build, _) in module.cifar_model_dict.items()
    }


def sakd(checkout: Path) -> dict[str, Official]:
    module = load(checkout / "models", "official_sakd")
    ours = {"MobileNetV2": "MobileNetV2_1_0", "ShuffleNetV1": "ShuffleV1", "ShuffleNetV2": "ShuffleV2"}
    return {
        ours.get(name, name): Official(partial(build, num_classes=NUM_CLASSES), listed)
        for name, build in module.MODEL_DICT.items()
        if ours.get(name, name) in NETWORKS
    }


def refilled(checkout: Path) -> dict[str, Official]:
    module = load(checkout / "networks" / "mobile_net.py", "official_refilled")
    widths = {"1_0": 1.0, "0_75": 0.75, "0_5": 0.5, "0_25": 0.25}
    return {
        f"mobilenet_{text}": Official(
            partial(module.MyNetwork, argparse.Namespace(ca=width, number_of_classes=NUM_CLASSES)),
            both,
            (64, 224),
        )
        for text, width in widths.items()
    }


def learn2learn(checkout: Path) -> dict[str, Official]:
    package = types.ModuleType("learn2learn")  # the real one imports gym
    package.nn = types.SimpleNamespace(Flatten=nn.Flatten)  # type: ignore[attr-defined]
    folder = checkout / "learn2learn" / "vision" / "models"
    with patch.dict(sys.modules, {"learn2learn": package}):
        convolutional = load(folder / "cnn4.py", "official_cnn4")
        residual = load(folder / "resnet12.py", "official_resnet12")

    def conv4_key(key: str) -> str:
        match = re.fullmatch(r"features\.(\d)\.(conv|normalize)\.(\w+)", key)
        return f"layer{int(match[1]) + 1}.{int(match[2] == 'normalize')}.{match[3]}" if match else key

    def resnet12_key(key: str) -> str:
        return key.removeprefix("features.")

    conv4, resnet12 = convolutional.CNN4, residual.ResNet12
    return {
        "conv4_64": Official(partial(conv4, NUM_CLASSES), split, (FEW_SHOT_SIZE,), conv4_key),
        "conv4_32": Official(partial(conv4, NUM_CLASSES, hidden_size=32), split, (FEW_SHOT_SIZE,), conv4_key),
        "resnet12_wide": Official(partial(resnet12, NUM_CLASSES), split, (FEW_SHOT_SIZE,), resnet12_key),
        "resnet12_narrow": Official(
            partial(resnet12, NUM_CLASSES, hidden_size=512, wider=False),
            split,
            (FEW_SHOT_SIZE,),
            resnet12_key,
        ),
    }


# option -> repository, and its networks by our names; the first that has a name gives its facts
PEERS: dict[str, tuple[str, Callable[[Path], dict[str, Official]]]] = {
    "repdistiller": ("HobbitLong/RepDistiller", repdistiller),
    "mdistiller": ("megvii-research/mdistiller", mdistiller),
    "sakd": ("zju-vipa/spot-adaptive-pytorch", sakd),
    "refilled": ("njulus/REFILLED", refilled),
    "learn2learn": ("learnables/learn2learn", learn2learn),
}


def facts(network: nn.Module, size: int, outputs: Outputs, source: str) -> dict[str, Any]:
    """What the tests hold a network to: gkd's layout, and the outputs of the authors' code."""
    state = network.state_dict()
    lines = "".join(f"{key} {list(value.shape)}\n" for key, value in state.items())
    ours = network.features(fixed_images(3, size))  # type: ignore[operator]
    logits, embedding, maps, preacts = outputs
    return {
        "source": source,
        "parameters": count_parameters(network),
        "entries": len(state),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "image_size": size,
        "maps": [list(value.shape[1:]) for value in ours.maps],
        "embedding": ours.embedding.shape[1],
        "means": {
            "logits": fingerprint(logits),
            "embedding": fingerprint(embedding),
            **({"maps": [fingerprint(value) for value in maps]} if maps else {}),
            **({"preact_maps": [fingerprint(value) for value in preacts]} if preacts else {}),
        },
    }


def relative(official: Tensor, ours: Tensor) -> float:
    """The largest difference over the largest magnitude; a shape that differs is an infinite difference."""
    if official.shape != ours.shape:
        return float("inf")
    return float((official - ours).abs().max() / official.abs().max())


def difference(network: nn.Module, images: Tensor, outputs: Outputs) -> dict[str, Any]:
    """How far logits, embedding, maps and pre-activation maps are apart."""
    logits, embedding, maps, preacts = outputs
    ours = network.features(images)  # type: ignore[operator]
    before = network.features(images, preact=True)  # type: ignore[operator]
    result: dict[str, Any] = {
        "logits": relative(logits, ours.logits),
        "embedding": relative(embedding, ours.embedding),
    }
    for name, expected, given in (("maps", maps, ours.maps), ("preact_maps", preacts, before.preact_maps)):
        if expected is not None:
            result[name] = [relative(a, b) for a, b in zip(expected, given, strict=True)]
    return result


def compare(
    name: str, official: Official, repository: str, source: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One network: its facts, and its differences at each size."""
    with contextlib.redirect_stdout(io.StringIO()):  # some print what they build
        theirs = official.build().double().eval()
    rename = official.renamed or str
    theirs.load_state_dict(fixed_weights(theirs.state_dict(), rename))
    network = build_network(name, num_classes=NUM_CLASSES).double().eval()
    own = network.state_dict()
    state = {rename(key): value for key, value in theirs.state_dict().items()}
    if official.renamed is None and list(state) != list(own):
        raise RuntimeError(f"{name}: the keys of {repository} have another order.")
    counters = {key: value for key, value in own.items() if ".drop." in key}  # learn2learn's are no buffers
    network.load_state_dict({**state, **counters}, strict=True)
    found, entries = {}, []
    for size in official.sizes:
        images = fixed_images(3, size)
        outputs = official.outputs(theirs, images)
        found[size] = facts(network, size, outputs, source)
        result = difference(network, images, outputs)
        ok = all(
            v <= TOLERANCE
            for value in result.values()
            for v in (value if isinstance(value, list) else [value])
        )
        print(f"{'ok  ' if ok else 'FAIL'} {name} of {repository} at {size}: {shown(result)}", flush=True)
        about = {"network": name, "repository": repository, "image_size": size}
        entries.append({**about, "relative_difference": result, "within_tolerance": ok})
    return found[official.sizes[0]], entries


def same(fact: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether two checkouts give one layout; their outputs are compared with gkd's."""
    return all(fact[key] == known[key] for key in fact if key not in ("source", "means"))


def shown(result: Mapping[str, Any]) -> str:
    """The largest difference of each kind."""
    largest = {key: max(value) if isinstance(value, list) else value for key, value in result.items()}
    return ", ".join(f"{key} {value:.1e}" for key, value in largest.items())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, (repository, _) in PEERS.items():
        parser.add_argument(f"--{option}", type=Path, required=True, help=f"a clone of {repository}")
    parser.add_argument("--out", type=Path, help="write the differences as JSON")
    given = parser.parse_args()
    prepare()
    torch.set_grad_enabled(False)
    layouts: dict[str, Any] = {}
    results, checkouts = [], []
    for option, (repository, networks) in PEERS.items():
        checkout = getattr(given, option)
        checkouts.append(checkout_facts(checkout, repository))
        source = f"{repository}@{checkouts[-1]['commit'][:7]}"
        with contextlib.redirect_stdout(io.StringIO()):
            found = networks(checkout)
        for name, official in found.items():
            if name not in NETWORKS:
                continue
            fact, entries = compare(name, official, repository, source)
            known = layouts.setdefault(name, fact)
            if not same(fact, known):
                raise RuntimeError(f"{name}: {repository} has another layout than {known['source']}.")
            results += entries
    missing = [name for name in NETWORKS if name not in layouts]
    if missing:
        raise RuntimeError(f"No checkout has {', '.join(missing)}.")
    write_result(FACTS, {name: layouts[name] for name in NETWORKS})
    if given.out is not None:
        write_result(
            given.out,
            {
                "benchmark": "networks beside the authors' code, float64, eval mode",
                "tolerance": TOLERANCE,
                "official": checkouts,
                "environment": environment(),
                "networks": results,
            },
        )
    return 0 if all(entry["within_tolerance"] for entry in results) else 1


if __name__ == "__main__":
    sys.exit(main())
