"""Episodes from learn2learn's tasksets, as numbers of samples of an image set.

A task of learn2learn is a list of descriptions: the number of a sample, and the transforms that load it. Only
the numbers are taken; no image is decoded for a task. A task does not tell support from query: a taskset that
draws K + Q samples of each class gives episodes of K shots and Q queries, the first K in the order of the
draw being the support, as its ``partition_task`` divides a task.

learn2learn is no dependency of gkd and is imported only when something here is called. It unpickles the files
of its data sets and its notes beside them (``*bookkeeping*.pkl``), and unpickling a file runs code in it:
give it a root only where you trust every file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gkd.core.errors import UserError, unknown
from gkd.core.user_code import told
from gkd.data.episodes import Episodes
from gkd.data.images import ImageSet
from gkd.data.read.torch_dataset import from_dataset

INSTALL = (
    "pip install gym requests tqdm scipy",
    'pip install --no-deps --config-settings="--build-option=build_ext" learn2learn==0.2.0',
)


SPLITS = ("train", "validation", "test")


# The files that a named taskset reads below its root; gkd names missing ones, learn2learn downloads them.
TASKSETS: dict[str, tuple[str, ...]] = {
    "omniglot": tuple(
        f"omniglot-py/images_{part}{end}" for part in ("background", "evaluation") for end in (".zip", "")
    ),
    "mini-imagenet": tuple(f"mini-imagenet-cache-{split}.pkl" for split in SPLITS),
    "tiered-imagenet": tuple(
        f"tiered-imagenet/{split}_{part}.pkl"
        for split in ("train", "val", "test")
        for part in ("images_png", "labels")
    ),
    "fc100": tuple(f"FC100_{split}.pickle" for split in ("train", "val", "test")),
    "cifarfs": ("cifarfs",),
}


# Tasksets without class names that another reader of the same data would share.
NAMELESS = ("omniglot", "tiered-imagenet", "fc100")


def learn2learn_episodes(
    name: str,
    *,
    split: str = "test",
    root: Path,
    ways: int,
    shots: int,
    queries: int,
    count: int,
    seed: int,
    allow_leak: bool = False,
) -> tuple[ImageSet, Episodes]:
    """Episodes of one of learn2learn's named tasksets, and the images that they number.

    The taskset is that of ``learn2learn.vision.benchmarks.get_tasksets``, without omniglot's rotation of a
    whole task, which sample numbers cannot express. All splits are loaded, as learn2learn does. Where
    the data has no class names (``fc100``, ``tiered-imagenet``) a class is called ``SPLIT/LABEL``.

    Args:
        name: a key of ``TASKSETS``.
        split: ``train``, ``validation`` or ``test``.
        root: the folder that learn2learn calls root; nothing is downloaded into it, but learn2learn writes its notes
            there. Only files that you trust: see the module's docstring.
        ways, shots, queries, count: N, K, Q and E of the episodes.
        seed: of learn2learn's draws, those that build the taskset (omniglot's splits) included.
        allow_leak: take a split that shares classes with another one, as every split of ``omniglot`` does:
            its tasksets draw from all 1,623 characters.

    Raises:
        UserError: learn2learn is missing, an unknown name or split, no data at root, classes that splits share, or
            a task that cannot be drawn.
    """
    for what, word, allowed in (("taskset", name, TASKSETS), ("split", split, SPLITS)):
        if word not in allowed:
            raise UserError(unknown(what, word, allowed), code=f"unknown-{what}")
    library, root = _library(), Path(root).expanduser()
    missing = [path for path in TASKSETS[name] if not (root / path).exists()]
    if missing:
        raise UserError(
            f"learn2learn's {name} needs {', '.join(missing)} in {root}; give the folder that learn2learn downloaded "
            "it into, or let learn2learn.vision.benchmarks.get_tasksets download it there.",
            code="data-file-missing",
        )
    samples = shots + queries
    with _seeded(seed):
        try:
            made = library.vision.benchmarks.get_tasksets(
                name, ways, samples, ways, samples, num_tasks=-1, root=str(root)
            )
        except Exception as error:
            raise UserError(
                f"learn2learn cannot read {name} in {root}: {told(error)}", code="taskset-unreadable"
            ) from error
    tasksets = dict(zip(SPLITS, made, strict=True))
    if not allow_leak:
        _refuse_leak(name, split, tasksets)
    taskset = tasksets[split]
    rotation = library.vision.transforms.RandomClassRotation
    taskset.task_transforms = [step for step in taskset.task_transforms if not isinstance(step, rotation)]
    images = taskset_images(taskset, name=name, unnamed=f"{split}/" if name != "omniglot" else "")
    return images, taskset_episodes(
        taskset, images.labels, shots=shots, queries=queries, count=count, seed=seed
    )


def taskset_images(taskset: Any, *, name: str = "taskset", unnamed: str = "") -> ImageSet:
    """The images that a taskset's tasks number, each read once, as its data set gives them.

    Args:
        taskset: a ``learn2learn.data.Taskset``. Its images may be what ``from_dataset`` takes; those of learn2learn's
            mini-ImageNet, floats from 0 to 255, are taken too.
        name: of the image set, for messages.
        unnamed: stands before the label in the names of classes that have none.

    Raises:
        UserError: images or labels that ``from_dataset`` refuses.
    """
    source = _source(taskset)
    names = {
        label: _name_of(source, label, unnamed) for label in sorted(set(source.indices_to_labels.values()))
    }
    return from_dataset(_Items(source, names), classes=list(names.values()), name=name)


def taskset_episodes(
    taskset: Any, labels: Tensor, *, shots: int, queries: int, seed: int, count: int | None = None
) -> Episodes:
    """The tasks of a taskset as episodes over the images that they number.

    A taskset of a fixed number of tasks gives those that it has drawn already and keeps those that are drawn here, as
    when it is iterated. Classes stand in the order of their columns. The seed is set in the global
    generators, from which learn2learn draws and which are put back; the draw depends on the versions of
    learn2learn and Python.

    Args:
        taskset: a ``learn2learn.data.Taskset`` whose tasks have ``shots + queries`` samples of each class and whose
            transforms load and relabel samples, but change no image.
        labels: int64 ``[n]``, those of the image set: of :func:`taskset_images`, or of any that holds the same
            samples in the same order.
        shots, queries: K and Q.
        seed: of the draw.
        count: E; None is the taskset's own number of tasks.

    Raises:
        UserError: labels of other data, another number of samples, samples that stand twice in a task, transforms of
            images, or more tasks than the taskset has.
    """
    source = _source(taskset)
    labels = _checked(labels.cpu(), source)
    total = taskset.num_tasks
    if count is None and total == -1:
        raise UserError(
            "The taskset has no number of tasks; say how many episodes to take (count).", code="needs-count"
        )
    count = total if count is None else count
    if count < 1 or (total != -1 and count > total):
        has = "any number of" if total == -1 else total
        raise UserError(
            f"The taskset has {has} tasks; {count} episodes cannot be taken of them.",
            code="count-out-of-range",
        )
    with _seeded(seed):
        try:
            tasks = [_task(taskset, number) for number in range(count)]
        except ValueError as error:
            raise UserError(
                f"learn2learn cannot draw a task: {told(error)} Use fewer ways, or fewer samples a class.",
                code="undrawable-task",
            ) from error
    _refuse_changed_images(taskset, tasks[0])
    return _episodes([[sample.index for sample in task] for task in tasks], labels, shots, queries)


def shared_classes(one: Any, other: Any) -> list[str]:
    """The classes that the tasks of both tasksets can have, by name.

    Decided where both number samples of one data set, or where both data sets have class names; elsewhere,
    as in learn2learn's ``fc100`` and ``tiered-imagenet``, labels cannot be compared: the list is empty.
    """
    sources = _source(one), _source(other)
    within = sources[0] is sources[1] or _innermost(sources[0]) is _innermost(sources[1])
    if not within and any(_names_in(source) is None for source in sources):
        return []
    names = [
        {_name_of(source, label, "") for label in _drawable(taskset, source)}
        for taskset, source in zip((one, other), sources, strict=True)
    ]
    return sorted(names[0] & names[1])


def _library() -> Any:
    try:
        import learn2learn
    except ImportError as error:
        lines = "".join(f"\n  {line}" for line in INSTALL)
        raise UserError(
            f"learn2learn cannot be imported ({told(error)}); where a C compiler is, install it with (`make "
            f"learn2learn` does in a clone of gkd):{lines}",
            code="package-missing",
        ) from error
    return learn2learn


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, from which learn2learn and its transforms draw, and put them back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # manual_seed of torch would touch the GPUs' too
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.default_generator.set_state(torch_state)


class _Items:
    """learn2learn's samples as ``from_dataset`` takes them, labelled by class names."""

    def __init__(self, source: Any, names: dict[Any, str]) -> None:
        self.source, self.names = source, names
        self.labels = [names[source.indices_to_labels[number]] for number in range(len(source))]
        # learn2learn's mini-ImageNet is uint8 pixels that were cast to float32.
        self.cast = isinstance(_innermost(source), _library().vision.datasets.MiniImagenet)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> tuple[Any, str]:
        image, label = self.source[number][:2]
        label = label.item() if hasattr(label, "item") else label
        return image.to(torch.uint8) if self.cast else image, self.names[label]


