"""The inputs that a loss may read: the names of its positional parameters, and the properties of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NEEDS", "Need", "reads_teacher"]


@dataclass(frozen=True)
class Need:
    """The properties of one input of a loss; ``gkd.distill.inputs.PROVIDERS`` says how it is computed.

    Attributes:
        about: a description, with its shape.
        from_teacher: it comes from a teacher, so that a term that reads it needs one.
        at_spot: it is the output at the term's spot (``at:``).
        after: it is the output at the spot that follows the term's in the list, so that two spots are needed.
        every: it is the outputs at all of the term's spots, one after the other.
        per_sample: its first dimension is the batch.
        in_episodes: only an episode has it.
        of_one_image: it belongs to one image a row, so that a mixture of images has none.
        interpolates: for mixtures, it can be interpolated from the teacher's outputs for the images.
        from_labels: it says something of the sample's label, so that a sample without one has none.
        cosine_head: it comes from a head that computes cosines (``gkd.models.heads``).
        linear_head: it is a parameter of a linear head.
        from_peer: it comes from a second student that is trained beside the first (``gkd.distill.peers``).
    """

    about: str
    from_teacher: bool = False
    at_spot: bool = False
    after: bool = False
    every: bool = False
    per_sample: bool = True
    in_episodes: bool = False
    of_one_image: bool = False
    interpolates: bool = False
    from_labels: bool = False
    cosine_head: bool = False
    linear_head: bool = False
    from_peer: bool = False


# A third party adds one with ``gkd.distill.inputs.add_provider``.
NEEDS: dict[str, Need] = {
    "student_logits": Need("the student's logits [B, C]; [B, shared] beside the teacher's"),
    "teacher_logits": Need(
        "the teacher's logits of the shared classes [B, shared]", from_teacher=True, interpolates=True
    ),
    "peer_logits": Need("the logits of the student that is trained beside it [B, C]", from_peer=True),
    "student_embedding": Need("the student's embedding [B, D_S]"),
    "teacher_embedding": Need("the teacher's embedding [B, D_T]", from_teacher=True),
    "student_cosines": Need("the cosines of the student's head [B, C]", cosine_head=True),
    "student_scale": Need(
        "what the head multiplies its cosines by, 0-dim", per_sample=False, cosine_head=True
    ),
    "student": Need("the student's output at the term's spot [B, ...]", at_spot=True),
    "teacher": Need("the teacher's output at the term's spot [B, ...]", from_teacher=True, at_spot=True),
    "student_map": Need("the student's map at the term's spot [B, C, H, W]", at_spot=True),
    "student_map_after": Need("the student's map at the spot after it", at_spot=True, after=True),
    "teacher_map": Need("the teacher's map at the term's spot [B, C, H, W]", from_teacher=True, at_spot=True),
    "teacher_map_after": Need(
        "the teacher's map at the spot after it", from_teacher=True, at_spot=True, after=True
    ),
    "student_maps": Need("the student's maps at all of the term's spots, a list", at_spot=True, every=True),
    "teacher_maps": Need(
        "the teacher's maps at all of the term's spots, a list", from_teacher=True, at_spot=True, every=True
    ),
    "student_pooled_map": Need("the student's map whose mean over space is its embedding [B, D_S, H, W]"),
    "teacher_pooled_map": Need(
        "the teacher's map whose mean over space is its embedding [B, D_T, H, W]", from_teacher=True
    ),
    "student_weight": Need(
        "the weight of the student's head [C, D_S]; [shared, D_S] beside the teacher's",
        per_sample=False,
        linear_head=True,
    ),
    "teacher_weight": Need(
        "the weight of the teacher's head for the shared classes [shared, D_T]",
        from_teacher=True,
        per_sample=False,
        linear_head=True,
    ),
    "teacher_bias": Need(
        "the bias of the teacher's head for the shared classes [shared]",
        from_teacher=True,
        per_sample=False,
        linear_head=True,
    ),
    "epoch": Need("the epoch of the method's own, a 0-dim tensor, with a fraction", per_sample=False),
    "labels": Need(
        "int64 [B], the student's columns; the shared ones beside teacher_logits",
        of_one_image=True,
        from_labels=True,
    ),
    "index": Need("int64 [B], each sample's number in its data set", of_one_image=True),
    "centres": Need(
        "class centres [C, D_T] in the teacher's embedding",
        from_teacher=True,
        per_sample=False,
        of_one_image=True,
    ),
    "way": Need(
        "int64 [B], which class of its episode", in_episodes=True, of_one_image=True, from_labels=True
    ),
    "support": Need(
        "Bool [B], support or query of its episode", in_episodes=True, of_one_image=True, from_labels=True
    ),
    # All False without a teacher, so that a loss over the other classes works in a first step too.
    "known": Need("Bool [C], the student's columns that the teacher has", per_sample=False),
}


def reads_teacher(needs: Iterable[str]) -> bool:
    """Whether any of a loss's inputs comes from a teacher."""
    return any(NEEDS[need].from_teacher for need in needs)
