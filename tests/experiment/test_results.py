"""What a run leaves for later: a weight file says how its network is built."""

from __future__ import annotations

import json

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from gkd.experiment.results import weight_metadata


def test_a_weight_file_says_all_that_builds_its_network_again():
    words = ["student.network=wrn_10_1", "student.options={dropout: 0.1}", "student.taps={maps: [block1]}"]
    header = weight_metadata(prepare(load("cross_task/digits", words)), "head").to_header()
    assert header["network"] == "wrn_10_1"
    assert json.loads(header["options"]) == {"dropout": 0.1}
    assert json.loads(header["taps"]) == {"maps": ["block1"]}
    assert header["image_shape"] == "1,8,8"
    assert (
        not {"options", "taps"}
        & weight_metadata(prepare(load("cross_task/digits")), "head").to_header().keys()
    )
