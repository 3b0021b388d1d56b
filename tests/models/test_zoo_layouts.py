"""Every network by name has the layout and the numbers of the authors' code.

``layouts.json`` holds them; ``benchmarks/parity/layouts.py`` writes it beside their checkouts.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from gkd.models import NETWORKS, build_network, count_parameters
from tests.network_helpers import fingerprint, fixed_images, fixed_weights

LAYOUTS = json.loads(Path(__file__).with_name("layouts.json").read_text())


def test_the_layouts_are_those_of_every_name() -> None:
    assert list(LAYOUTS) == list(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_has_the_layout_and_the_feature_shapes_of_the_authors_code(name: str) -> None:
    layout = LAYOUTS[name]
    size = layout["image_size"]
    with torch.device("meta"):  # shapes only: wrn_28_10 would take seconds to initialise
        network = build_network(name, num_classes=100).eval()
        images = torch.empty(2, 3, size, size)
        outputs = [network.features(images), network.features(images, preact=True)]
    state = network.state_dict()
    lines = "".join(f"{key} {list(value.shape)}\n" for key, value in state.items())
    assert count_parameters(network) == layout["parameters"]
    assert len(state) == layout["entries"]
    assert hashlib.sha256(lines.encode()).hexdigest() == layout["sha256"]
    for out in outputs:
        assert [list(m.shape) for m in out.maps] == [[2, *shape] for shape in layout["maps"]]
        assert out.embedding.shape == (2, layout["embedding"])
    assert network.embedding_dim == layout["embedding"]


# the fastest with each kind of block; `full` has the others
QUICK = {
    "resnet8",
    "resnet8x4",
    "wrn_16_1",
    "wrn_16_2",
    "ResNet18",
    "vgg8",
    "MobileNetV2",
    "ShuffleV1",
    "ShuffleV2",
    "mobilenet_0_25",
    "conv4_32",
    "resnet12_narrow",
}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.full) for name in NETWORKS]
)
def test_numbers_are_those_of_the_authors_code(name: str) -> None:
    layout = LAYOUTS[name]
    with torch.device("meta"):
        network = build_network(name, num_classes=100).double()
    own = network.state_dict()
    weights = {
        key: torch.zeros((), dtype=torch.int64) if value.dim() == 0 else value for key, value in own.items()
    }
    network.load_state_dict(fixed_weights(weights), assign=True)
    network.eval()
    images = fixed_images(3, layout["image_size"])
    with torch.no_grad():
        out, before = network.features(images), network.features(images, preact=True)
    ours = {
        "logits": fingerprint(out.logits),
        "embedding": fingerprint(out.embedding),
        "maps": [fingerprint(m) for m in out.maps],
        "preact_maps": [fingerprint(m) for m in before.preact_maps],
    }
    for key, means in layout["means"].items():  # official code without taps has no maps
        torch.testing.assert_close(torch.tensor(ours[key]), torch.tensor(means), rtol=1e-6, atol=1e-9)
