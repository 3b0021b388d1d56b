"""What bad input is told: a code of every error, its sentence in one golden file; no handler swallows or rewords it."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gkd.config.load import load
from gkd.core.class_orders import class_order, class_split
from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import augmentation, load_images
from gkd.data.episodes import load_episodes
from gkd.losses import kd_loss
from gkd.losses.registry import loss_entry
from gkd.models import build_network
from gkd.models.heads import check_head_kind
from gkd.storage import checkpoints
from gkd.storage.json_files import read_json
from tests.refusals import GOLDEN, refused

ROOT = Path(__file__).resolve().parent.parent


def sources() -> list[Path]:
    """Every Python file of gkd and its tasks."""
    return [path for folder in ("gkd", "tasks") for path in (ROOT / folder).rglob("*.py")]


def digits(*overrides: str) -> Callable[[], object]:
    return lambda: load("cross_task/digits", overrides)


# Representative mistakes of every wing that reads what a user writes, by what they try: the code, and the call.
MISTAKES: dict[str, tuple[str, Callable[[], object]]] = {
    "an unknown config": ("unknown-config", lambda: load("quikstart")),
    "an unknown key": ("invalid-config", digits("student.netwrok=resnet8")),
    "a wrong type": ("invalid-config", digits("run.epochs=many")),
    "three mistakes": (
        "invalid-config",
        digits("run.epochs=many", "student.netwrok=x", "data.batch_size=0"),
    ),
    "an unknown task": ("unknown-task", digits("task={name: standrad}")),
    "an unknown method": ("unknown-method", digits("method=refiled")),
    "an unknown option of a loss": (
        "invalid-config",
        digits("method=kd", "method.stages.distil.terms.kd.temperatur=2"),
    ),
    "a temperature below zero": (
        "invalid-config",
        digits("method=kd", "method.stages.distil.terms.kd.temperature=-1"),
    ),
    "an unknown term": ("invalid-config", digits("method=kd", "method.stages.distil.terms.kdd.weight=1")),
    "an override without a value": ("override-form", digits("run.seed")),
    "an unknown baseline": ("invalid-config", digits("compare.baseline=studnet")),
    "an unknown augmentation in a config": ("invalid-config", digits("data.augment=corp")),
    "an unknown network": ("unknown-network", lambda: build_network("resnet9", num_classes=2)),
    "an unknown option of a network": (
        "unknown-option",
        lambda: build_network("resnet8", num_classes=2, widht=2),
    ),
    "an unknown head": ("unknown-head", lambda: check_head_kind("cosin")),
    "an unknown loss": ("unknown-loss", lambda: loss_entry("kd_los")),
    "an unknown augmentation": ("unknown-augmentation", lambda: augmentation("crop-flp")),
    "an unknown class split": ("unknown-class-split", lambda: class_split("cifarfs")),
    "an unknown class order": ("unknown-class-order", lambda: class_order(LabelSpace([*"abc"]), "alphabet")),
    "an unknown class": ("unknown-class", lambda: LabelSpace(["ant", "bee"]).column("bea")),
    "a class twice": ("class-twice", lambda: LabelSpace(["ant", "ant"])),
    "no shared class": (
        "unknown-class",
        lambda: LabelRelation(LabelSpace([*"ab"]), LabelSpace([*"cd"]), aliases={"x": "a"}),
    ),
    "an unknown split of data": ("unknown-split", lambda: load_images("digits", "trian")),
    "unknown data": ("unknown-data-set", lambda: load_images("digit", "train")),
    "logits of other shapes": (
        "other-shapes",
        lambda: kd_loss(torch.zeros(2, 3), torch.zeros(2, 4), temperature=4.0),
    ),
    "an unknown network of torchvision": (
        "unknown-network",
        lambda: build_network("torchvision/resnet1", num_classes=2),
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_what_bad_input_is_told(what: str) -> None:
    code, call = MISTAKES[what]
    with refused(code):
        call()


def codes(node: ast.AST) -> Iterator[ast.expr | None]:
    """The code of every ``UserError(...)`` in a tree; None where it has none."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in (
            "UserError",
            "Busy",
            "Damaged",
            "Diverged",
        ):
            stated = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
            yield stated[0] if stated else None


def test_every_error_has_a_code() -> None:
    for path in sources():
        assert None not in list(codes(ast.parse(path.read_text()))), path


def test_codes_are_short_words_with_hyphens() -> None:
    written = [code for path in sources() for code in codes(ast.parse(path.read_text())) if code]
    words = {code.value for code in written if isinstance(code, ast.Constant)}
    assert len(words) > 200
    assert [word for word in words if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+){1,4}", str(word))] == []


def test_the_golden_file_is_sorted_and_holds_no_machines_path() -> None:
    lines = GOLDEN.read_text().splitlines()
    assert lines == sorted(set(lines))
    assert not [line for line in lines if re.search(r"/(tmp|home|root|work)\b", line)]


