"""The table that docs/benchmarks.md opens with: every grid of a paper, and every grid with committed results.

Methods, cells and published numbers are read from the configs, what was measured from the committed tables.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from gkd.commands.grid_cells import count, published_numbers, rows, section
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.config.schema import Compare
from gkd.config.shipped import shipped_configs

ROOT = Path(__file__).parent.parent
# A paper's grid -> the config that measures its question in small, and the page that discusses it.
IN_SMALL: dict[str, tuple[str, str]] = {
    "paper/standard/cifar100": ("standard/tiny_imagenet_100", "results/tiny_imagenet_100_standard.md"),
    "paper/standard/cifar10_sp": ("standard/tiny_imagenet_100", "results/tiny_imagenet_100_standard.md"),
    "paper/standard/stkd": ("standard/tiny_imagenet_100", "results/tiny_imagenet_100_standard.md"),
    "paper/standard/affinity": (
        "standard/tiny_imagenet_100_affinity",
        "results/tiny_imagenet_100_standard.md",
    ),
    "paper/standard/sakd": ("standard/tiny_imagenet_100_spots", "results/spots.md"),
    "paper/standard/sakd_tiny_imagenet": ("standard/tiny_imagenet_100_spots", "results/spots.md"),
    "paper/cross_task/refilled_cifar100": ("cross_task/tiny_imagenet_100", "results/tiny_imagenet_100.md"),
    "paper/few_shot/cifar_fs_cross": ("few_shot/tiny_imagenet_100", "results/few_shot.md"),
    "paper/incremental/cifar100_b0_inc10": ("incremental/tiny_imagenet_100", "results/incremental.md"),
}


def benchmarks() -> str:
    """Every paper's grid, then every other grid whose table is committed."""
    head = ["benchmark", "config", "methods", "published by", "measured so far", "the whole of it"]
    lines = [head, ["---"] * len(head)]
    configs = shipped_configs()
    papers = [name for name in configs if name.startswith("paper/")]
    others = [name for name in configs if name not in papers and _table_of(name) is not None]
    for name in [*papers, *others]:
        resolved = load(name)
        compare = section(resolved)
        link = f"[`{name}`](../configs/{name}.yaml)"
        about = configs[name].read_text().splitlines()[0].removeprefix("#").strip()
        measured, cost = _measured(name, compare)
        lines.append([about, link, _methods(compare), _sources(resolved), measured, cost])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _methods(compare: Compare) -> str:
    """The methods of a grid, and the factors of its cells."""
    names = dict.fromkeys(row.method for row in rows(compare))
    factors = [f"{len(compare.methods)} rows"] if len(compare.methods) > 1 else []
    factors += [f"{len(compare.pairs)} pairs"] if compare.pairs else []
    factors += [f"{len(values)} of `{key}`" for key, values in compare.axes.items() if len(values) > 1]
    factors += [f"{len(compare.seeds)} seeds"] if len(compare.seeds) > 1 else []
    shown = ", ".join(f"`{name}`" for name in names)
    return f"{shown}; {' × '.join(factors) or 'one row'} = {count(compare):,} cells"


def _sources(resolved: Resolved) -> str:
    """Where the published numbers of a paper's grid stand, and how many."""
    if not resolved.name.startswith("paper/"):
        return "–"
    numbers = Counter(each.source for each in published_numbers(resolved))
    return "; ".join(f"{source}: {number}" for source, number in numbers.items()) or "none seen"


def _table_of(name: str) -> Path | None:
    """The committed table of a grid, in the folder that its config names; None where there is none."""
    compare = load(name).experiment.compare
    results = compare.results if compare is not None else None
    path = None if results is None else ROOT / results / "table.json"
    return path if path is not None and path.is_file() else None


def _measured(name: str, compare: Compare) -> tuple[str, str]:
    """What stands in the committed table of a grid, and what all of it costs, where all of it stands there."""
    table = _table_of(name)
    if table is None:
        if name not in IN_SMALL:
            return "nothing", "not measured"
        config, page = IN_SMALL[name]
        return f"nothing; in small [`{config}`]({page})", "not measured"
    lines = json.loads(table.read_text())["rows"]
    seeds = {row.label: len(compare.seeds_of(row)) for row in rows(compare)}
    denied = sum(seeds.get(line["label"], 0) for line in lines if "absent" in line)
    cells = {  # a few-shot or incremental grid has a line for each classifier
        (str(line["axes"]), line["label"]): (line["n"], line["seconds"])
        for line in lines
        if line.get("seconds") and line["label"] in seeds
    }
    trained, there = sum(n for n, _ in cells.values()), count(compare) - denied
    hours = sum(n * seconds for n, seconds in cells.values()) / 3600
    time = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"
    number = f"all {there}" if trained == there else f"{trained} of {there}"
    link = f"[{number} cells](../{table.parent.relative_to(ROOT)}/table.md)"
    return link, time if trained == there else f"not measured; {time} for these"
