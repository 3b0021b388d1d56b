"""The weights of terms that are measured against the cross-entropy before a stage's first step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.methods.terms import RelativeWeight


class MeasuredWeights(nn.Module):
    """The measured weights of a stage; they are saved with it, and a stage without any saves nothing.

    Args:
        weights: term -> its weight, as the method has it.
    """

    values: Tensor

    def __init__(self, weights: Mapping[str, float | RelativeWeight]) -> None:
        super().__init__()
        self.wanted = {name: weight for name, weight in weights.items() if isinstance(weight, RelativeWeight)}
        self._place = {name: number for number, name in enumerate(self.wanted)}
        self._ready = False
        if self.wanted:
            self.register_buffer("values", torch.full((len(self.wanted),), torch.nan, dtype=torch.float64))

    def __contains__(self, name: str) -> bool:
        return name in self.wanted

    def forward(self, name: str) -> Tensor:
        """The weight of a term, 0-dim float32.

        Raises:
            UserError: nothing was measured yet.
        """
        if not self._ready:
            self._ready = bool(torch.isfinite(self.values).all())
            if not self._ready:
                raise UserError(
                    f"The weight of the term {name!r} is relative to the cross-entropy and was not measured yet; call "
                    "gkd.distill.pulls.measure_weights(distiller, batches) before the first step.",
                    code="not-measured",
                )
        return self.values[self._place[name]].float()

    def set(self, pulls: Mapping[str, float]) -> None:
        """Take the weights from what the terms pull at weight 1, relative to the cross-entropy.

        Raises:
            UserError: a term that does not pull at all, or without bound.
        """
        for name, weight in self.wanted.items():
            pull = pulls[name]
            if not 0 < pull < float("inf"):
                raise UserError(
                    f"The term {name!r} is to pull {weight.relative:g} times as hard as the cross-entropy, but at the "
                    f"stage's start its gradient is {pull:g} times that one's; give it a number as weight.",
                    code="no-pull",
                )
            self.values[self._place[name]] = weight.relative / pull

    @property
    def batches(self) -> int:
        """The number of batches to measure on; 0 where nothing is."""
        return max((weight.batches for weight in self.wanted.values()), default=0)

    def shown(self) -> dict[str, float]:
        """The weights by term; none before they are measured."""
        weights = {name: float(self.values[place]) for name, place in self._place.items()}
        return {name: weight for name, weight in weights.items() if weight == weight}
