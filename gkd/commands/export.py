"""Export: a student with its class names and input normalisation, as one file that is checked by running it.

All formats carry the same metadata, strings by name: ``network``, ``options``, ``classes`` (a JSON list in column
order), ``image_shape`` (C,H,W), and ``preprocessing`` (JSON: the steps from a photograph to the answer). Programs (pt2,
ONNX) take float images ``[B, C, H, W]`` in [0, 1] and give logits ``[B, num_classes]``; the normalisation is inside, so
``mean`` and ``std`` stand by themselves only in safetensors. Nothing of the training is in the file: no teacher, no
adapter.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from gkd.config.resolve import override_layers
from gkd.config.trust import check_name, named_in
from gkd.config.yaml_files import read_yaml
from gkd.core.class_means import cosines_to_means
from gkd.core.errors import UserError, unknown
from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.core.user_code import told
from gkd.experiment.run_folder import finished, said_below
from gkd.models.load import load_network
from gkd.storage.preprocessing import HEAD, KEY, Fit, Preprocessing
from gkd.storage.run_files import WEIGHTS
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.weight_metadata import CompleteMetadata, WeightMetadata
from gkd.storage.weights import plain_tensors, read_header
from gkd.storage.whole_files import write_whole

TOLERANCE = 1e-4  # of a logit, or of the largest where that is above 1

_OVERRIDES = ("student.network", "data.image_size", "data.fit")


@dataclass(frozen=True)
class Student:
    """A trained student and how its input is prepared.

    Attributes:
        network: in eval mode, on the CPU, in float32.
        metadata: its classes, input normalisation and image shape.
        preprocessing: of photographs, and which classifier answers.
        header: the strings that go into an exported weight file: those of the weight file.
        source: the weight file.
        class_means: ``[C, D]``, by which a run is judged that no head answers for; None where its file holds none.
    """

    network: nn.Module
    metadata: CompleteMetadata
    preprocessing: Preprocessing
    header: dict[str, str]
    source: Path
    class_means: Tensor | None = None

    @property
    def program_means(self) -> Tensor | None:
        """The class means by which a program answers; None where it answers by the head.

        That is so, too, where the embedding is the output of another module than feeds the head (``taps.embedding``).
        """
        apart = isinstance(self.network, TappedNetwork) and self.network.embedding is not None
        return None if apart else self.class_means


class Pixels(nn.Module):
    """A student that takes images in [0, 1]: the normalisation, the network, and the class means that answer."""

    mean: Tensor
    std: Tensor
    class_means: Tensor | None

    def __init__(self, student: Student) -> None:
        super().__init__()
        network = student.network
        self.network = network.module if isinstance(network, TappedNetwork) else network
        if student.program_means is not None:
            self.network = _embedding_of(network)
        self.register_buffer("class_means", student.program_means)
        self.register_buffer("mean", torch.tensor(student.metadata.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(student.metadata.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or cosines to the class means, ``[B, num_classes]`` of images ``[B, C, H, W]`` in [0, 1]."""
        output: Tensor = self.network((images - self.mean) / self.std)
        return output if self.class_means is None else cosines_to_means(output, self.class_means)


