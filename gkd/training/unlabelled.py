"""Whether a stage can train on images without labels."""

from __future__ import annotations

from gkd.core.errors import UserError
from gkd.data import unlabelled_rows
from gkd.methods.stage import WITHOUT_LABELS, Stage
from gkd.problems.problem import Problem


def check_unlabelled(name: str, stage: Stage, problem: Problem, batch_size: int | None = None) -> None:
    """Refuse a stage on images without labels where there are none, too few, or a term that cannot use them.

    Args:
        name: the stage's.
        stage: one that takes no such images passes.
        problem: its images and classes.
        batch_size: of the run; None does not look whether the images fill a batch's share.

    Raises:
        UserError: no such images, a share that leaves a batch without a row of one kind, fewer images than a batch
            takes, or a term on logits that is on rows whose label the teacher has.
    """
    if stage.data not in WITHOUT_LABELS:
        return
    if problem.unlabelled is None:
        raise UserError(
            f"The stage {name!r} trains on data: {stage.data}, and there are no images without labels; name their "
            f"folder or zip by data.unlabelled.root, or set method.stages.{name}.data=all.",
            code="no-unlabelled-images",
        )
    if stage.data == "both" and batch_size is not None:
        unlabelled_rows(batch_size, stage.unlabelled_share, problem.unlabelled)
    # Over classes that the teacher has in part, such a term is on rows whose label the teacher has.
    in_part = not problem.relation.known.all()
    by_label = [
        key
        for key, term in stage.terms.items()
        if in_part and term.needs_shared_classes and (term.rows or problem.rows) == "known"
    ]
    usable = [key for key, term in stage.terms.items() if not term.reads_labels and key not in by_label]
    if by_label and (stage.data == "unlabelled" or not usable):
        raise UserError(
            f"The stage {name!r} trains on data: {stage.data}, but its term {by_label[0]!r} cannot use images without "
            "labels: it compares logits where the teacher has the image's class, and the teacher has a part of the "
            f"classes alone; set method.stages.{name}.terms.{by_label[0]}.rows=all, or take a loss on embeddings or "
            "maps.",
            code="no-term-without-labels",
        )