def _steps(taskset: Any) -> list[Any]:
    """A taskset's transforms; none where one callable makes the whole description."""
    return [] if callable(taskset.task_transforms) else list(taskset.task_transforms)


def _source(taskset: Any) -> Any:
    """The data set that the descriptions number: that of LoadData, which may differ from the taskset's."""
    loader = _library().data.transforms.LoadData
    for step in _steps(taskset):
        if isinstance(step, loader) and hasattr(step.dataset, "indices_to_labels"):
            return step.dataset
    return taskset.dataset


def _innermost(source: Any) -> Any:
    """The data set within learn2learn's wrappers."""
    while hasattr(source, "dataset"):
        source = source.dataset
    return source


def _names_in(source: Any) -> list[str] | None:
    """The class names by label, where the data set has them."""
    inner = _innermost(source)
    numbers = getattr(inner, "class_idx", None)  # mini-ImageNet's
    names = sorted(numbers, key=numbers.__getitem__) if numbers else getattr(inner, "classes", None)
    return None if names is None else [str(name) for name in names]


def _name_of(source: Any, label: Any, unnamed: str) -> str:
    names = _names_in(source) if isinstance(label, int) else None
    return names[label] if names is not None and label < len(names) else f"{unnamed}{label}"


def _drawable(taskset: Any, source: Any) -> set[Any]:
    """The labels that a taskset's transforms leave."""
    labels = set(source.labels)
    for step in _steps(taskset):
        for chosen in (getattr(step, "labels", None), getattr(step, "filter_labels", None)):
            labels = labels if chosen is None else labels & set(chosen)
    return labels


