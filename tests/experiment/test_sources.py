"""Images that a config names, by their fingerprint."""

from __future__ import annotations

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from tests.refusals import refused


def test_images_of_another_fingerprint_are_refused(tmp_path):
    path = tmp_path / "train" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"never decoded")
    words = ["data.name=folder", f"data.root={tmp_path}", f"data.fingerprint={'ab' * 32}"]
    with refused("other-images"):
        prepare(load("quickstart", words))
