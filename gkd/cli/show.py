"""gkd show: a method's paper, stages, terms, weights and needs."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.config.shipped import load_method
from gkd.core.text import say

# The keys of a method that are for incremental steps.
_OF_STEPS = ("network", "exemplars", "growth", "held_out", "after", "judge")


def main(arguments: argparse.Namespace, console: Console) -> int:
    method = load_method(arguments.name)
    lines = [
        f"{method.name}: {method.summary}",
        f"paper: {method.paper}",
        f"needs: {', '.join(method.needs)}",
    ]
    steps = method.model_dump(include=set(_OF_STEPS), exclude_defaults=True)
    lines += (
        ["incremental steps: " + ", ".join(f"{key} {value}" for key, value in steps.items())] if steps else []
    )
    for stage_name, stage in method.stages.items():
        share = f", share {stage.share:g} of run.epochs" if stage.share else ""
        lines.append(
            f"stage {stage_name}: {stage.epochs:g} epochs{share}, train {', '.join(stage.train)}, start {stage.start}, "
            f"select {stage.select}" + ("" if stage.data == "all" else f", data {stage.data}")
        )
        if stage.episodes is not None:
            made = stage.episodes.model_dump(exclude_none=True)
            lines.append("  episodes: " + ", ".join(f"{key} {value}" for key, value in made.items()))
        if stage.mixup is not None:
            certain = {"probability"} if stage.mixup.probability == 1 else set()
            made = stage.mixup.model_dump(exclude_none=True, exclude={"kind", *certain})
            lines.append(
                f"  {stage.mixup.kind}: " + ", ".join(f"{key} {value}" for key, value in made.items())
            )
        if stage.spots.policy != "always":
            routed = stage.spots.model_dump(exclude_none=True)
            lines.append("  spots: " + ", ".join(f"{key} {value}" for key, value in routed.items()))
        optimiser = stage.optimiser.model_dump(exclude_unset=True)
        lines.append("  optimiser: " + ", ".join(f"{key} {value}" for key, value in optimiser.items()))
        for term_name, term in stage.terms.items():
            options = {**term.entry.options, **term.options}
            shown = "".join(f", {key} {value}" for key, value in options.items())
            lines.append(f"  {term_name}: {term.shown_weight} x {term.entry.public_name}{shown}")
            wiring = term.model_dump(exclude_defaults=True, exclude={"loss", "weight", *options})
            if wiring:
                lines.append("    " + ", ".join(f"{key} {value}" for key, value in wiring.items()))
            lines.append(f"    {term.entry.paper}")
    lines += ["sources:", *(f"  {path}: {source}" for path, source in method.sources.items())]
    say(console, "\n".join(lines))
    return 0
