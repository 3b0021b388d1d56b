"""Which experiments are the same run."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gkd.config.load import load
from gkd.data import content_at, fingerprint
from gkd.storage.checksums import sha256
from gkd.storage.weight_metadata import weights_name
from gkd.storage.weights import read_weight_file, save_weights
from tests.config_helpers import tiny
from tests.refusals import refused


@pytest.mark.parametrize(
    "override",
    [
        "run.out=elsewhere", "run.threads=1", "run.device=cpu", "run.seed=3", "run.checkpoint_seconds=1",
        "evaluate.batch_size=7", "data.download=true", "run.precision=auto", "optimiser.lr=0.1",
        "method.stages.embedding.terms.tuples.margin=0.2", "method.stages.embedding.terms.tuples.temperature=4",
        "method.stages.classifier.terms.induced.normalise=false", "student.options={}", "teacher.taps={}",
        "teacher.taps.stages=null", "run.teacher_cache=disk", "run.teacher_cache_precision=own",
        "run.teacher_cache_precision=bf16",
    ],
)  # fmt: skip
def test_identity_ignores_what_does_not_change_the_result(override: str) -> None:
    """Nor a value that was so before, a loss's default among them."""
    assert tiny(override).identity == tiny().identity


def test_rounded_outputs_name_the_runs_that_read_them() -> None:
    """Not one in bf16, whose teacher gives no more digits, nor the student alone."""
    rounded = "run.teacher_cache_precision=bf16"
    for words, named in ((), True), (("run.precision=float32",), True), (("run.precision=bf16",), False), (
        ("method=student",), False,
    ):  # fmt: skip
        words = ("data.views=2", *words)
        assert (tiny(*words, rounded).identity != tiny(*words).identity) == named
        assert tiny(*words, rounded, "run.teacher_cache=disk").identity == tiny(*words, rounded).identity


def test_identities_of_earlier_versions_stay() -> None:
    """Committed cells are known by them, and by the fingerprints and checksums that they pin."""
    assert load("cross_task/digits", ["method=sp", "data.per_class=5"]).identity == "1f48929a23"
    for words, name in {
        ("data.name=folder", "data.root=/not/there"): "51832ccbc1",
        ("data.name=folder", "data.root=/not/there", f"data.fingerprint={'ab' * 32}"): "51e74dcd1d",
        ("teacher.checkpoint=/not/there.pth", f"teacher.sha256={'cd' * 32}"): "419645d747",
        ("student.network=no_such_module:net",): "ba6f0835c4",
    }.items():
        assert tiny(*words).identity == name


def images_in(folder: Path, content: bytes) -> str:
    """A class folder with one file in it; the override that points there."""
    path = folder / "train" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return f"data.root={folder}"


def test_identity_follows_the_images_not_where_they_are(tmp_path: Path) -> None:
    """Two data sets of one file name are two runs; the same images elsewhere, or pinned, are one."""
    here, moved, other = (
        images_in(tmp_path / name / "images", content)
        for name, content in {"a": b"first", "b": b"first", "c": b"other"}.items()
    )
    folder = "data.name=folder"
    assert tiny(folder, here).identity == tiny(folder, moved).identity
    assert tiny(folder, here).identity != tiny(folder, other).identity
    pinned = f"data.fingerprint={fingerprint(tmp_path / 'a' / 'images')}"
    assert tiny(folder, here).identity == tiny(folder, pinned, "data.root=/not/there.zip").identity


def test_images_that_are_not_there_are_known_by_their_name() -> None:
    folder = "data.name=folder"
    assert tiny(folder, "data.root=/a/images").identity == tiny(folder, "data.root=/b/images").identity
    assert tiny(folder, "data.root=/a/images").identity != tiny(folder, "data.root=/a/pictures").identity


