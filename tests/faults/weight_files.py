"""Weight files that were changed: bytes, headers, names, tensors, containers, and pickles that would run code.

Survived: the command ends well, or in a sentence with exit code 2; where the tensors are the network's own, well and
with the numbers of the file as it was. Lost: another end; or code of the file was run. Silently different: the same
tensors are judged otherwise, or another file passes where its checksum is pinned. Traceback: an exception comes
through.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import torch

from gkd.storage.checksums import sha256
from gkd.storage.weights import read_weights
from tests.faults.changed_tensors import CONTAINERS, TENSOR_CHANGES, pickled_code, with_code
from tests.faults.nasty import VALUES
from tests.faults.scenarios import CLASSES, CONFIG
from tests.faults.verdict import Outcome, Verdict, judged_by_ending, survived
from tests.faults.workshop import Workshop, seeded

COUNT = 600
CANARY = "canary"  # a file that only the code in a weight file would make
# What a file need not say then.
_GIVEN = (
    "data.name=folder", "data.root=photos.zip", "student.network=resnet8", f"task.classes=[{', '.join(CLASSES)}]",
    "data.mean=[0.5]", "data.std=[0.25]",
)  # fmt: skip
METADATA = (
    "network",
    "classes",
    "mean",
    "std",
    "image_shape",
    "method",
    "options",
    "taps",
    "test_accuracy",
    "format",
)
# What a library's own function for its networks would open.
_TRAPS = (
    '{"checkpoint_path": "canary.pth"}', '{"pretrained_cfg": {"file": "canary.pth"}}', '{"cache_dir": "canary"}',
    '{"pretrained": true}', '{"pretrained_cfg_overlay": {"file": "canary.pth"}}',
)  # fmt: skip
_HEADER_TEXTS = (
    "", "null", "[]", "{}", "0", "-1", "NaN", "Infinity", "1e999", "true", '"a"', '["a"', "[1, 2", '{"a": 1}', "[null]",
    "[[]]", "os:system", "timm/resnet18", "nowhere.py:Net", "resnet20", "wrn_40_2", "[3, 20000, 20000]", "[0, 0, 0]",
    '{"checkpoint_path": "canary.pth"}', '{"pretrained": true}', '{"pretrained_cfg": {"file": "canary.pth"}}',
    '{"num_classes": 5}', '{"width": 1000000}', '{"head": "cosine"}', '{"maps": ["conv1"]}', '{"head": "nothing"}',
    '["ant", "ant", "cat", "dog", "eel", "fly", "gnu", "hen"]', "9" * 5000, "[" * 2000, "\x1b[31m", "a\0b", "\u202e",
)  # fmt: skip


def _bytes(path: Path, random: Random, told: list[str]) -> bool:
    """Bytes of a file changed; False, for nothing can be said of what it holds then."""
    content = bytearray(path.read_bytes())
    how = random.choice(
        ("front flipped", "rest flipped", "cut", "longer", "zeroed", "length", "empty", "other format")
    )
    if how in ("front flipped", "rest flipped"):
        where = (0, 2000) if how == "front flipped" else (2000, len(content))
        for _ in range(random.choice((1, 1, 4))):
            content[random.randrange(*where)] ^= 1 << random.randrange(8)
    elif how == "cut":
        content = content[: random.randrange(len(content))]
    elif how == "longer":
        content += bytes(random.choice((1, 8, 4096)))
    elif how == "zeroed":
        begin = random.randrange(len(content))
        content[begin : begin + 512] = bytes(len(content[begin : begin + 512]))
    elif how == "length":
        content[:8] = struct.pack("<Q", random.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
    elif how == "empty":
        content = bytearray()
    else:
        other = path.with_suffix(".pth" if path.suffix == ".safetensors" else ".safetensors")
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    told.append(f"bytes {how}")
    return False


def _header(path: Path, random: Random, told: list[str]) -> bool:
    """The header of a safetensors file changed, its tensors as they were; True where its metadata is dropped."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    key = random.choice(METADATA)
    entry = random.choice([name for name in header if name != "__metadata__"])
    how = random.choice(
        ("metadata", "metadata", "metadata", "metadata dropped", "trap", "dtype", "shape", "offsets", "any")
    )
    if how == "metadata":
        header.setdefault("__metadata__", {})[key] = random.choice(_HEADER_TEXTS)
        told.append(f"metadata {key}={header['__metadata__'][key][:40]!r}")
    elif how == "trap":
        trap = {"network": "timm/resnet18", "options": random.choice(_TRAPS)}
        header.setdefault("__metadata__", {}).update(trap)
        told.append(trap["options"])
    elif how == "metadata dropped":
        header.pop("__metadata__", None)
    elif how == "dtype":
        header[entry]["dtype"] = random.choice(
            ("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F33", "")
        )
    elif how == "shape":
        header[entry]["shape"] = random.choice(
            ([], [0], [-1], [2**40], [1, *header[entry]["shape"]], ["a"], None)
        )
    elif how == "offsets":
        header[entry]["data_offsets"] = random.choice(([0, 0], [0, 2**60], [5, 1], [-8, 8], [1], None))
    else:
        header[random.choice((entry, "__metadata__", "more"))] = random.choice([v for v in VALUES if v == v])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])
    if how != "metadata":
        told.append(f"header {how} of {entry}")
    return how == "metadata dropped"


