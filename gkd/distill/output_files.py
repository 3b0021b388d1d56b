"""A teacher's outputs on disk, a file for each view."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from gkd.core.network import Features
from gkd.storage.mapped_rows import Unusable, read_rows, write_rows
from gkd.storage.whole_files import replace_whole


class OutputFiles:
    """The files of one teacher's outputs on the views of one image set, which runs and processes share.

    A file is whole or absent: two processes that compute the same view write the same, each aside, and the later
    rename stands. What a run has mapped stays when its file is replaced or removed.

    Args:
        folder: of the files, and of those of other teachers and images.
        key: all that the outputs depend on, but for the view.
    """

    def __init__(self, folder: Path, key: Sequence[str]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:32]

    def path(self, view: int) -> Path:
        """The file of a view."""
        return self.folder / f"{self.key}-{view}.safetensors"

    def read(self, view: int, num_rows: int) -> Features | None:
        """The outputs on a view, mapped into memory, with empty maps where none were kept; None where there are none.

        Warns of a file that cannot be used.
        """
        path = self.path(view)
        try:
            tensors = read_rows(path, num_rows, self._about(view))
            nothing = tensors["embedding"].new_empty(0)
            kept = {name: values if values.numel() else nothing for name, values in tensors.items()}
            maps, before = (
                tuple(
                    kept[f"{kind}{number}"] for number in range(sum(name.startswith(kind) for name in kept))
                )
                for kind in ("map", "preact")
            )
            return Features(tensors["logits"], tensors["embedding"], maps, before, tensors.get("pooled"))
        except FileNotFoundError:
            return None
        except (Unusable, OSError) as error:
            reason = str(error) if isinstance(error, Unusable) else f"not readable ({error.strerror})"
            warnings.warn(
                f"The file {path} is {reason}; the teacher's outputs in it are computed again.", stacklevel=2
            )
            return None

    def write(self, view: int, num_rows: int, parts: Iterable[Features], *, views: int) -> bool:
        """Write the outputs on a view, some rows at a time.

        Args:
            view: its number.
            num_rows: images.
            parts: the outputs on the next images, and the next.
            views: the number of views, of which all that are not there must have room.

        Returns:
            Whether that was possible; a warning says why not.

        Raises:
            UserError: what computes them refuses, or a link or folder is in the file's place.
        """
        missing = sum(not self.path(number).is_file() for number in range(views))
        chunks = (
            {
                "logits": part.logits,
                "embedding": part.embedding,
                **{
                    f"{kind}{number}": values if values.dim() > 1 else values.new_empty(len(part.logits), 0)
                    for kind, maps in (("map", part.maps), ("preact", part.preact_maps))
                    for number, values in enumerate(maps)
                },
                **({} if part.pooled_map is None else {"pooled": part.pooled_map}),
            }
            for part in parts
        )
        about, copies = self._about(view), max(missing, 1)
        try:
            replace_whole(
                self.path(view), lambda aside: write_rows(aside, chunks, num_rows, about, copies=copies)
            )
        except OSError as error:
            warnings.warn(
                f"The teacher's outputs cannot be kept in {self.folder} ({error.strerror}) and stay in memory; free "
                "some space (gkd ls cache), or set GKD_CACHE to another folder.",
                stacklevel=2,
            )
            return False
        return True

    def _about(self, view: int) -> dict[str, str]:
        return {"key": self.key, "view": str(view)}
