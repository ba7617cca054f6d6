"""What a round came to: its rows, rechecks, cost, and the paired gains over the round before, in ``round.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from distill.eval.evaluation import paired_difference
from distill.eval.intervals import Estimate
from distill.eval.ladder import Ladder, LadderRow
from distill.eval.rounds import ControlFacts, RecheckFacts, RoundFacts, changed_said, points_gained
from distill.measurement import rows_with_truth
from distill.recipe import Recipe
from distill.recipe_rounds import CHOOSABLE, deciding_student, learners
from distill.rounds_asking import RECHECKED, cost_of
from distill.rounds_rows import HELD_OUT, chosen_path, rules_of
from distill.run_folder import RunFolder, path_digest, write_json
from distill.session import Ended, Session

WHOLE = ""
"""Stands for a part where a task has one label a row."""


@dataclass(frozen=True)
class Measuring:
    """What a round is measured beside.

    Attributes:
        number: Of the round.
        before: Folder of the round before; None in the first.
        since: Number and folder of the round that the deciding student's gain is taken over, by part, ``WHOLE`` where
            answers are one label; empty in the first.
        control: Folder of the control's part of this round; None without.
        controls: Votes of the control.
    """

    number: int
    before: RunFolder | None = None
    since: Mapping[str, tuple[int, RunFolder]] = field(default_factory=dict)
    control: RunFolder | None = None
    controls: Path | None = None


@dataclass
class _Truth:
    """Paired differences on the rows that everything is measured on."""

    session: Session
    rows: pl.DataFrame = field(init=False)
    known: bool = field(init=False)

    def __post_init__(self) -> None:
        rows, labels = pl.read_parquet(self.session.folder.rows), pl.read_parquet(self.session.folder.labels)
        truth, self.rows = rows_with_truth(rows, labels, self.session.recipe)
        self.known = truth is not None

    def gain(self, better: Path, than: Path) -> Estimate:
        recipe = self.session.recipe
        return paired_difference(
            pl.read_parquet(better),
            pl.read_parquet(than),
            self.rows,
            task=self.session.task,
            config=recipe.eval,
            seed=recipe.seed,
        )


def round_path(folder: RunFolder) -> Path:
    """Where a round's facts are."""
    return folder.path / "round.json"


def read_round(folder: RunFolder) -> RoundFacts:
    """A round's facts."""
    return RoundFacts.model_validate_json(round_path(folder).read_text(encoding="utf-8"))


def measure_round(session: Session, measuring: Measuring) -> RoundFacts:
    """Writes ``round.json`` of the session's folder, a round's, and returns it."""
    folder = session.folder
    others = [measuring.before, *(other for _, other in measuring.since.values()), measuring.control]

    def work() -> Ended:
        facts = _facts(session, measuring)
        write_json(round_path(folder), facts.model_dump(mode="json"))
        return Ended(changed_said(facts))

    session.stage(
        "round",
        reads=[
            measuring.number,
            {part: number for part, (number, _) in measuring.since.items()},
            {key: mark for key, mark in session.marks.items() if key.startswith(("predict:", "eval"))},
            path_digest(folder.votes),
            path_digest(chosen_path(folder)),
            [_measured(other, session.recipe) for other in others if other],
            measuring.controls and path_digest(measuring.controls),
        ],
        outputs=[round_path(folder)],
        work=work,
    )
    return read_round(folder)


def read_ladder(folder: RunFolder) -> Ladder:
    """The ladder within a round."""
    return Ladder.model_validate_json(folder.ladder.read_text(encoding="utf-8"))


def asked_rows(votes: pl.DataFrame, recipe: Recipe) -> pl.Series:
    """Ids of the rows that the teachers who label were asked about."""
    again = recipe.rounds.recheck.teacher if recipe.rounds and recipe.rounds.recheck else None
    return votes.filter(pl.col("teacher") != (again or ""))["row_id"].unique(maintain_order=True)


def asked_again(votes: pl.DataFrame, recipe: Recipe) -> pl.Series:
    """Ids of the rows that the stronger teacher was asked about."""
    again = recipe.rounds.recheck.teacher if recipe.rounds and recipe.rounds.recheck else None
    return votes.filter(pl.col("teacher") == (again or ""))["row_id"].unique(maintain_order=True)


def all_votes(paths: Sequence[Path | None]) -> pl.DataFrame:
    """Votes of several tables, each answer once."""
    tables = [pl.read_parquet(path) for path in paths if path is not None]
    votes = pl.concat(tables, how="diagonal_relaxed")
    named = [name for name in ("row_id", "teacher", "sample", "part") if name in votes.columns]
    return votes.unique([*named], keep="first")


def _measured(folder: RunFolder, recipe: Recipe) -> list[str]:
    files = [folder.predictions(name) for name in recipe.students]
    return [path_digest(file) for file in [*files, folder.ladder] if file.exists()]


