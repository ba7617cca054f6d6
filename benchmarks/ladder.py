"""The ladder of a recipe over several seeds, as a table.

    python benchmarks/ladder.py quickstart --seeds 7 8 9
    DISTILL_DATA=… python benchmarks/ladder.py crowdflower --seeds 7

Runs the recipe whole, once a seed. A seed moves everything that is random: heads, order of rows, dropout, and the split
where the recipe gives shares, so that the spread over seeds holds all of these. Writes ``results/ladder_<recipe>.md``:
the quality of each rung in each run with its interval over queries, and the mean over the runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from datetime import date
from pathlib import Path

import polars as pl

import distill
from distill.eval.ladder import LadderRow

_RESULTS = Path(__file__).parent / "results"
_SHOWN = ("positive_accuracy", "auc", "accuracy", "expected_calibration_error")


def main() -> None:
    """Runs, prints the table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe that ships, or its file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="where the runs go")
    arguments = parser.parse_args()
    name = Path(arguments.recipe).stem
    began = time.perf_counter()
    runs = {}
    for seed in arguments.seeds:
        out = arguments.out / f"{name}-{seed}"
        runs[seed] = distill.run(arguments.recipe, out=out, overrides=[f"seed={seed}"])
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    text = f"{_title(name, runs)}\n\n{_table(runs)}\n\n{_made(runs, time.perf_counter() - began)}\n"
    target = _RESULTS / f"ladder_{name}.md"
    target.write_text(text, encoding="utf-8")
    print(text)


def _title(name: str, runs: dict[int, distill.Run]) -> str:
    first = next(iter(runs.values())).ladder
    return f"# Ladder of `{name}`\n\n{first.caption()}"


def _table(runs: dict[int, distill.Run]) -> str:
    rows = [_line(seed, row) for seed, run in runs.items() for row in run.ladder.rows]
    table = pl.DataFrame(rows, infer_schema_length=None)
    columns = ["rung", "trained on", *(f"{metric} (seed {seed})" for seed in runs for metric in _SHOWN[:1]), *_SHOWN]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name in table["name"].unique(maintain_order=True):
        of_rung = table.filter(pl.col("name") == name)
        cells = [str(name), str(of_rung["trained_on"][0]) or "–"]
        cells += [_with_interval(of_rung.filter(pl.col("seed") == seed)) for seed in runs]
        cells += [_mean(of_rung, metric) for metric in _SHOWN]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _line(seed: int, row: LadderRow) -> dict[str, object]:
    found = {row.metric: row.quality, **row.others}
    line: dict[str, object] = {"seed": seed, "name": row.name, "trained_on": row.trained_on}
    for metric in _SHOWN:
        estimate = found.get(metric)
        line[metric] = estimate.value if estimate else None
        line[f"{metric}_low"] = estimate.low if estimate else None
        line[f"{metric}_high"] = estimate.high if estimate else None
    return line


def _with_interval(line: pl.DataFrame) -> str:
    if line.is_empty():
        return "–"
    metric = _SHOWN[0]
    return f"{line[metric][0]:.3f} ({line[f'{metric}_low'][0]:.3f} to {line[f'{metric}_high'][0]:.3f})"


def _mean(lines: pl.DataFrame, metric: str) -> str:
    mean = lines[metric].cast(pl.Float64).mean()
    return f"{mean:.3f}" if isinstance(mean, float) else "–"


def _made(runs: dict[int, distill.Run], seconds: float) -> str:
    versions = next(iter(runs.values())).manifest["versions"]
    named = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    return (
        f"Unmarked columns are means over seeds {', '.join(map(str, runs))}. Made on {date.today()} by "
        f"`benchmarks/ladder.py` in {seconds:.0f} s; {platform.machine()}, {os.cpu_count()} cores; {named}."
    )


if __name__ == "__main__":
    main()