class _Embedding(nn.Module):
    """The embedding of a network of gkd's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        embedding: Tensor = self.network.features(images).embedding  # type: ignore[operator]
        return embedding


def _embedding_of(network: nn.Module) -> nn.Module:
    """A network from images to the embedding, which of a tapped one is the input of its head."""
    if not isinstance(network, TappedNetwork):
        return _Embedding(network)
    module = copy.deepcopy(network.module)
    module.set_submodule(network.head_path, nn.Identity())
    return module


def load_student(
    run: Path, which: str = "last", overrides: Sequence[str] = (), *, verb: str = "gkd export"
) -> Student:
    """Load the student of a run folder, or of a weight file with gkd's metadata.

    Args:
        run: the folder or the file.
        which: ``last`` or ``best``, of a folder.
        overrides: ``student.network=pkg.module:name``, without which no module is imported on the file's word
            alone; ``data.image_size=N`` and ``data.fit=stretch`` (or ``crop``) for a file that does not say how large
            its images are, and how photographs become so.
        verb: who asks, for the errors.

    Raises:
        UserError: no such run or file, a file without metadata, or a network that cannot be built or fed.
    """
    path = run / WEIGHTS[which] if run.is_dir() else run
    if run.is_dir() and not path.is_file():
        raise UserError(
            f"{run} holds no {path.name}; {verb} takes the folder of a finished run, or a weight file."
            f"{said_below(run)}",
            code="weights-missing",
        )
    stated = _stated(overrides, verb)
    header = read_header(path)
    metadata = WeightMetadata.from_header(header, path)
    size = stated.get("data.image_size")
    if size is not None and metadata.mean is not None:
        metadata = replace(metadata, image_shape=(len(metadata.mean), int(size), int(size)))
        header["image_shape"] = metadata.to_header()["image_shape"]
    if metadata.absent() == ["image_shape"]:
        raise UserError(
            f"{path} does not say how large its images are; add data.image_size=32, or what it is.",
            code="image-size-missing",
        )
    complete = metadata.complete(path, f"{verb} takes a run folder, or a weight file of gkd's")
    name = complete.network
    check_name(name, "student.network", named_in([stated]))
    if stated.get("student.network", name) != name:
        raise UserError(
            f"{path} was trained as {name!r}, not as {stated['student.network']!r}; drop student.network.",
            code="other-network",
        )
    network = load_network(
        path, network=name, in_channels=len(complete.mean), image_shape=complete.image_shape
    ).network
    (width,) = output_shapes(network, complete.image_shape).embedding
    means = metadata.class_means
    if means is not None and means.shape[1] != width:
        raise UserError(
            f"What {path} says cannot be: its class_means are of {means.shape[1]} numbers, and the embedding of its "
            f"network is of {width}; the file was changed by something else.",
            code="header-unreadable",
        )
    preprocessing = _preprocessing(metadata, run, path, stated.get("data.fit"))
    header[KEY] = complete.described(preprocessing, inside=False)
    return Student(network.eval(), complete, preprocessing, header, path, means)


def _preprocessing(metadata: WeightMetadata, run: Path, path: Path, fit: str | None) -> Preprocessing:
    """The preprocessing of a weight file; of one from before it was written there, as its run says.

    Args:
        metadata: of the file.
        run: the run folder, or the file.
        path: the file.
        fit: as the user states it.

    Raises:
        UserError: an unknown ``fit``, or another than the file's.
    """
    found = metadata.preprocessing
    if found is None:
        config = run / "config.yaml"
        data = read_yaml(config).get("data") if config.is_file() else None
        summary = finished(run) if run.is_dir() else None
        found = Preprocessing.of_former(data, HEAD if summary is None else summary.judged_by)
    if fit is None or found.fit == fit:
        return found
    if fit not in get_args(Fit):
        raise UserError(unknown("data.fit", fit, get_args(Fit)), code="unknown-fit")
    if found.fit is not None:
        raise UserError(
            f"{path} was trained with data.fit={found.fit}, not with {fit}; drop data.fit.", code="other-fit"
        )
    return replace(found, fit=cast(Fit, fit))


def _stated(overrides: Sequence[str], verb: str) -> dict[str, str]:
    """Parse the overrides: key -> value; refuses every key that is not in ``_OVERRIDES``."""
    override_layers(overrides)  # refuses what is not of the form a.b=c
    stated = dict(override.split("=", 1) for override in overrides)
    for key in stated:
        if key not in _OVERRIDES:
            raise UserError(
                unknown(f"override of {verb}", key, _OVERRIDES), code="unknown-override-of-gkd-export"
            )
    size = stated.get("data.image_size", "1")
    if not size.isdecimal() or size == "0":
        raise UserError(
            f"data.image_size is a number of pixels, 1 or more; {size!r} was given.",
            code="image-size-out-of-range",
        )
    return stated


def export_student(student: Student, form: str, out: Path | None = None) -> tuple[Path, float]:
    """Write a student in one of ``FORMATS`` and run the file on random images of two batch sizes.

    Args:
        student: what to export.
        form: the format.
        out: the file, or a folder for it; None puts it into ``export/`` beside the weights.

    Returns:
        The file, and the largest difference between its logits and the student's.

    Raises:
        UserError: a missing extra, a network that cannot be exported, or a file whose logits are others; no file
            is left then, and one that was there before is whole.
    """
    write, run = _WRITERS[form], _RUNNERS[form]
    if form == "onnx":
        _need_export_extra()
    name = f"{student.source.stem}.{form}"
    path = out or student.source.parent / "export" / name
    if path.is_dir():
        path /= name
    difference = 0.0

    def write_and_check(aside: Path) -> None:
        nonlocal difference
        with _quiet():
            write(student, aside)
            difference, allowed = _difference(student, run(aside))
        if not difference <= allowed:
            raise UserError(
                f"The {form} file of {student.source} gives other logits than the student, by {difference:.1e} where "
                f"{allowed:.1e} is allowed; it was not kept.",
                code="other-logits",
            )

    try:
        write_whole(path, write_and_check, suffix=f".{form}")
    except (UserError, OSError):
        raise
    except Exception as error:  # an exporter's own complaint about the network
        raise UserError(
            f"{student.metadata.network} cannot be exported as {form}: {told(error)}", code="export-failed"
        ) from error
    return path, difference


@torch.no_grad()
def _difference(student: Student, run: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The largest difference of logits on random images of two batch sizes, and what is allowed."""
    generator = torch.Generator().manual_seed(0)
    largest, allowed = 0.0, TOLERANCE
    for batch in (1, 5):
        images = torch.rand(batch, *student.metadata.image_shape, generator=generator)
        expected = Pixels(student).eval()(images)
        logits = run(images)
        if logits.shape != expected.shape:
            return float("inf"), allowed
        largest = max(largest, float((logits - expected).abs().max()))
        allowed = max(allowed, TOLERANCE * float(expected.abs().max()))
    return largest, allowed


