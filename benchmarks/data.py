"""Images a second, start-up time and peak memory of the two paths of data, beside torchvision's pipelines.

In memory: batches of 128 of a class-folder zip, crop-flip-normalise, beside torchvision's per-image PIL pipeline and
its v2 transforms over the same decoded pixels, two worker processes. Streamed: the same zip decoded while training,
beside torchvision's ImageFolder over the unpacked files; and photographs of 256x320 (JPEG, made of the data set's
images by enlarging them), random-resized-crop-flip to 224, both ways. Start: decoding the zip once, and every later
start.

Every cell is a process of its own; memory is the peak resident set of the process and of its largest worker.

    python benchmarks/data.py --root tiny-imagenet-100-32px.zip --out benchmarks/results/data.json
    python docs/embed.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from _measure import arguments, facts, write

Cell = dict[str, Any]
BATCH = 128
PHOTO, CROP, PHOTOS = (256, 320), 224, 6000
LOOK = {"mean": (0.48, 0.45, 0.40), "std": (0.28, 0.27, 0.28)}
WANTED_RATIO, WANTED_START = 4.0, 2.0  # in memory over PIL; seconds


def rate(epoch: Callable[[int], Iterable[Any]], count: int, repeats: int) -> Cell:
    """Median images a second over whole epochs, the first of which is not timed."""
    seconds = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        seen = sum(len(labels) for labels in epoch(number))
        seconds.append(time.perf_counter() - start)
        assert seen == count, (seen, count)
    return {"images_per_second": count / statistics.median(seconds[1:]), "epochs": repeats, "images": count}


def gkd_epochs(root: Path, repeats: int, *, memory_gb: float, augment: str, image_size: int | None) -> Cell:
    """Batches of gkd, in memory or streamed by two workers."""
    from gkd.data import Batches, Look, load_images

    images = load_images(
        "folder", "train", root=root, memory_gb=memory_gb, workers=2, channels=3, image_size=image_size
    )
    batches = Batches(images, Look(**LOOK, augment=augment), batch_size=BATCH, seed=0, drop_last=False)
    return rate(lambda epoch: (batch.labels for batch in batches.epoch(epoch)), len(images), repeats)


def torchvision_epochs(dataset: Any, count: int, repeats: int) -> Cell:
    """A DataLoader of two workers, as torchvision's and the peers' training scripts build it."""
    from torch.utils.data import DataLoader

    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    return rate(lambda _: (labels for _, labels in loader), count, repeats)


def over_arrays(root: Path, repeats: int, version: str) -> Cell:
    """torchvision's transforms image by image over decoded pixels, as its CIFAR datasets hold them."""
    import torch
    from PIL import Image
    from torch.utils.data import Dataset
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    from gkd.data import load_images

    images = load_images("folder", "train", root=root, channels=3)
    side = images.size[0]
    pixels, labels = images.images, images.labels.tolist()
    crop = (side, side // 8)
    if version == "PIL":
        arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        parts: list[Any] = [v1.RandomCrop(crop[0], padding=crop[1]), v1.RandomHorizontalFlip(), v1.ToTensor()]
        transform: Any = v1.Compose([*parts, v1.Normalize(LOOK["mean"], LOOK["std"])])
    else:
        parts = [v2.RandomCrop(crop[0], padding=crop[1]), v2.RandomHorizontalFlip()]
        scale = v2.ToDtype(torch.float32, scale=True)
        transform = v2.Compose([*parts, scale, v2.Normalize(LOOK["mean"], LOOK["std"])])

    class Arrays(Dataset[tuple[Any, int]]):
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image = Image.fromarray(arrays[index]) if version == "PIL" else pixels[index]
            return transform(image), labels[index]

    return torchvision_epochs(Arrays(), len(images), repeats)


def over_files(root: Path, repeats: int, *, crop: int | None) -> Cell:
    """torchvision's ImageFolder with the usual transforms."""
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    first: list[Any] = [v1.RandomResizedCrop(crop)] if crop else [v1.RandomCrop(32, padding=4)]
    parts = [*first, v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(LOOK["mean"], LOOK["std"])]
    dataset = ImageFolder(str(root / "train"), v1.Compose(parts))
    return torchvision_epochs(dataset, len(dataset), repeats)


def start(root: Path) -> Cell:
    """Both splits ready for training, after torch and gkd have been imported."""
    began = time.perf_counter()
    from gkd.data import load_images

    imported = time.perf_counter()
    count = sum(len(load_images("folder", split, root=root, channels=3)) for split in ("train", "test"))
    return {"seconds": time.perf_counter() - imported, "import_seconds": imported - began, "images": count}


# name -> (what a reader is told, function of (zip, folder, photographs, repeats))
CELLS: dict[str, tuple[str, Callable[[Path, Path, Path, int], Cell]]] = {
    "first start": ("decodes every image and keeps the pixels", lambda z, f, p, n: start(z)),
    "later start": ("reads and checks what was kept", lambda z, f, p, n: start(z)),
    "gkd, in memory": (
        "uint8 tensor, whole batches",
        lambda z, f, p, n: gkd_epochs(z, n, memory_gb=8, augment="crop-flip", image_size=None),
    ),
    "torchvision, PIL": (
        "per image, 2 workers, decoded before",
        lambda z, f, p, n: over_arrays(z, max(n // 3, 1), "PIL"),
    ),
    "torchvision, v2": (
        "per image, 2 workers, decoded before",
        lambda z, f, p, n: over_arrays(z, max(n // 3, 1), "v2"),
    ),
    "gkd, streamed": (
        "from the zip, 2 workers",
        lambda z, f, p, n: gkd_epochs(z, max(n // 3, 1), memory_gb=0, augment="crop-flip", image_size=32),
    ),
    "torchvision, ImageFolder": (
        "unpacked files, 2 workers",
        lambda z, f, p, n: over_files(f, max(n // 3, 1), crop=None),
    ),
    "gkd, photographs": (
        "256x320 JPEG to 224, 2 workers",
        lambda z, f, p, n: gkd_epochs(
            p, max(n // 3, 1), memory_gb=0, augment="random-resized-crop-flip", image_size=CROP
        ),
    ),
    "torchvision, photographs": (
        "256x320 JPEG to 224, 2 workers",
        lambda z, f, p, n: over_files(p, max(n // 3, 1), crop=CROP),
    ),
}
# cell -> the cell whose rate is the unit of its ratio
AGAINST = {
    "gkd, in memory": "torchvision, PIL",
    "torchvision, v2": "torchvision, PIL",
    "gkd, streamed": "torchvision, ImageFolder",
    "gkd, photographs": "torchvision, photographs",
}


def in_process(name: str, places: tuple[Path, Path, Path], args: argparse.Namespace) -> Cell:
    """One cell, measured by a new interpreter."""
    command = [
        sys.executable,
        __file__,
        "--cell",
        name,
        "--root",
        str(places[0]),
        "--places",
        *map(str, places[1:]),
    ]
    command += ["--repeats", str(args.repeats), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the cell {name!r} failed:\n{done.stderr}")
    cell: Cell = json.loads(done.stdout.splitlines()[-1])
    print(
        name,
        {key: round(value, 2) if isinstance(value, float) else value for key, value in cell.items()},
        flush=True,
    )
    return cell


def make_photographs(folder: Path, parent: Path) -> None:
    """``PHOTOS`` JPEGs of a photograph's size, enlarged images of the data set; a test split of one each class."""
    from PIL import Image

    files = sorted((folder / "train").rglob("*.*"))
    for number, path in enumerate(files[:: max(len(files) // PHOTOS, 1)][:PHOTOS]):
        target = parent / "train" / f"class{number % 10}" / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path).convert("RGB").resize(PHOTO[::-1], Image.Resampling.BICUBIC)
        image.save(target, quality=90)
        if number < 10:
            other = parent / "test" / target.relative_to(parent / "train")
            other.parent.mkdir(parents=True, exist_ok=True)
            image.save(other)


def run(args: argparse.Namespace) -> dict[str, Any]:
    cells: dict[str, Cell] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, photographs = Path(scratch) / "unpacked", Path(scratch) / "photographs"
        with zipfile.ZipFile(args.root) as archive:
            archive.extractall(folder)
        make_photographs(folder, photographs)
        os.environ["GKD_CACHE"] = str(Path(scratch) / "cache")
        for name in CELLS:
            cells[name] = in_process(name, (args.root, folder, photographs), args)
    for name, unit in AGAINST.items():
        cells[name]["ratio"] = cells[name]["images_per_second"] / cells[unit]["images_per_second"]
        cells[name]["against"] = unit
    ratio, seconds = cells["gkd, in memory"]["ratio"], cells["later start"]["seconds"]
    wanted = [
        ("in memory over PIL, at least", WANTED_RATIO, ratio, ratio >= WANTED_RATIO),
        ("seconds of a later start, under", WANTED_START, seconds, seconds < WANTED_START),
    ]
    keys = ("what", "limit", "measured", "reached")
    return {
        **facts(args),
        "data": args.root.name,
        "batch": BATCH,
        "cells": cells,
        "wanted": [dict(zip(keys, line, strict=True)) for line in wanted],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: one line a cell."""
    lines = [
        "| path | how | images | images / s | × | seconds | peak memory |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, cell in result["cells"].items():
        speed = f"{cell['images_per_second']:,.0f}" if "images_per_second" in cell else ""
        ratio = f"{cell['ratio']:.1f} of {cell['against']}" if "ratio" in cell else ""
        seconds = f"{cell['seconds']:.2f}" if "seconds" in cell else ""
        memory = f"{cell['peak_bytes'] / 2**20:,.0f} MiB"
        if "2 workers" in CELLS[name][0]:
            memory += f" + {cell['worker_peak_bytes'] / 2**20:,.0f} MiB a worker"
        lines.append(
            f"| {name} | {CELLS[name][0]} | {cell['images']:,} | {speed} | {ratio} | {seconds} | {memory} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="a class-folder zip of 32x32 images")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # what the process of one cell is told
    parser.add_argument("--places", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        import torch

        torch.set_num_threads(args.threads)
        cell = CELLS[args.cell][1](args.root, *args.places, args.repeats)
        for key, who in (
            ("peak_bytes", resource.RUSAGE_SELF),
            ("worker_peak_bytes", resource.RUSAGE_CHILDREN),
        ):
            cell[key] = 1024 * resource.getrusage(who).ru_maxrss
        print(json.dumps(cell))
        return 0
    result = run(args)
    print(table(result))
    for line in result["wanted"]:
        print(
            f"{line['what']} {line['limit']:g}: {line['measured']:.2f}{'' if line['reached'] else ', missed'}"
        )
    if args.out:
        write(result, table(result), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