def _content(path: Path, random: Random, told: list[str]) -> bool:
    """Names, tensors or containers changed; True where the network's own tensors are still there."""
    tensors, _ = read_weights(path)
    if random.random() < 0.4:
        how = random.choice(list(CONTAINERS))
        torch.save(CONTAINERS[how](tensors), path)
        told.append(f"container {how}")
        return True
    how = random.choice(list(TENSOR_CHANGES))
    name = random.choice(list(tensors))
    torch.save(TENSOR_CHANGES[how](tensors, name), path)
    told.append(f"{name} {how}")
    return False


def _code(path: Path, random: Random, told: list[str]) -> bool:
    """A pickle that would make the canary where it is loaded."""
    tensors, _ = read_weights(path)
    how = random.choice(list(pickled_code(path.parent / CANARY)))
    path.write_bytes(with_code(how, tensors, path.parent / CANARY, zipped=random.random() < 0.5))
    told.append(f"a pickle that runs {how}")
    return False


def try_one(number: int, workshop: Workshop) -> Verdict:
    """A changed weight file, judged with its facts given or as it says, as a teacher or as a student's start."""
    random = seeded("weight files", number)
    reference = workshop.reference("standard")
    trained = next((reference.folder / "runs/faults").rglob("student.safetensors"))
    told: list[str] = []
    with workshop.folder() as folder:
        reference.scenario.write(folder)
        (folder / "w.safetensors").write_bytes(trained.read_bytes())
        torch.save(read_weights(trained)[0], folder / "w.pth")
        torch.save(
            {"state_dict": {"canary": pickled_code(folder / CANARY)["os.system"]}}, folder / "canary.pth"
        )
        torch_file = random.random() < 0.5
        path = folder / ("w.pth" if torch_file else "w.safetensors")
        pinned = sha256(path)
        change = random.choice((_bytes, _content, _code) if torch_file else (_bytes, _header, _header))
        same = change(path, random, told)
        use = random.choice(("eval", "alone", "teacher", "student", "pinned"))
        words = {
            "eval": ("eval", path.name, *_GIVEN),
            "alone": ("eval", path.name, *_GIVEN[:2]),
            "teacher": ("run", CONFIG, "--dry-run", f"teacher.checkpoint={path.name}"),
            "student": ("run", CONFIG, "--dry-run", f"student.checkpoint={path.name}", "method=student"),
            "pinned": (
                "run",
                CONFIG,
                "--dry-run",
                f"teacher.checkpoint={path.name}",
                f"teacher.sha256={pinned}",
            ),
        }[use]
        shown = f"{path.suffix} file, {'; '.join(told)}; {use}"
        changed = sha256(path) != pinned
        ended = workshop.command(folder, *words)
        if (folder / CANARY).exists():
            return Verdict(Outcome.LOST, f"{shown}: its code was run")
    wrong = judged_by_ending(shown, ended)
    if wrong is None and ended.code == 2 and same and use not in ("alone", "pinned"):
        return Verdict(Outcome.LOST, f"{shown}: the network's own weights are refused: {ended.last_line}")
    if wrong is not None or ended.code == 2:
        return wrong or survived(f"{shown}: refused")
    if use == "pinned" and changed:
        return Verdict(Outcome.DIFFERENT, f"{shown}: passes for the file with another checksum")
    if use == "eval" and same and _numbers(ended.out) != _numbers(_intact(workshop)):
        return Verdict(
            Outcome.DIFFERENT, f"{shown}: {_numbers(ended.out)} instead of {_numbers(_intact(workshop))}"
        )
    return survived(shown)


def _intact(workshop: Workshop) -> str:
    """What `gkd eval` prints of the file as it was."""
    reference = workshop.reference("standard")
    trained = next((reference.folder / "runs/faults").rglob("student.safetensors"))
    words = ("eval", trained.relative_to(reference.folder).as_posix(), *_GIVEN)
    return workshop.undamaged(reference, words).out


def _numbers(out: str) -> list[str]:
    """Accuracy, calibration and likelihood in the output of `gkd eval`."""
    line = next((line for line in out.splitlines() if line.startswith("accuracy")), "")
    return line.split("(")[0].split()