def _program_header(student: Student) -> dict[str, str]:
    """The strings that go into a program, which normalises and compares with class means by itself."""
    header = {key: text for key, text in student.header.items() if key not in ("mean", "std", "class_means")}
    by_means = student.program_means is not None
    return header | {KEY: student.metadata.described(student.preprocessing, inside=True, by_means=by_means)}


def _write_safetensors(student: Student, path: Path) -> None:
    write_safetensors(path, plain_tensors(student.network.state_dict()), student.header)


def _run_safetensors(path: Path) -> Callable[[Tensor], Tensor]:
    trusted = [f"student.network={read_header(path)['network']}"]  # since the student was loaded
    return Pixels(load_student(path, overrides=trusted)).eval()


def _write_pt2(student: Student, path: Path) -> None:
    images = torch.zeros(2, *student.metadata.image_shape)
    program = torch.export.export(Pixels(student).eval(), (images,), dynamic_shapes=_batch_of_any_size())
    torch.export.save(program, path, extra_files=_program_header(student))


def _run_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _write_onnx(student: Student, path: Path) -> None:
    images = torch.zeros(2, *student.metadata.image_shape)
    program = torch.onnx.export(
        Pixels(student).eval(),
        (images,),
        dynamo=True,
        verbose=False,
        dynamic_shapes=_batch_of_any_size(),
        input_names=["images"],
        output_names=["logits"],
    )
    if program is None:
        raise TypeError("torch.onnx gave no program")
    program.model.metadata_props.update(_program_header(student))
    program.save(path)


def _run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


_WRITERS = {"safetensors": _write_safetensors, "pt2": _write_pt2, "onnx": _write_onnx}
_RUNNERS = {"safetensors": _run_safetensors, "pt2": _run_pt2, "onnx": _run_onnx}


def _batch_of_any_size() -> dict[str, dict[int, Any]]:
    return {"images": {0: torch.export.Dim("batch")}}


def _need_export_extra() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(
                f"Export to ONNX needs {module}: pip install 'gkd-torch[export]'", code="package-missing"
            ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and warnings off the terminal: the check says whether the file is right."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