def _facts(session: Session, measuring: Measuring) -> RoundFacts:
    folder, recipe = session.folder, session.recipe
    votes, chosen = pl.read_parquet(folder.votes), pl.read_parquet(chosen_path(folder))
    new = votes.filter(pl.col("round") == measuring.number)
    asked, splits = rules_of(chosen), pl.read_parquet(folder.rows, columns=["row_id", "split"])
    choosable = splits.filter(pl.col("split").is_in(CHOOSABLE))["row_id"]
    total = asked_rows(votes, recipe)
    facts = RoundFacts(
        number=measuring.number,
        asked={rule: count for rule, count in asked.items() if rule != HELD_OUT},
        held_out=asked.get(HELD_OUT, 0),
        recheck=_recheck(session, new, before=measuring.before),
        cost_usd=cost_of(new),
        cost_in_all_usd=cost_of(all_votes([folder.votes, measuring.controls])),
        rows_in_all=int(total.is_in(choosable.implode()).sum()),
        students=[],
    )
    if not session.task.closed:
        from distill.query_rounds import query_round_lines

        lines = query_round_lines(session, measuring, facts)
        return facts.model_copy(update={"students": lines.rows, "parts": lines.parts})
    truth = _Truth(session)
    if not truth.known:
        return facts
    update: dict[str, object] = {
        "students": _lines(session, measuring, truth, facts),
        "control": _control(session, measuring, truth, choosable),
    }
    if measuring.since:
        name, (since, other) = deciding_student(recipe), measuring.since[WHOLE]
        gain = truth.gain(folder.predictions(name), other.predictions(name))
        update |= {"gain_since": gain, "since": since}
    return facts.model_copy(update=update)


def _lines(session: Session, measuring: Measuring, truth: _Truth, facts: RoundFacts) -> list[LadderRow]:
    """The students of the round; those that learn from people alone stand in the first one."""
    able, lines = learners(session.recipe.students), []
    for row in read_ladder(session.folder).rows:
        if not row.is_student or (measuring.number and row.name not in able):
            continue
        # Within the round it was compared with another student.
        update: dict[str, object] = {"gain": None, "gain_over": None, "powered_gain": None, "cost_per_point": None}
        update |= {"round": measuring.number, "changed": changed_said(facts)}
        if row.name not in able:
            update["changed"] = "people's labels alone"
        elif measuring.before is not None:
            gain = truth.gain(session.folder.predictions(row.name), measuring.before.predictions(row.name))
            update |= {"gain": gain, "gain_over": f"round {measuring.number - 1}"}
            points = points_gained(gain)
            # What the round cost, whether its answers were dear or many: nothing paid has no price.
            update["cost_per_point"] = facts.cost_usd / points if facts.cost_usd and points else None
        lines.append(row.model_copy(update=update))
    return lines


def _recheck(session: Session, new: pl.DataFrame, *, before: RunFolder | None) -> RecheckFacts | None:
    rounds = session.recipe.rounds
    if before is None or rounds is None or rounds.recheck is None:
        return None
    if not (session.folder.path / RECHECKED / "votes.parquet").exists():
        return None
    own = new.filter(pl.col("teacher") == rounds.recheck.teacher)
    answered = own.filter(pl.col("outcome") == "labeled")["row_id"].unique()
    labels = pl.read_parquet(session.folder.labels).select("row_id", "label")
    earlier = pl.read_parquet(before.labels).select("row_id", before="label")
    gold = pl.read_parquet(session.folder.rows, columns=["row_id", "gold"])
    both = labels.filter(pl.col("row_id").is_in(answered.implode())).join(earlier, on="row_id").join(gold, on="row_id")
    known = both.filter(pl.col("gold").is_not_null())
    return RecheckFacts(
        teacher=rounds.recheck.teacher,
        asked=own["row_id"].n_unique(),
        answered=len(answered),
        changed=int((both["label"] != both["before"]).sum()),
        gold_rows=len(known),
        right_before=int((known["before"] == known["gold"]).sum()),
        right_after=int((known["label"] == known["gold"]).sum()),
    )


def _control(session: Session, measuring: Measuring, truth: _Truth, choosable: pl.Series) -> ControlFacts | None:
    control, name = measuring.control, deciding_student(session.recipe)
    if control is None or measuring.controls is None:
        return None
    row = next(row for row in read_ladder(control).rows if row.name == name)
    votes = pl.read_parquet(measuring.controls)
    total = asked_rows(votes, session.recipe)
    new = votes.filter(pl.col("round") == measuring.number)
    own = new.join(pl.read_parquet(session.folder.votes), on=["row_id", "teacher", "sample"], how="anti")
    bare = {"gain": None, "gain_over": None, "powered_gain": None, "cost_per_point": None}
    return ControlFacts(
        student=row.model_copy(update={"round": measuring.number, "changed": "random rows", **bare}),
        rows=int(total.is_in(choosable.implode()).sum()),
        difference=truth.gain(session.folder.predictions(name), control.predictions(name)),
        cost_usd=cost_of(own),
    )
