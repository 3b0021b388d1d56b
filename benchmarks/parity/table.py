"""The results table of the README, from the committed result files.

python benchmarks/parity/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
HEAD = (
    "| file (commit) | compared | phase, precision | lr | must agree | total | terms | official against itself |\n"
    "|---|---|---|--:|:-:|--:|---|--:|"
)


def row(result: dict[str, Any], file: str, comparison: dict[str, Any]) -> str:
    """One comparison: largest relative differences over its steps."""
    difference: dict[str, float] = {}
    for curve, entry in comparison["relative_difference"].items():
        name = "shares" if curve.startswith("share ") else curve  # of the gates, in one
        difference[name] = max(entry["largest"], difference.get(name, 0.0))
    terms = ", ".join(f"{name} {value:.1e}" for name, value in difference.items() if name != "total")
    itself = comparison.get("official_against_itself_one_ulp_apart")
    exact = comparison.get("official_loss_on_float64_embeddings", False)
    precision = comparison["dtype"] + (", loss in float64" if exact else "")
    cells = [
        f"`{file}` ({result['official']['repository']}@{result['official']['commit'][:7]})",
        comparison["name"],
        f"{comparison['phase']}, {precision}",
        f"{comparison['lr']:.4g}",
        "yes" if comparison["must_agree"] else "no",
        f"{difference['total']:.1e}",
        terms or "—",
        f"{itself['total']['largest']:.1e}" if itself else "—",
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """Markdown over all ``parity_*.json``."""
    lines = [HEAD]
    for path in sorted(RESULTS.glob("parity_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        lines += [row(result, path.name, comparison) for comparison in result["comparisons"]]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
