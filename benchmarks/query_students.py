"""Query students that no person labeled for, measured against people: one table a task, with what it cost.

    DISTILL_DATA=… python benchmarks/query_students.py home_depot_spelling --replies REPLIES
    DISTILL_DATA=… python benchmarks/query_students.py --table

Each set is a recipe, written to ``--cache`` with its rows and run as a user would run it (``distill.run``): unlabelled
queries of one half are labeled by teachers, merged and learned from; the other half's human labels measure, and nothing
else reads them. Teachers are the query tools over titles, which cost nothing, and one large model's recorded replies,
made blind from the queries and a guideline: files ``<set>.jsonl`` of ``--replies`` with ``query`` and ``reply``. They
hold research data and are not part of this project; without them those lines are left out.

A set's module has ``SETS``: by name a function ``(Place) -> recipe`` that writes its rows. Runs that are finished are
not made again; ``--table`` writes ``results/query_students.md`` from those that are there.
"""

from __future__ import annotations

import argparse
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import query_students_brand
import query_students_category
import query_students_expansion
import query_students_spelling
import yaml
from query_data import Place, percent, table

import distill
from distill.eval.ladder import LadderRow
from distill.eval.queries.facts import PartMeasurement

_RESULTS = Path(__file__).parent / "results" / "query_students.md"
SETS = {
    **query_students_spelling.SETS,
    **query_students_brand.SETS,
    **query_students_category.SETS,
    **query_students_expansion.SETS,
}
BESIDE = {**query_students_spelling.BESIDE, **query_students_brand.BESIDE, **query_students_expansion.BESIDE}
"""What else is on a set's queries, as ``(set, run, replies) -> paragraphs``."""


def main() -> None:
    """Runs what was not run yet, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--replies", type=Path, default=Path("replies"), help="folder of the recorded model's replies")
    parser.add_argument("--cache", type=Path, default=Path("runs/query_students"), help="where runs are kept")
    parser.add_argument("--table", action="store_true", help="write the table of what is there")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in arguments.seeds:
            for name in arguments.sets:
                _run(name, seed, cache=arguments.cache, replies=arguments.replies)
    text = "\n\n".join([_HEAD, *_sections(arguments.cache, arguments.replies), _made()]) + "\n"
    if arguments.table:
        _RESULTS.write_text(text, encoding="utf-8")
    print(text)


def _run(name: str, seed: int, *, cache: Path, replies: Path) -> None:
    folder = cache / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = SETS[name](Place(folder, seed=seed, replies=_recorded(replies, name)))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "name": name, "seed": seed, **recipe}, allow_unicode=True))
    distill.run(path, out=folder / "run")


def _recorded(replies: Path, name: str) -> Path | None:
    path = replies / f"{name.partition('.')[0]}.jsonl"  # runs of one set, set.0 and set.1, share its replies
    return path if path.exists() else None


_HEAD = """# Students of query tasks, without a human label

Nothing here learned from a label by a person, and no threshold was set with one. Every set's queries are parted in two;
on one half teachers answer and students learn, on the other half all are measured against the set's own labels.
Intervals are 95%, by query. A claim says whether the student is at least as good as that teacher, paired on the queries
that both answered, one-sided: the lower bound of student less teacher at 95%, and p. Replies are those of one large
model, which saw the queries and a guideline alone; tools are those of `distill.labeling.queries`."""


def _sections(cache: Path, replies: Path) -> list[str]:
    return [
        _section(
            name,
            distill.Run(path.parent / "run"),
            int(path.parent.name.rsplit("-", 1)[1]),
            replies=_recorded(replies, name),
        )
        for name in SETS
        if name not in query_students_category.SETS
        for path in sorted(cache.glob(f"{name}-*/recipe.yaml"))
        if (path.parent / "run" / "report.html").exists()
    ] + query_students_category.section(cache)


def _section(name: str, run: distill.Run, seed: int, *, replies: Path | None) -> str:
    parts = run.query_measurement.parts
    told = [_part(part, [row for row in run.ladder.rows if row.part in (None, part.part)]) for part in parts]
    if name in BESIDE:
        told += BESIDE[name](name, run, replies)
    return "\n\n".join([f"## {name}, seed {seed}", *told])


def _part(part: PartMeasurement, rungs: list[LadderRow]) -> str:
    by_name = {row.name: row for row in rungs}
    metrics = list(dict.fromkeys(name for one in part.evaluations for name in one.metrics))
    lines = [
        [
            one.name,
            by_name[one.name].trained_on if one.name in by_name else "",
            str(one.rows),
            *(percent(one.metrics[name]) if name in one.metrics else "–" for name in metrics),
            _seconds(by_name.get(one.name)),
        ]
        for one in part.evaluations
    ]
    claims = [
        [
            claim.student,
            claim.teacher,
            str(claim.claim.groups),
            f"{100 * claim.claim.difference:+.1f}",
            "–" if claim.claim.lower is None else f"{100 * claim.claim.lower:+.1f}",
            "–" if claim.claim.p_value is None else f"{claim.claim.p_value:.4f}",
        ]
        for claim in part.claims
    ]
    head = f"{part.part}: {part.rows:,} test queries; truth: {part.truth_source}; compared by {part.metric}."
    found = [head, table(["who", "learned from", "answered", *metrics, "training s"], lines)]
    if claims:
        found.append(table(["student", "at least as good as", "queries", "difference", "lower bound", "p"], claims))
    return "\n\n".join(found)


def _seconds(row: LadderRow | None) -> str:
    return f"{row.train_s:,.0f}" if row and row.train_s is not None else "–"


def _made() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "polars"))
    return (
        f"Made on {date.today()} by `benchmarks/query_students.py`; {platform.machine()}, {os.cpu_count()} cores; "
        f"distill {distill.__version__}, {packages}."
    )


if __name__ == "__main__":
    main()
