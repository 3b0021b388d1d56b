"""A longer run from a finished shorter one: its last checkpoint is where the longer one begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gkd.config.resolve import Resolved
from gkd.core.errors import UserError
from gkd.experiment.run_folder import MUST_STAY, config_folder, finished, run_folder
from gkd.methods.stage import Stage
from gkd.storage.checkpoints import Checkpoint, latest_checkpoint, save_checkpoint
from gkd.storage.json_files import Damaged, read_json
from gkd.storage.records import read_record, write_record
from gkd.storage.run_files import ENVIRONMENT, ORIGIN, SUMMARY
from gkd.storage.run_results import Origin, RunSummary
from gkd.training.meter import MetricsFile


@dataclass(frozen=True)
class _Shorter:
    """A finished run of the same experiment but for its number of epochs."""

    folder: Path
    resolved: Resolved
    epochs: int


def extend(folder: Path, resolved: Resolved, epochs: int, say: Callable[[str], object]) -> None:
    """Begin a run that has no checkpoint yet at the end of a finished shorter run, where there is one.

    A method of one stage under constant schedules goes on to the same bits as a run from scratch. Any other is
    extended where the config says ``run.extend: true``, which names another run.

    Args:
        folder: the run's, locked.
        resolved: the run.
        epochs: of its one stage.
        say: is told in one line where the run begins, or why it does not begin there.

    Raises:
        UserError: ``run.extend`` without a finished shorter run that can be extended.
    """
    if latest_checkpoint(folder / "checkpoints") is not None:
        return
    shorter, asked = _longest_shorter(resolved, epochs, say), resolved.experiment.run.extend
    if shorter is None:
        if asked:
            raise UserError(
                f"run.extend=true goes on from a finished run of fewer than {epochs} epochs, and there is none in "
                f"{config_folder(resolved)}; run one first, with a smaller run.epochs and without run.extend.",
                code="nothing-to-extend",
            )
        return
    checkpoint = _last(shorter)
    reason = _changed(folder, shorter) if checkpoint is not None else "its last checkpoint is gone or damaged"
    if asked and reason is not None:
        raise UserError(
            f"run.extend=true cannot go on from {shorter.folder}: {reason}; mend that, or drop run.extend to train "
            "from scratch.",
            code="cannot-extend",
        )
    if not asked:
        reason = _other_bits(resolved, shorter) or reason
    if reason is not None or checkpoint is None:
        say(f"note      {shorter.folder} of {shorter.epochs} epochs is not gone on from: {reason}")
        return
    _begin(folder, shorter, checkpoint, epochs, exact=not asked)
    say(
        f"note      goes on from the {shorter.epochs} epochs of {shorter.folder}"
        + ("" if asked else ", to the same bits as from scratch")
    )


def read_origin(folder: Path) -> Origin | None:
    """The shorter run that a run went on from; None where it was trained from scratch."""
    path = folder / ORIGIN
    return read_record(path, Origin) if path.is_file() else None


def _longest_shorter(resolved: Resolved, epochs: int, say: Callable[[str], object]) -> _Shorter | None:
    """The finished run of the most epochs that differs in their number alone; one that is damaged is said."""
    numbers = {number for number in _epochs_there(resolved) if number < epochs}
    for number in sorted(numbers, reverse=True):
        published = sum(resolved.experiment.method.epochs(None).values()) == number
        stated = [str(number), *(["null"] if published else [])]
        extended = ["false", *(["true"] if resolved.experiment.run.extend else [])]
        for words in ([f"run.epochs={n}", f"run.extend={e}"] for n in stated for e in extended):
            other = resolved.with_overrides(words)
            folder = run_folder(other)
            try:
                if finished(folder) is not None:
                    return _Shorter(folder, other, number)
            except Damaged as error:
                say(f"note      {folder} of {number} epochs is not gone on from: {error.fact}")
    return None


def _epochs_there(resolved: Resolved) -> set[int]:
    """The numbers of epochs of the finished runs of the config and the seed."""
    numbers = set()
    for path in config_folder(resolved).glob(f"*/seed{resolved.experiment.run.seed}/{SUMMARY}"):
        try:
            numbers.add(sum(read_record(path, RunSummary).epochs.values()))
        except UserError:
            continue
    return numbers


def _last(shorter: _Shorter) -> Checkpoint | None:
    """The checkpoint at the end of a run; None where it is gone or damaged."""
    checkpoint = latest_checkpoint(shorter.folder / "checkpoints")
    if checkpoint is None:
        return None
    facts = checkpoint.facts
    at_end = (facts.get("stage"), facts.get("epoch"), facts.get("step")) == (0, shorter.epochs, 0)
    return checkpoint if at_end else None


def _changed(folder: Path, shorter: _Shorter) -> str | None:
    """Why a run on this machine would not have made the shorter run's checkpoint."""
    now, then = (read_json(each / ENVIRONMENT, keys=MUST_STAY) for each in (folder, shorter.folder))
    for key in MUST_STAY:
        if now[key] != then[key]:
            return f"it ran with {key} {then[key]}, and here {key} is {now[key]}"
    return None


def _other_bits(resolved: Resolved, shorter: _Shorter) -> str | None:
    """Why a run from scratch would not pass the shorter run's last checkpoint."""
    every, stages = resolved.experiment.evaluate.every, resolved.experiment.method.stages
    if len(stages) > 1:
        return f"its method has the stages {', '.join(stages)}, and more epochs lengthen each of them"
    reason = _changing_schedule(next(iter(stages.values())))
    if reason is not None:
        return f"{reason}, which more epochs stretch; run.extend=true goes on all the same"
    if shorter.epochs % every:
        return f"it was validated at its end, where a longer run with evaluate.every={every} is not"
    return None


def _changing_schedule(stage: Stage) -> str | None:
    """What changes over a stage by the share of it that is done; None where nothing does."""
    if stage.optimiser.schedule != "constant":
        return f"the learning rate has a {stage.optimiser.schedule} schedule"
    if stage.optimiser.warmup_epochs:
        return "the learning rate is warmed up"
    for name, term in stage.terms.items():
        if term.schedule.kind != "constant":
            return f"the weight of the term {name!r} has a {term.schedule.kind} schedule"
    return None


def _begin(folder: Path, shorter: _Shorter, checkpoint: Checkpoint, epochs: int, *, exact: bool) -> None:
    """Leave the shorter run's end in the folder as the point from which the run continues; the checkpoint last."""
    origin = Origin(
        run=str(shorter.folder),
        identity=shorter.resolved.identity,
        epochs=shorter.epochs,
        same_as_from_scratch=exact,
    )
    write_record(folder / ORIGIN, origin)
    metrics = MetricsFile(folder / "metrics.jsonl")
    metrics.cut_back(0)
    for record in MetricsFile(shorter.folder / "metrics.jsonl").read():
        metrics.add({**record, "epochs": epochs})
    step = int(checkpoint.facts["global_step"])
    parts = {"weights": checkpoint.weights, "state": checkpoint.state, "facts": checkpoint.facts}
    save_checkpoint(folder / "checkpoints", step, **parts)
