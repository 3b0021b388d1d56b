"""Networks of a config that do not fit the images or the classes are refused before training."""

from __future__ import annotations

import pytest

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from tests.refusals import refused


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["student.network=timm/vit_tiny_patch16_224"], "images-not-taken"),
        (["student.taps={maps: [layer9]}"], "unknown-module-path"),
        (
            ["student.options={num_classes: 3}"],
            "invalid-config",
        ),
        (["student.taps={map: [layer1]}"], "invalid-config"),
        (["student.taps={maps: [{path: layer1, layout: chw}]}"], "invalid-config"),
        (["student.taps={maps: [layer1], stages: [[conv1]]}"], "wrong-number-of-stages"),
        (["student.taps={stages: [conv1, layer1]}"], "invalid-config"),
        (
            [
                "student.network=torchvision/resnet18",
                "student.taps={maps: [layer1], stages: [[conv1, layer1], []]}",
            ],
            "wrong-stages",
        ),
        (
            ["student.network=timm/vit_tiny_path16_224"],
            "invalid-config",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_training(words, code):
    with refused(code):
        prepare(load("quickstart", words))
