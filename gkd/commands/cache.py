"""What gkd keeps on disk beside runs: how large it is, and removing what can be computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gkd.core.errors import UserError
from gkd.storage.cache_folder import NAMES, OUTPUT_FILE, OUTPUTS, cache_folder
from gkd.storage.whole_files import clear_strays

__all__ = ["Group", "cache_folder", "clear_outputs", "in_cache"]


@dataclass(frozen=True)
class Group:
    """Files of one kind."""

    count: int
    bytes: int

    @property
    def size(self) -> str:
        """The bytes, in the unit that fits."""
        amount, units = float(self.bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
        while amount >= 1024 and len(units) > 1:
            amount, units = amount / 1024, units[1:]
        return f"{amount:.{0 if units[0] == 'bytes' else 1}f} {units[0]}"


def in_cache() -> dict[str, Group]:
    """What the folder of caches holds, by kind."""
    folder = cache_folder()
    decoded = [path for path in _files(folder) if path.suffix in (".safetensors", ".txt")]
    below = folder / "datasets"
    fetched = [path for path in below.rglob("*") if path.is_file()] if below.is_dir() else []
    return {
        "teacher outputs": _group(_outputs()),
        "decoded images": _group(decoded),
        "class names": _group([path for path in _files(folder / NAMES) if path.suffix == ".safetensors"]),
        "fetched data sets": _group(fetched),
    }


def clear_outputs() -> Group:
    """Remove the kept outputs of teachers; a run that reads them keeps what it has mapped.

    Returns:
        What was removed.

    Raises:
        UserError: a file that cannot be removed.
    """
    removed = []
    clear_strays(cache_folder() / OUTPUTS)
    for path in _outputs():
        group = _group([path])
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot remove {path}: {error.strerror}; give its folder back the right to write, and repeat the "
                "command.",
                code="cannot-remove",
            ) from None
        removed.append(group)
    return Group(len(removed), sum(group.bytes for group in removed))


def _outputs() -> list[Path]:
    """Files of those names alone: nothing else that lies there is ours."""
    return [path for path in _files(cache_folder() / OUTPUTS) if OUTPUT_FILE.fullmatch(path.name)]


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(path for path in folder.iterdir() if path.is_file())


def _group(paths: list[Path]) -> Group:
    sizes = []
    for path in paths:
        with contextlib.suppress(OSError):  # gone meanwhile
            sizes.append(path.stat().st_size)
    return Group(len(sizes), sum(sizes))