def test_a_user_error_is_a_value_error_and_keeps_its_code_between_processes() -> None:
    error = UserError(unknown("loss", "kd", ["kd_loss"]), code="unknown-loss")
    assert isinstance(error, ValueError)
    copied = pickle.loads(pickle.dumps(error))  # as from a worker that reads images
    assert (str(copied), copied.code) == (str(error), "unknown-loss")
    assert UserError("No code.").code is None


# Handlers of ValueError or Exception without a UserError let through first: what they try raises none of gkd's own, or
# the sentence belongs into theirs.
LOOKED_AT = {
    "gkd/core/memory.py": "int of what the system says",
    "gkd/core/module_source.py": "ast reads a source, importlib looks for a module",
    "gkd/config/method_files.py": "the home folder of a path",
    "gkd/config/pair_files.py": "the home folder of a path",
    "gkd/config/yaml_files.py": "PyYAML reads a scalar",
    "gkd/core/errors.py": "Python writes out an integer",
    "gkd/report/published.py": "float of a text",
    "gkd/core/text.py": "float of a text",
    "gkd/core/user_code.py": "inspect reads a signature",
    "gkd/data/augment/library_transform.py": "torchvision makes a transform and changes an image",
    "gkd/data/augment/link.py": "float of a text",
    "gkd/data/decoding.py": "Pillow reads a tag, which a damaged block may hold",
    "gkd/data/image_files.py": "zipfile opens its file",
    "gkd/data/read/decoded_cache.py": "a cache that cannot be read or written is no mistake of the user's",
    "gkd/few_shot/learn2learn.py": "learn2learn reads images and draws tasks",
    "gkd/methods/optimiser_names.py": "a third party's optimiser makes a step and its state",
    "gkd/methods/terms.py": "float of a number or a text",
    "gkd/models/cut_check.py": "kept as a difference and told with the stage's name",
    "gkd/models/head_check.py": "a head that cannot read the embedding does not give the logits of it",
    "gkd/models/hub.py": "huggingface_hub fetches a file",
    "gkd/models/image_sizes.py": "whatever a library says of a size; the network itself is tried where that counts",
    "gkd/storage/class_vector_files.py": "safetensors and json read a file",
    "gkd/storage/json_files.py": "json reads a text",
    "gkd/storage/mapped_rows.py": "a cache that cannot be read is no mistake of the user's",
    "gkd/storage/torch_files.py": "torch reads a file",
    "gkd/training/meter.py": "json reads a line",
}
WIDE = {"ValueError", "Exception", "BaseException"}


def wide_handlers(path: Path) -> Iterator[int]:
    """The lines of handlers that catch a UserError under a wider name, none before them letting it through."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Try):
            for handler in node.handlers:
                names = ast.walk(handler.type) if handler.type else ()
                caught = {each.id for each in names if isinstance(each, ast.Name)} or WIDE
                if "UserError" in caught:
                    break
                if caught & WIDE:
                    yield handler.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            yield from [node.lineno] if {ast.unparse(argument) for argument in node.args} & WIDE else []


def test_no_handler_swallows_or_rewords_a_user_error() -> None:
    wide = {str(path.relative_to(ROOT)) for path in sources() if list(wide_handlers(path))}
    assert wide == set(LOOKED_AT)


def test_a_checkpoint_that_cannot_be_read_though_its_sums_are_right_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save_checkpoint(tmp_path, 1, weights={"student": {"w": torch.zeros(2)}}, state={}, facts={})

    def refuse(path: Path) -> None:
        raise UserError(f"{path.name} is refused.")

    monkeypatch.setattr(checkpoints, "read_weights", refuse)
    with pytest.raises(UserError, match=r"student.safetensors is refused"):
        checkpoints.latest_checkpoint(tmp_path)


def test_files_of_another_form_are_told_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with refused("file-unreadable"):
        read_json(path, keys=("a",))
    with refused("episodes-unreadable"):
        load_episodes(path)


def test_the_reader_of_handlers_sees_what_lets_through(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    through = "try:\n    f()\nexcept UserError:\n    raise\nexcept Exception:\n    pass\n"
    for text, lines in (
        (through, []),
        (through.replace("UserError", "OSError"), [5]),
        ("suppress(ValueError)", [1]),
    ):
        path.write_text(text)
        assert list(wide_handlers(path)) == lines


@pytest.mark.parametrize(
    ("name", "closest"), [("resnet18", "ResNet18"), ("RESNET8", "resnet8"), ("resnet9", "resnet8")]
)
def test_the_closest_name_is_found_in_either_case(name: str, closest: str) -> None:
    assert f"Did you mean {closest!r}?" in unknown("network", name, ["resnet8", "ResNet18", "vgg8"])