def test_every_layout_is_known_by_its_images_and_its_lists(tmp_path: Path) -> None:
    def cinic(folder: Path, content: bytes) -> str:
        for split in ("train", "valid", "test"):
            path = folder / split / "cat" / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return f"data.root={folder}"

    here, moved, other = (
        cinic(tmp_path / name, content) for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items()
    )
    name = "data.name=cinic10"
    assert tiny(name, here).identity == tiny(name, moved).identity
    assert tiny(name, here).identity != tiny(name, other).identity
    assert tiny(name, here).identity != tiny("data.name=cinic10_train_valid", here).identity
    pinned = f"data.fingerprint={fingerprint(tmp_path / 'a', 'cinic10')}"
    assert tiny(name, here).identity == tiny(name, pinned, "data.root=/not/there").identity
    assert tiny(name, here).with_images_named().experiment.data.fingerprint == fingerprint(
        tmp_path / "a", "cinic10"
    )


def test_images_without_labels_name_a_run_that_trains_on_them(tmp_path: Path) -> None:
    """By their content, wherever they are; a method that does not is the same run with and without them."""

    def bare(folder: Path, content: bytes) -> str:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "0.png").write_bytes(content)
        return f"data.unlabelled.root={folder}"

    here, moved, other = (
        bare(tmp_path / name, content) for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items()
    )
    both = "method.stages.embedding.terms={sp: {}}", "method.stages.embedding.data=both"
    assert tiny(*both, here).identity == tiny(*both, moved).identity
    assert len({tiny(*both, here).identity, tiny(*both, other).identity, tiny(*both).identity}) == 3
    assert tiny(*both, here, "data.exif=ignore", "data.name=folder").identity == (
        tiny(*both, here, "data.name=folder").identity
    )
    share = "method.stages.embedding.unlabelled_share=0.25"
    assert tiny(*both, here, share).identity != tiny(*both, here).identity
    assert tiny(here).identity == tiny().identity
    pin = fingerprint(tmp_path / "a", "unlabelled")
    gone = "data.unlabelled.root=/not/there"
    assert tiny(*both, gone, f"data.unlabelled.fingerprint={pin}").identity == tiny(*both, here).identity
    assert tiny(*both, gone).identity == tiny(*both, "data.unlabelled.root=/elsewhere/there").identity
    named = tiny(*both, here).with_images_named().experiment.data.unlabelled
    assert named is not None
    assert named.fingerprint == pin
    assert not tiny(*both, here).identities.former  # no version before read such images


def test_a_factorys_data_are_known_by_where_they_are() -> None:
    """What it reads there is not known, and naming it imports nothing."""
    own = "data.name=no_such_module:make"
    assert tiny(own, "data.root=/a/images").identity != tiny(own, "data.root=/b/images").identity
    assert tiny(own).identity != tiny("data.name=no_such_module:other").identity


def test_a_fingerprint_is_for_image_files() -> None:
    with refused("invalid-config"):
        tiny(f"data.fingerprint={'ab' * 32}")


@pytest.mark.parametrize(
    "override",
    [
        "method.stages.embedding.terms.tuples.margin=0.3",
        "method.stages.embedding.terms.tuples.mining=all",
        "method.stages.classifier.terms.induced.weight=2",
        "optimiser.lr=0.3", "task.shift=1", "data.per_class=5", "student.network=resnet14", "method=sp",
        "run.epochs=10", "run.precision=bf16", "run.deterministic=true", "evaluate.every=2",
        "data.validation.seed=1", "teacher.train.epochs=9", "teacher.weights=best",
        "teacher.taps={maps: [layer1]}", "teacher.taps={stages: [[conv1], [layer1]]}",
    ],
)  # fmt: skip
def test_identity_follows_what_changes_the_result(override: str) -> None:
    if override == "data.validation.seed=1":
        override = "data.validation={fraction: 0.1, seed: 1}"
    assert tiny(override).identity != tiny().identity


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_options_of_a_network_name_the_run(side: str) -> None:
    plain = tiny(f"{side}.network=wrn_10_1")
    assert tiny(f"{side}.network=wrn_10_1", f"{side}.options={{dropout: 0.1}}").identity != plain.identity


def test_two_teachers_whose_files_have_one_name_are_two_identities(tmp_path: Path) -> None:
    """gkd itself calls every student it saves student.safetensors."""
    paths = []
    for name in ("first", "second"):
        path = tmp_path / name / "student.safetensors"
        path.parent.mkdir()
        torch.save({"w": torch.tensor(len(paths))}, path)
        paths.append(path)
    one, other = (tiny(f"teacher.checkpoint={path}").identity for path in paths)
    assert one != other


