"""An experiment from its file, and from the one that it extends."""

from __future__ import annotations

from pathlib import Path

from gkd.config.load import load
from gkd.data import content_at
from tests.config.test_identity import FOLDER, before, photographs
from tests.config_helpers import TINY, Write, tiny
from tests.refusals import refused


def test_extends_goes_one_level_deep(write: Write) -> None:
    write("first", TINY)
    write("second", {"extends": "first"})
    third = write("third", {"extends": "second"})
    with refused("nested-extends"):
        load(third)
    assert load(write("other", {"extends": "cross_task/digits"})).experiment.task.size == 5


def test_the_config_of_a_run_from_before_is_read_as_that_version_meant_it(
    tmp_path: Path, write: Write
) -> None:
    """It turned no photograph; a run of now says which it does, and a file that is no run's has the default."""
    root = photographs(tmp_path / "photos", 6)
    told = tiny(FOLDER, root, f"data.fingerprint={content_at(tmp_path / 'photos').crc}").annotated_yaml()
    old = "\n".join(line for line in told.splitlines() if "exif:" not in line)
    assert old != told.strip()
    run = tmp_path / "run"
    run.mkdir()
    for content, exif in ((old, "ignore"), (told, "apply")):
        (run / "config.yaml").write_text(content)
        (run / "env.json").write_text("{}")
        resolved = load(run / "config.yaml")
        assert resolved.experiment.data.exif == exif
        assert (resolved.identity == before(root)) == (exif == "ignore")
        (run / "env.json").unlink()
        assert load(run / "config.yaml").experiment.data.exif == "apply"
    assert load("cross_task/digits").experiment.data.exif == "apply"


def test_the_weights_of_an_earlier_run_are_those_of_every_row(tmp_path: Path) -> None:
    """A run's config from before `unknown_rows` means ``published``, and keeps its name."""
    words = ["task.shift=2", "method=kd"]
    told = load("cross_task/digits", words).annotated_yaml()
    old = "\n".join(line for line in told.splitlines() if "unknown_rows" not in line)
    assert old != told.strip()
    for content, rows in ((old, "published"), (told, "full")):
        (tmp_path / "config.yaml").write_text(content)
        (tmp_path / "env.json").write_text("{}")
        resolved = load(tmp_path / "config.yaml")
        assert resolved.experiment.method.stages["distil"].unknown_rows == rows
        assert (
            resolved.identity
            == load("cross_task/digits", [*words, f"method.stages.distil.unknown_rows={rows}"]).identity
        )