def _refuse_leak(name: str, split: str, tasksets: dict[str, Any]) -> None:
    """Refuse a split that shares classes with another one."""
    for other in SPLITS:
        shared = [] if other == split else shared_classes(tasksets[split], tasksets[other])
        if shared:
            shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
            raise UserError(
                f"learn2learn's {name} shares {len(shared)} classes between {split} and {other} ({shown}), so that "
                "what is tested may have been trained on; take another data set, or say allow_leak to use it as it is.",
                code="shared-classes",
            )


def _checked(labels: Tensor, source: Any) -> Tensor:
    """Return the labels; refuse labels that divide the samples into other classes than learn2learn's."""
    if len(labels) != len(source):
        raise UserError(
            f"The taskset numbers {len(source)} samples, but there are labels of {len(labels)}.",
            code="other-label-count",
        )
    codes = {label: code for code, label in enumerate(source.labels)}
    of_taskset = torch.tensor([codes[source.indices_to_labels[number]] for number in range(len(source))])
    pairs = torch.stack([of_taskset, labels], 1).unique(dim=0)
    if not len(pairs) == len(of_taskset.unique()) == len(labels.unique()):
        raise UserError(
            "The labels and the taskset's put samples into different classes; give the labels of the same data set "
            "in the same order.",
            code="other-classes",
        )
    return labels


def _task(taskset: Any, number: int) -> list[Any]:
    """The descriptions of one task, from the taskset's cache where it has one."""
    if taskset.num_tasks == -1:
        drawn: list[Any] = taskset.sample_task_description()
        return drawn
    descriptions: dict[int, list[Any]] = taskset.sampled_descriptions
    if number not in descriptions:
        descriptions[number] = taskset.sample_task_description()
    return descriptions[number]


def _refuse_changed_images(taskset: Any, task: list[Any]) -> None:
    """Refuse transforms that do more to a sample than to load and to relabel it."""
    transforms = _library().data.transforms
    harmless = (transforms.LoadData, transforms.RemapLabels)
    steps = _steps(taskset)
    if steps and len(task[0].transforms) > sum(isinstance(step, harmless) for step in steps):
        draws = (transforms.NWays, transforms.KShots, transforms.FusedNWaysKShots)
        understood = (*harmless, *draws, transforms.FilterLabels, transforms.ConsecutiveLabels)
        others = ", ".join(type(step).__name__ for step in steps if not isinstance(step, understood))
        raise UserError(
            f"The taskset changes the images of a task ({others}), but an episode is only numbers of samples; leave "
            "that out of its task_transforms, and augment with gkd's own data.augment.",
            code="changed-images",
        )


def _episodes(tasks: list[list[int]], labels: Tensor, shots: int, queries: int) -> Episodes:
    """Groups each task's samples by class, in the order in which they were drawn."""
    samples = shots + queries
    asked = f"{samples} samples of each class ({shots} shots and {queries} queries)"
    if {len(task) % samples for task in tasks} != {0} or len({len(task) for task in tasks}) != 1:
        sizes = sorted({len(task) for task in tasks})
        raise UserError(
            f"The taskset's tasks have {', '.join(map(str, sizes[:5]))} samples; each needs {asked}, so let KShots "
            f"draw {samples}.",
            code="other-task-size",
        )
    numbers = torch.tensor(tasks)
    if (numbers.sort(1).values.diff(dim=1) == 0).any():
        raise UserError("A task holds a sample twice; draw without replacement.", code="sample-twice")
    columns, order = labels[numbers].sort(dim=1, stable=True)
    columns = columns.view(len(tasks), -1, samples)
    if (columns[:, :, :1] != columns).any() or (columns[:, :, 0].diff(dim=1) == 0).any():
        raise UserError(
            f"A task has more samples of one class than of another; each needs {asked}.",
            code="uneven-classes",
        )
    return Episodes(numbers.gather(1, order).view_as(columns), columns[:, :, 0].contiguous(), shots)