def test_images_that_change_between_two_commands_are_seen(tmp_path: Path) -> None:
    """Within one process too: a notebook loads its config again."""
    root = images_in(tmp_path / "images", b"first")
    words = ["data.name=folder", root]
    first = load("cross_task/digits", words).identity
    (tmp_path / "images" / "train" / "cat" / "0.png").write_bytes(b"other")
    assert load("cross_task/digits", words).identity != first


# --- a default that came to mean something else renames the runs that it touches, and no others -----------------------


def photographs(folder: Path, *orientations: int) -> str:
    """A class folder of images that state these orientations; the override that points there."""
    for number, orientation in enumerate(orientations):
        exif, path = Image.Exif(), folder / "train" / "cat" / f"{number}.png"
        exif[0x0112] = orientation
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (6, 4), (number, 20, 30)).save(buffer, "png", exif=exif)
        path.write_bytes(buffer.getvalue())
    return f"data.root={folder}"


FOLDER = "data.name=folder"


def before(root: str) -> str:
    """The name that earlier versions gave a run on these images: by size and CRC-32, and by nothing of EXIF."""
    crc = content_at(Path(root.partition("=")[2])).crc
    return tiny(FOLDER, "data.root=/not/there", f"data.fingerprint={crc}").identity


def test_upright_photographs_keep_their_run_under_either_setting(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", 1, 1)
    crc = content_at(tmp_path / "a").crc
    for words in ((FOLDER, root), (FOLDER, root, "data.exif=ignore")):
        names = tiny(*words).identities
        assert names.identity == tiny(FOLDER, root).identity
        assert names.former == (before(root),)
        assert names.unturned is None
        # As a config pinned them before, and pins them still: the very same name.
        for pin in (crc, f"crc:{crc}"):
            pinned = tiny(*words, f"data.fingerprint={pin}")
            assert (pinned.identity, pinned.identities.former) == (before(root), ())
        away = tiny(words[0], "data.root=/not/there", *words[2:], f"data.fingerprint={crc}")
        assert away.identity == before(root)


def test_turned_photographs_are_another_run_and_ignore_names_the_old_one(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", 1, 6)
    content = content_at(tmp_path / "a")
    turned, ignored = tiny(FOLDER, root).identities, tiny(FOLDER, root, "data.exif=ignore").identities
    assert turned.identity != ignored.identity
    assert (turned.former, turned.unturned) == ((), before(root))
    assert ignored.former == (before(root),)
    pinned = tiny(FOLDER, root, f"data.fingerprint={content.crc}")
    assert pinned.identity not in (turned.identity, before(root))
    assert tiny(FOLDER, root, f"data.fingerprint={content.crc}", "data.exif=ignore").identity == before(root)
    # By content, the two are told apart where the images are not, too.
    pin, away = f"data.fingerprint={content.sha256}", "data.root=/not/there"
    assert tiny(FOLDER, away, pin).identity == turned.identity
    assert tiny(FOLDER, away, pin, "data.exif=ignore").identity == ignored.identity


def test_turned_photographs_of_a_teacher_that_is_not_used_change_nothing(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", 6)
    teacher = {"network": "resnet20", "data": {"name": "folder", "root": root.partition("=")[2]}}
    alone, taught = tiny("method=student", teacher=teacher), tiny(teacher=teacher)
    assert alone.identity == tiny("method=student").identity
    assert alone.identities.unturned is None
    assert taught.identities.unturned is not None


def test_a_link_that_is_followed_names_no_run(tmp_path: Path) -> None:
    root = photographs(tmp_path / "a", 1)
    assert tiny(FOLDER, root, "data.follow_links=true").identity == tiny(FOLDER, root).identity


def test_equal_weights_are_one_run_however_their_file_is_arranged(tmp_path: Path) -> None:
    """By their tensors; a former name is that of the file's checksum, which a config may still pin."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    torch.save(tensors, tmp_path / "one.pth")
    torch.save({"state_dict": dict(reversed(tensors.items())), "epoch": 3}, tmp_path / "other.pth")
    save_weights(tmp_path / "third.safetensors", tensors, {"made_by": "another program"})
    files = [tmp_path / name for name in ("one.pth", "other.pth", "third.safetensors")]
    runs = [tiny(f"teacher.checkpoint={file}") for file in files]
    assert len({run.identity for run in runs}) == 1
    assert len({sha256(file) for file in files}) == 3
    for file, run in zip(files, runs, strict=True):
        away = "teacher.checkpoint=/not/there.pth"
        former = tiny(away, f"teacher.sha256={sha256(file)}").identity
        assert run.identities.former == (former,)
        assert tiny(away, f"teacher.sha256=sha256:{sha256(file)}").identity == former
        assert tiny(away, f"teacher.sha256={weights_name(read_weight_file(file))}").identity == run.identity
    torch.save({**tensors, "a": torch.zeros(2, 2)}, files[0])
    assert load("cross_task/digits", [f"teacher.checkpoint={files[0]}"]).identity not in {
        load("cross_task/digits", [f"teacher.checkpoint={file}"]).identity for file in files[1:]
    }


def test_averaged_weights_are_another_run_than_the_raw_ones_which_keep_their_name(tmp_path: Path) -> None:
    """The raw ones were taken before; to name them is the old behaviour, under the old name."""
    path, away = tmp_path / "two.pth", "teacher.checkpoint=/not/there.pth"
    sets = {"state_dict": {"w": torch.ones(2)}, "state_dict_ema": {"w": torch.zeros(2)}}
    torch.save(sets, path)
    former = tiny(away, f"teacher.sha256={sha256(path)}").identity
    here = f"teacher.checkpoint={path}"
    default, raw, averaged = (
        tiny(here, *key).identities
        for key in ([], ["teacher.checkpoint_key=state_dict"], ["teacher.checkpoint_key=state_dict_ema"])
    )
    assert (default.former, raw.former, averaged.former) == ((), (former,), ())
    assert raw.identity not in (default.identity, averaged.identity)
    pin = f"teacher.sha256={sha256(path)}"
    assert tiny(here, pin, "teacher.checkpoint_key=state_dict").identity == former
    for key in ([], ["teacher.checkpoint_key=state_dict_ema"]):
        assert tiny(here, pin, *key).identity != former
    # A set of its own in a file, chosen or alone, is one and the same.
    torch.save({"w": torch.ones(2)}, tmp_path / "alone.pth")
    assert tiny(f"teacher.checkpoint={tmp_path / 'alone.pth'}").identity == raw.identity


def test_what_a_file_says_of_its_columns_and_input_is_part_of_the_run(tmp_path: Path) -> None:
    """Equal tensors under other classes or another normalisation teach something else; its accuracy is no matter."""
    said = {"classes": '["a", "b"]', "mean": "0.5", "std": "0.25", "test_accuracy": "71.00"}
    others = [{"classes": '["b", "a"]'}, {"mean": "0.4"}, {"test_accuracy": "12.00"}]
    names = []
    for number, change in enumerate([{}, *others]):
        path = tmp_path / str(number) / "student.safetensors"
        path.parent.mkdir()
        save_weights(path, {"w": torch.ones(2)}, {**said, **change})
        names.append(tiny(f"student.checkpoint={path}").identity)
    assert names[0] == names[3]
    assert len(set(names)) == 3


def test_the_content_of_a_file_that_options_name_is_part_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    words = ["student.network=own_code:net", f"student.options={{vocabulary: [{path}], note: a/b}}"]
    names = []
    for content in ("first", "other", "first"):
        path.write_text(content)
        names.append(load("cross_task/digits", words).identity)
    assert names[0] == names[2] != names[1]


# --- the source of a user's own modules ------------------------------------------------------------------------------


OWN_CODE = (
    "def net(): ...\ndef images(): ...\nclass Muon: ...\ndef loss(student_logits, teacher_logits): ...\n"
)
NAMES_OF_CODE = {
    "student.network=own_code:net": "own_code:net",
    "data.name=own_code:images": "own_code:images",
    "optimiser={name: own_code:Muon, nesterov: false}": "own_code:Muon",
    "method.stages.classifier.terms.own={loss: own_code:loss}": "own_code:loss",
}


@pytest.mark.parametrize("override", NAMES_OF_CODE)
def test_the_source_of_an_own_module_is_part_of_the_run(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the import of a loss adds the folder
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    names = []
    for text in (OWN_CODE, f"{OWN_CODE}#", OWN_CODE):
        (tmp_path / "own_code.py").write_text(text)
        names.append(load("cross_task/digits", [override]).identities)
    assert list(names[0].sources) == [NAMES_OF_CODE[override]]
    assert names[0] == names[2]
    assert names[0].identity != names[1].identity
    # Both may be what a run of before was made with, which did not say.
    assert names[0].without_sources == names[1].without_sources
    assert names[0].former == names[1].former == (names[0].without_sources,)


@pytest.mark.parametrize(
    ("group", "value", "override"),
    [
        ("gkd.networks", "own_code:net", "student.network=offered"),
        ("gkd.datasets", "own_code:images", "data.name=offered"),
        ("gkd.optimisers", "own_code:Muon", "optimiser={name: offered, nesterov: false}"),
        ("gkd.losses", "own_code:loss", "method.stages.classifier.terms.own={loss: offered}"),
    ],
)
def test_the_source_of_a_plug_in_is_part_of_the_run(
    group: str, value: str, override: str, offer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    offer(group, ("offered", value))
    names = []
    for text in (OWN_CODE, f"{OWN_CODE}#"):
        (tmp_path / "own_code.py").write_text(text)
        names.append(load("cross_task/digits", [override]).identities)
    assert list(names[0].sources) == ["offered"]
    assert names[0].identity != names[1].identity
    assert names[0].without_sources == names[1].without_sources


def test_a_metric_of_ones_own_names_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code.py").write_text("def worst(logits, labels, relation): ...\n")
    assert (
        load("cross_task/digits", ["evaluate.metrics=own_code:worst"]).identity
        == load("cross_task/digits").identity
    )


def test_a_librarys_weights_and_a_list_of_classes_are_known_by_what_they_are(tmp_path: Path) -> None:
    """Not by a default that may move, nor by where a list of names lies."""
    task = "task={name: cross_task}"

    def named(**teacher: Any) -> str:
        section = ", ".join(
            f"{key}: {value}" for key, value in {"network": "timm/resnet18", **teacher}.items()
        )
        return tiny(task, "method=sp", f"teacher={{{section}}}").identity

    names = {named(pretrained=which) for which in ("true", "DEFAULT", "a1_in1k")}
    assert len(names) == 1
    assert named(pretrained="tv_in1k") not in names
    for folder, content in (("a", "cat\ndog\n"), ("b", "cat\ndog\n"), ("c", "dog\ncat\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "names.txt").write_text(content)
    first, copy, other = (named(pretrained="true", classes=tmp_path / name / "names.txt") for name in "abc")
    assert first == copy
    assert other != first


def test_what_unknown_rows_mean_names_exactly_the_runs_that_it_changes() -> None:
    """Those that trade the cross-entropy against a teacher that lacks classes; ``published`` is the name before."""
    published = "method.stages.distil.unknown_rows=published"
    overlapping = ("task.shift=2", "method=kd")
    assert load("cross_task/digits", [*overlapping, published]).identity == "bcce48b174"
    assert load("cross_task/digits", overlapping).identity != "bcce48b174"
    whole = "method.stages.distil.terms.cross_entropy.weight=1"
    for words in (
        ("method=kd",),  # the same classes
        ("task.shift=2", "method=sp"),
        ("task.shift=2", "method=dkd"),
        (*overlapping, whole),
        (*overlapping, "method.stages.distil.terms.kd.rows=all"),
    ):
        assert (
            load("cross_task/digits", words).identity
            == load("cross_task/digits", [*words, published]).identity
        )
    own = ("method=kd", "teacher.checkpoint=/not/there.pth", "teacher.classes=[a,b]")
    assert load("cross_task/digits", own).identity != load("cross_task/digits", [*own, published]).identity
