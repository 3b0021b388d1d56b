"""A selection of classes, as a task's options state it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gkd.core.class_orders import fraction, window
from gkd.core.labels import LabelSpace

# A class order may be written as a number in YAML.
Order = Annotated[str, BeforeValidator(lambda order: str(order) if type(order) is int else order)]


class Classes(BaseModel):
    """A selection of classes: exactly one of names, indices, a window or a random fraction.

    Attributes:
        names: class names, in column order.
        indices: positions in the data's natural (sorted) order.
        size: the classes of the window ``order[shift : shift + size]``.
        shift: where the window begins.
        order: of all classes, for the window: ``natural``, a number such as ``"1993"`` or a name of
            ``gkd.core.class_orders.NAMED_ORDERS``.
        fraction: a random share of the classes.
        seed: of that draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] | None = None
    indices: tuple[int, ...] | None = None
    size: int | None = Field(default=None, ge=1)
    shift: int = Field(default=0, ge=0)
    order: Order = "natural"
    fraction: float | None = Field(default=None, gt=0, le=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_names(cls, data: Any) -> Any:
        """``[cat, dog]`` is short for ``{names: [cat, dog]}``."""
        return {"names": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _exactly_one(self) -> Classes:
        stated = [key for key in ("names", "indices", "size", "fraction") if getattr(self, key) is not None]
        if len(stated) != 1:
            got = " and ".join(stated) or "none"
            raise ValueError(f"give exactly one of names, indices, size (a window) or fraction; got {got}")
        if self.size is None and (self.shift or self.order != "natural"):
            raise ValueError("shift and order describe a window; give its size too")
        return self

    def select(self, space: LabelSpace) -> LabelSpace:
        """The selected classes of a data set's space."""
        if self.names is not None:
            return space.select(self.names)
        if self.indices is not None:
            return space.select(self.indices)
        if self.size is not None:
            return window(space, size=self.size, shift=self.shift, order=self.order)
        return fraction(space, share=self.fraction or 1, seed=self.seed)
