"""gkd rank: a table of a config's teachers, the best first, before anything is trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console

from gkd.commands.rank import Ranked, rank
from gkd.config.load import load
from gkd.core.labels import LabelRelation
from gkd.core.text import for_markdown, say, text_width
from gkd.experiment.judge import warnings_of
from gkd.methods.term_checks import ONLY
from gkd.report.markdown import Table, number, shown_kind
from gkd.report.terminal_table import fitted_text

_HEAD = (
    "teacher", "network", "nearest mean", "neighbours", "accuracy", "relation", "parameters", "embedding",
)  # fmt: skip


def main(arguments: argparse.Namespace, console: Console) -> int:
    ranked = rank(load(arguments.config, arguments.overrides))
    for each in ranked:
        for note in each.notes:
            say(console, f"note      {each.name}: {note}")
        near = None if each.own is None else each.own.near
        for line in warnings_of(near, None if each.name == ONLY else each.name):
            say(console, line)
    table, width = _table(ranked), text_width(console)
    say(console, table.text() if width is None else fitted_text(table, width), end="")
    return 0


def _table(ranked: Sequence[Ranked]) -> Table:
    """The teachers in their order, a row each."""
    images = ranked[0].probe.images
    legend = (
        f"nearest mean, neighbours: the classifier of the nearest class mean, and of the nearest neighbours, on the "
        f"teacher's embedding, in percent of the {images} validation images of the student's classes. accuracy: of the "
        "teacher's own head, in percent of the test images of its classes that the data has; – where it has none. "
        "relation: of the teacher's classes to the student's, and how many of the student's it has. embedding: its "
        "width."
    )
    rows = [
        (
            for_markdown(each.name),
            for_markdown(each.network),
            number(each.probe.nearest_mean),
            number(each.probe.nearest_neighbours),
            number(None if each.own is None else each.own.accuracy),
            _shown(each.relation),
            f"{each.parameters:,}",
            str(each.width),
        )
        for each in ranked
    ]
    return Table(_HEAD, rows, notes=(), legend=legend, minor=("embedding", "parameters", "network"))


def _shown(relation: LabelRelation) -> str:
    """A relation's kind, and how many of the student's classes the teacher has where it has some of them alone."""
    kind = shown_kind(relation.kind)
    if relation.kind != "overlapping":
        return kind
    return f"{kind}, {relation.num_shared} of {len(relation.student)}"
