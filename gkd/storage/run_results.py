"""Results of a run: its summary, and the cell of a grid that is made from it."""

from __future__ import annotations

from pydantic import BaseModel, JsonValue, model_validator

from gkd.storage.judged import RECORD, Correctness, EpisodeAnswers, Judged, RelationFacts, TeacherResult
from gkd.storage.records import VERSION, content_of, with_kind
from gkd.storage.step_results import IncrementalResult, Matrices


class GenerationResult(BaseModel):
    """A generation of students, of which each teaches the next.

    Attributes:
        run: its folder.
        identity: of its run.
        weights: the name of the student that teaches the next one (``gkd.storage.weight_metadata.weights_name``); None
            where its file is gone.
        last, best: test accuracy in percent of the last epoch's student, and of the one that validation chose.
    """

    model_config = RECORD

    run: str
    identity: str
    weights: str | None
    last: float
    best: float


class PeerResult(BaseModel):
    """The second of two students that were trained together.

    Attributes:
        network: its name.
        parameters: how many it has.
        last, best: test-set results of the last epoch, and of the epoch that validation chose for the first student.
    """

    model_config = RECORD

    network: str
    parameters: int
    last: Judged
    best: Judged


class Results(BaseModel):
    """The fields that a run's summary and a grid's cell share.

    Attributes:
        version: of the file's format, see ``gkd.storage.records.VERSION``.
        kind: of the results; it chooses the table.
        config, identity, method, seed: which run it is.
        relation: between the teacher's classes and the student's.
        epochs: stage -> its epochs.
        last, best: the student of the last epoch, and of the epoch that validation chose.
        teacher: the teacher, of several the first; None where the method needs none.
        teachers: several teachers by name; none where there is one.
        generations: the generations up to the run's own, from the first; none where there is one.
        ensemble: test accuracy in percent of the mean of their last students' logits; None where there is one
            generation, its head is not judged, or a student's file is gone.
        peer: the second of two students that were trained together; None where one was.
        leak: novel classes that the teacher was trained on.
        incremental: the steps of an incremental run.
        empty_batches: ``stage/term`` -> how many batches held nothing for the term.
        images_per_second, seconds: of training.
        parameters: of the student.
        test_images: how many there are.
        versions, threads, device, precision, commit: what the result depends on besides its config.
    """

    model_config = RECORD

    version: int = VERSION
    kind: str
    config: str
    identity: str
    method: str
    seed: int
    relation: RelationFacts
    epochs: dict[str, int]
    last: Judged
    best: Judged
    teacher: TeacherResult | None
    teachers: dict[str, TeacherResult] = {}
    generations: list[GenerationResult] = []
    ensemble: float | None = None
    peer: PeerResult | None = None
    leak: list[str] = []
    incremental: IncrementalResult | None = None
    empty_batches: dict[str, int]
    images_per_second: float
    seconds: float
    parameters: int
    test_images: int
    versions: dict[str, str]
    threads: int
    device: str
    precision: str
    commit: str | None

    @model_validator(mode="before")
    @classmethod
    def _of_early_files(cls, content: object) -> object:
        return with_kind(content)

    @property
    def all_teachers(self) -> dict[str, TeacherResult]:
        """What a sentence calls each teacher, ``the teacher`` or ``the teacher NAME`` -> its results."""
        if self.teachers:
            return {f"the teacher {name}": teacher for name, teacher in self.teachers.items()}
        return {} if self.teacher is None else {"the teacher": self.teacher}

    def judged(self, which: str) -> Judged:
        """The student of the ``last`` epoch, or the ``best`` on validation."""
        return self.best if which == "best" else self.last


class Origin(BaseModel):
    """The shorter run that a run went on from.

    Attributes:
        run: its folder.
        identity, epochs: its own.
        same_as_from_scratch: whether the longer run is, to the bit, what it would be from scratch.
    """

    model_config = RECORD

    run: str
    identity: str
    epochs: int
    same_as_from_scratch: bool


class RunSummary(Results):
    """``summary.json`` of a finished run.

    Attributes:
        origin: the shorter run that it went on from; None where it was trained from scratch.
        judged_by: the classifier that is judged: the head, or the nearest class mean.
        note: what ``last`` and ``best`` mean.
        bookkeeping_seconds: of an incremental run, for evaluation and memory.
        command: the command line.
    """

    origin: Origin | None = None
    judged_by: str = "head"
    note: str = ""
    bookkeeping_seconds: float | None = None
    command: str = ""


class Cell(Results):
    """A finished cell of a grid: a run's results, with all that tables compare image by image.

    Attributes:
        label: the row's name: the method, or a labelled variant of it.
        axes: dotted key -> value of the other axes.
        correct: which test images the students get right.
        episodes: the answers to the novel episodes of a few-shot task.
        matrix: the accuracy matrices of an incremental run.
    """

    label: str
    axes: dict[str, JsonValue]
    correct: Correctness
    episodes: EpisodeAnswers | None = None
    matrix: Matrices | None = None


class AbsentCell(BaseModel):
    """A row of a table that the label relation rules out.

    Attributes:
        label, axes: as of a cell.
        relation: the kind of the label relation.
        absent: the reason.
    """

    model_config = RECORD

    label: str
    axes: dict[str, JsonValue]
    relation: str
    absent: str

    def content(self) -> dict[str, object]:
        """The row as column -> value, as in the files of a table."""
        return dict(content_of(self))


def cell_of(
    summary: RunSummary,
    *,
    label: str,
    axes: dict[str, JsonValue],
    correct: Correctness,
    episodes: EpisodeAnswers | None = None,
    matrix: Matrices | None = None,
) -> Cell:
    """The cell of a finished run, with the extra keys that a task adds to the summary, without single classes."""
    summary_only = RunSummary.model_fields.keys() - Results.model_fields.keys()
    content: dict[str, object] = {"version": VERSION, "label": label, "axes": axes, "correct": correct}
    content |= {name: value for name, value in summary if name in summary.model_fields_set - summary_only}
    content |= {"last": summary.last.without_classes(), "best": summary.best.without_classes()}
    content |= summary.model_extra or {}
    content |= {"episodes": episodes} if episodes is not None else {}
    content |= {"matrix": matrix} if matrix is not None else {}
    for key in ("leak", "teachers", "generations"):
        if not getattr(summary, key):
            content.pop(key, None)
    return Cell.model_validate(content)
