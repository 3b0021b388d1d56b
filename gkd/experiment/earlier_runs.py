"""What is said of finished runs of before that may be, or are not, the run that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gkd.config.resolve import Resolved
from gkd.experiment.run_folder import config_folder, folders_of, recorded
from gkd.storage.run_files import SUMMARY


def about_earlier_runs(resolved: Resolved, folder: Path) -> Iterator[str]:
    """A line for each finished run whose code or photographs may be, or are not, those of this one.

    Args:
        resolved: the run.
        folder: of ``run_folder``.
    """
    names = resolved.identities
    if (folder / SUMMARY).is_file():
        if names.sources and "sources" not in recorded(folder):
            yield (
                f"note      {folder} is of before gkd recorded the source of {', '.join(names.sources)}; remove it to "
                "train with the source as it is now"
            )
        return
    seed = folder.name
    for other in sorted(config_folder(resolved).glob(f"*/{seed}")) if names.sources else []:
        environment = recorded(other)
        before = environment.get("sources")
        if (
            environment.get("identity_without_sources") != names.without_sources
            or not (other / SUMMARY).is_file()
        ):
            continue
        changed = [
            name
            for name, source in names.sources.items()
            if not isinstance(before, dict) or before.get(name) != source
        ]
        yield (
            f"note      the source of {', '.join(changed)} is not that of the finished run {other}, so this is another "
            "run"
        )
    for other in folders_of(resolved, names.unturned) if names.unturned is not None else []:
        if (other / seed / SUMMARY).is_file():
            yield (
                f"note      {other / seed} was trained on photographs that were not turned as their EXIF orientation "
                "says, so this is another run; data.exif=ignore reports that one"
            )
