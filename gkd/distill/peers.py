"""Two students that learn from each other: the pair as one network, and the losses of both in one step.

Deep mutual learning (Zhang, Xiang, Hospedales, Lu; CVPR 2018): each network has the same losses, in which the other's
outputs are a constant. Both are updated at once by the gradients at one pair of outputs, as in public code
(chxy95/Deep-Mutual-Learning@88371a3, trainer.py); the paper's algorithm 1 updates one after the other, and asks the
first again in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.network import Features, as_network
from gkd.distill.distiller import Distiller
from gkd.distill.outputs import Outputs
from gkd.distill.router import Decision
from gkd.methods.spots import MapSpot

State = dict[str, Tensor]


class Pair(nn.Module):
    """A student and its peer, which train as one network and answer as the student.

    Args:
        student: the network that is judged first and exported.
        peer: another one over the same classes, of any architecture.
    """

    def __init__(self, student: nn.Module, peer: nn.Module) -> None:
        super().__init__()
        self.student, self.peer = as_network(student), as_network(peer)

    @property
    def num_classes(self) -> int:
        return int(self.student.num_classes)

    @property
    def embedding_dim(self) -> int:
        return int(self.student.embedding_dim)

    @property
    def head(self) -> nn.Module:
        head: nn.Module = self.student.head
        return head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.student(images)
        return logits

    def features(self, images: Tensor, **asked: bool) -> Features:
        """The student's outputs; ``asked`` goes to it."""
        features: Features = self.student.features(images, **asked)
        return features


def states_of(state: Mapping[str, Tensor]) -> tuple[State, State]:
    """The state of a pair as the student's and the peer's."""
    sides = [
        {
            name.removeprefix(f"{side}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{side}.")
        }
        for side in ("student", "peer")
    ]
    return sides[0], sides[1]


class Mutual(nn.Module):
    """The losses of a pair in one stage, as a `Distiller` has those of one student.

    What it tells of its terms is told of the student's.

    Args:
        student, peer: the same terms over each network of the pair.
    """

    router = None

    def __init__(self, student: Distiller, peer: Distiller) -> None:
        super().__init__()
        self.ours, self.theirs = student, peer

    @property
    def terms(self) -> Any:
        return self.ours.terms

    @property
    def groups(self) -> Any:
        return self.ours.groups

    @property
    def adapters(self) -> nn.ModuleDict:
        return self.ours.adapters

    @property
    def readers(self) -> dict[str, str | None]:
        return self.ours.readers

    @property
    def scales(self) -> dict[str, float]:
        return self.ours.scales

    @property
    def measured(self) -> Any:
        return self.ours.measured

    @property
    def known(self) -> Tensor:
        return self.ours.known

    @property
    def read_clean(self) -> list[str]:
        return self.ours.read_clean

    def teacher_maps(self, teacher: str) -> set[MapSpot]:
        """``Distiller.teacher_maps``."""
        return self.ours.teacher_maps(teacher)

    def set_epoch(self, epoch: float) -> None:
        """Set the epoch of both networks' weight schedules."""
        self.ours.set_epoch(epoch)
        self.theirs.set_epoch(epoch)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One step's losses, as of ``Distiller.forward``: ``loss`` is the sum of both networks'.

        The peer's stand under ``peer/``, its whole loss under ``peer/loss``; the rest is the student's.
        """
        ours, theirs = self._outputs(batch)
        losses, others = self.ours.losses(batch, ours), self.theirs.losses(batch, theirs)
        of_peer = {f"peer/{name}": value.detach() for name, value in others.items()}
        return {**losses, **of_peer, "loss": losses["loss"] + others["loss"]}

    def _outputs(self, batch: Batch) -> tuple[dict[str, Outputs], dict[str, Outputs]]:
        """What each network's terms read, the other's outputs without their graph among it."""
        ours, theirs = self.ours.outputs(batch), self.theirs.outputs(batch)
        return _beside(ours, theirs), _beside(theirs, ours)

    def outputs(self, batch: Batch) -> dict[str, Outputs]:
        """What the student's terms read."""
        return self._outputs(batch)[0]

    def term_values(
        self, outputs: Mapping[str, Outputs], decision: Decision | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``Distiller.term_values`` of the student."""
        return self.ours.term_values(outputs, decision)

    def rest_of_cross_entropy(self, outputs: Mapping[str, Outputs]) -> Tensor | None:
        """``Distiller.rest_of_cross_entropy`` of the student."""
        return self.ours.rest_of_cross_entropy(outputs)

    def param_groups(self, train: Sequence[str] = ("student",)) -> list[dict[str, Any]]:
        """The parameters of both networks that a stage trains (``Distiller.param_groups``)."""
        return [*self.ours.param_groups(train), *self.theirs.param_groups(train)]

    def clipped_together(self) -> list[list[nn.Parameter]]:
        """Groups of parameters whose gradients are clipped together; each network's apart."""
        return [*self.ours.clipped_together(), *self.theirs.clipped_together()]


def _beside(outputs: Mapping[str, Outputs], others: Mapping[str, Outputs]) -> dict[str, Outputs]:
    return {
        samples: replace(each, peer=others[samples].student.detach()) for samples, each in outputs.items()
    }
