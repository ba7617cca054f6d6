r"""Whether a changed clause helps: judges asked again under the old text and the new, on the same rows.

Rows on which judges differ were picked *because* they differed; asked again under any text at all, some would agree by
mere luck. So the old text is asked again too, and the two fresh answers are compared, never the new answers with those
that picked the rows. Differences are paired by row and their intervals resample groups.

* **Affected rows**: judges differ and cite the clause. What an edit is for.
* **Settled rows**: judges agree. Where an edit must do no harm: a row is *harmed* where its judges agreed under the old
  text and differ, or agree on another label, under the new one; what happens to them under the old text asked again is
  the noise that harm is compared with.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from distill.eval.config import EvalConfig
from distill.eval.frozen import Frozen
from distill.eval.intervals import Estimate, Resamples, ratio_estimates
from distill.eval.page import markdown_cell, markdown_table, write_whole
from distill.eval.scored import collapse_votes
from distill.eval.wording import interval, share
from distill.labeling.errors import DataError
from distill.labeling.guideline import Guideline

Verdict = Literal["adopt", "reject", "undecided"]
_ALIKE = 0.85


class ClauseEdit(Frozen):
    """A proposed change of one clause."""

    clause: str = Field(description="number of the clause, such as E4")
    text: str = Field(min_length=1, description="its new text")
    why: str = Field("", description="for those who read the trial")


class TrialLimits(Frozen):
    """What an edit may cost and break."""

    harm: float = Field(0.02, ge=0, le=1, description="share of settled rows that an edit may harm beyond noise")
    growth: float = Field(0.1, ge=0, description="share by which one edit may lengthen the guideline")


class EditTrial(Frozen):
    """What trying an edit showed."""

    edit: ClauseEdit
    diff: list[str] = Field(description="the clause before and after, as a unified diff")
    growth: float = Field(description="share by which the guideline gets longer; below zero, shorter")
    affected_rows: int
    settled_rows: int
    agreement_old: Estimate = Field(description="share of pairs of judges that agree on affected rows, old text again")
    agreement_new: Estimate = Field(description="the same under the new text")
    gain: Estimate = Field(description="paired difference of the two")
    changed: Estimate = Field(description="share of affected rows × judges with another label under the new text")
    harm: Estimate = Field(description="share of settled rows harmed under the new text, less that under the old again")
    right: Estimate | None = Field(None, description="where gold is known: paired change of the share of right labels")
    cost_usd: float | None = Field(None, description="of asking for this trial; None where a price is not known")
    verdict: Verdict
    reason: str
    more_rows: int | None = Field(None, description="affected rows still needed at this gain, where undecided")


class Tried(Frozen):
    """What came of a file of edits."""

    trials: list[EditTrial]
    refused: dict[str, str] = Field(description="why the others were not asked about, by clause")


def refuse_edit(edit: ClauseEdit, guideline: Guideline, limits: TrialLimits) -> str | None:
    """Why an edit is not worth asking about; None where it is.

    Raises:
        DataError: There is no such clause, or its text cannot stand in the guideline.
    """
    changed = guideline.with_clause(edit.clause, edit.text)
    words = " ".join(edit.text.split())
    if words == guideline.by_id[edit.clause].text:
        return "it changes nothing"
    for clause in guideline.clauses:
        likeness = difflib.SequenceMatcher(None, clause.text.casefold(), words.casefold()).ratio()
        if clause.id != edit.clause and likeness >= _ALIKE:
            return f"it says what clause {clause.id} says ({likeness:.0%} alike); merge the two instead"
    growth = len(changed.text) / len(guideline.text) - 1.0
    if growth > limits.growth:
        return f"it lengthens the guideline by {growth:.0%}, more than {limits.growth:.0%}; say it shorter"
    return None


def trial_rows(
    votes: pl.DataFrame, rows: pl.DataFrame, *, clause: str, most: int = 200, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Affected rows, and as many settled ones, to try an edit on.

    Args:
        votes: Votes with ``clauses``.
        rows: The rows.
        clause: Number of the clause.
        most: Rows of each kind at most, by a draw.
        seed: Of the draw.

    Returns:
        The affected rows: at least two judges differ and one of them cites the clause. The settled rows: all judges,
        two at least, agree; those that cite the clause first, since an edit of it can harm them.
    """
    said = collapse_votes(votes)
    cites = pl.col("clauses").list.contains(clause).fill_null(False) if "clauses" in said.columns else pl.lit(False)
    by_row = said.group_by("row_id", maintain_order=True).agg(
        judges=pl.len(), labels=pl.col("label").n_unique(), cites=cites.any()
    )
    judged = by_row.filter(pl.col("judges") > 1)
    apart = rows.join(judged.filter((pl.col("labels") > 1) & pl.col("cites")), on="row_id", how="semi")
    agreed = judged.filter(pl.col("labels") == 1).select("row_id", "cites")
    settled = rows.join(agreed, on="row_id", how="inner")
    draw = np.random.default_rng(seed)

    def drawn(table: pl.DataFrame) -> pl.DataFrame:
        return table[np.sort(draw.permutation(len(table))[:most])]

    citing = drawn(settled.filter(pl.col("cites")))
    others = settled.filter(~pl.col("cites"))
    others = others[np.sort(draw.permutation(len(others))[: max(0, most - len(citing))])]
    return drawn(apart), pl.concat([citing, others]).drop("cites")


class TrialVotes(NamedTuple):
    """Votes of one trial.

    Attributes:
        first: The votes that the rows were chosen by, under the old text.
        old: The old text asked again, of affected and settled rows.
        new: The new text.
    """

    first: pl.DataFrame
    old: pl.DataFrame
    new: pl.DataFrame


def judge_edit(
    edit: ClauseEdit,
    guideline: Guideline,
    votes: TrialVotes,
    affected: pl.DataFrame,
    settled: pl.DataFrame,
    *,
    limits: TrialLimits | None = None,
    config: EvalConfig | None = None,
) -> EditTrial:
    """Says what the votes of a trial show.

    Args:
        edit: What was tried.
        guideline: The one in force.
        votes: Who said what under which text.
        affected: From :func:`trial_rows`.
        settled: From :func:`trial_rows`.
        limits: What an edit may break.
        config: Resamples and level.

    Raises:
        DataError: No affected row has two judges under both texts.
    """
    limits, config = limits or TrialLimits(), config or EvalConfig()
    old, new = _pair_agreement(votes.old), _pair_agreement(votes.new)
    pairs = affected.select("row_id", "group").join(old, on="row_id").join(new, on="row_id", suffix="_new")
    if pairs.is_empty():
        raise DataError(f"trial of {edit.clause}: no affected row has two judges under both texts; ask more rows")
    agreement = _paired(pairs, "agree", config)
    harm = _harm(votes, settled, config)
    gain = agreement[2]
    verdict, reason = _verdict(gain, harm, limits)
    changed_text = guideline.with_clause(edit.clause, edit.text)
    return EditTrial(
        edit=edit,
        diff=_diff(guideline, changed_text, edit.clause),
        growth=len(changed_text.text) / len(guideline.text) - 1.0,
        affected_rows=len(pairs),
        settled_rows=harm.rows,
        agreement_old=agreement[0],
        agreement_new=agreement[1],
        gain=gain,
        changed=_changed(votes, affected, config),
        harm=harm,
        right=_right(votes, affected, config),
        cost_usd=_cost(votes),
        verdict=verdict,
        reason=reason,
        more_rows=_more_rows(gain, len(pairs)) if verdict == "undecided" else None,
    )


def _pair_agreement(votes: pl.DataFrame) -> pl.DataFrame:
    """``row_id`` and ``agree``, the share of its pairs of judges with one label, of rows with two judges or more."""
    counts = collapse_votes(votes).group_by("row_id", "label").len()
    by_row = counts.group_by("row_id").agg(same=(pl.col("len") * (pl.col("len") - 1)).sum(), judges=pl.col("len").sum())
    judged = by_row.filter(pl.col("judges") > 1)
    return judged.select("row_id", agree=pl.col("same") / (pl.col("judges") * (pl.col("judges") - 1)))


def _paired(table: pl.DataFrame, column: str, config: EvalConfig) -> tuple[Estimate, Estimate, Estimate]:
    """Means of ``column`` and ``column_new``, and of their difference."""
    old, new = (table[name].cast(pl.Float64).to_numpy() for name in (column, f"{column}_new"))
    values = np.column_stack([old, new, new - old])
    resamples = Resamples.of(table["group"].to_numpy(), count=config.bootstrap, seed=0)
    first, second, difference = ratio_estimates(values, np.ones_like(values), resamples, level=config.level)
    return first, second, difference


def _unanimous(votes: pl.DataFrame) -> pl.DataFrame:
    """``row_id`` and the ``label`` that all judges give, null where they differ, of rows with two judges or more."""
    by_row = (
        collapse_votes(votes)
        .group_by("row_id")
        .agg(pl.col("label").first(), labels=pl.col("label").n_unique(), judges=pl.len())
    )
    return by_row.filter(pl.col("judges") > 1).select(
        "row_id", label=pl.when(pl.col("labels") == 1).then(pl.col("label"))
    )


def _harm(votes: TrialVotes, settled: pl.DataFrame, config: EvalConfig) -> Estimate:
    first = _unanimous(votes.first).rename({"label": "settled"})
    table = settled.select("row_id", "group").join(first, on="row_id").filter(pl.col("settled").is_not_null())
    table = table.join(_unanimous(votes.old), on="row_id").join(_unanimous(votes.new), on="row_id", suffix="_new")
    if table.is_empty():
        return Estimate(value=None, level=config.level, note="no settled row was asked")
    harmed = {f"harmed{suffix}": pl.col(f"label{suffix}").ne_missing(pl.col("settled")) for suffix in ("", "_new")}
    lost = table.with_columns(**harmed)
    return _paired(lost, "harmed", config)[2]


def _changed(votes: TrialVotes, affected: pl.DataFrame, config: EvalConfig) -> Estimate:
    both = (
        collapse_votes(votes.old)
        .select("row_id", "teacher", "label")
        .join(collapse_votes(votes.new).select("row_id", "teacher", "label"), on=["row_id", "teacher"], suffix="_new")
    )
    table = affected.select("row_id", "group").join(both, on="row_id")
    moved = (table["label"] != table["label_new"]).cast(pl.Float64).to_numpy()[:, None]
    resamples = Resamples.of(table["group"].to_numpy(), count=config.bootstrap, seed=0)
    return ratio_estimates(moved, np.ones_like(moved), resamples, level=config.level)[0]


def _right(votes: TrialVotes, affected: pl.DataFrame, config: EvalConfig) -> Estimate | None:
    if "gold" not in affected.columns:
        return None
    known = affected.filter(pl.col("gold").is_not_null()).select("row_id", "group", "gold")
    old, new = (
        collapse_votes(part)
        .select("row_id", "teacher", "label")
        .join(known, on="row_id")
        .select("row_id", "teacher", "group", right=pl.col("label") == pl.col("gold"))
        for part in (votes.old, votes.new)
    )
    table = old.join(new.drop("group"), on=["row_id", "teacher"], suffix="_new")
    return None if table.is_empty() else _paired(table, "right", config)[2]


def _verdict(gain: Estimate, harm: Estimate, limits: TrialLimits) -> tuple[Verdict, str]:
    if gain.value is None or gain.low is None or gain.high is None:
        return "undecided", f"the gain has no interval: {gain.note}"
    points = f"{100 * gain.value:+.1f} points of agreement ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    if gain.high < 0:
        return "reject", f"{points}: judges agree less"
    if harm.low is not None and harm.low > limits.harm:
        return "reject", f"it harms {100 * harm.low:.1f}% of settled rows at least, more than {100 * limits.harm:g}%"
    if gain.low <= 0:
        return "undecided", f"{points}: the interval holds no change"
    if harm.high is None or harm.high > limits.harm:
        most = "an unknown share" if harm.high is None else f"up to {100 * harm.high:.1f}%"
        return "undecided", f"{points}, but {most} of settled rows may be harmed; {100 * limits.harm:g}% is allowed"
    return "adopt", f"{points}, and at most {100 * harm.high:.1f}% of settled rows are harmed"


def _more_rows(gain: Estimate, rows: int) -> int | None:
    """Rows for an interval half as wide as the gain, less those there are; None where no gain is to be seen."""
    if gain.value is None or gain.low is None or gain.high is None or abs(gain.value) < 1e-9:
        return None
    half = (gain.high - gain.low) / 2
    return max(0, math.ceil(rows * (half / abs(gain.value)) ** 2) - rows)


def _cost(votes: TrialVotes) -> float | None:
    paid = [part["cost_usd"] for part in (votes.old, votes.new) if "cost_usd" in part.columns]
    if not paid or any(column.null_count() for column in paid):
        return None
    return float(sum(float(column.sum()) for column in paid))


def _diff(old: Guideline, new: Guideline, clause: str) -> list[str]:
    clauses = [(mark, text.by_id[clause]) for mark, text in (("-", old), ("+", new))]
    return [f"{mark} {one.id} {one.title}. {one.text}" for mark, one in clauses]


def write_trials(tried: Tried, path: Path) -> list[Path]:
    """Writes trials as JSON, and as Markdown beside it: a verdict a line, then each clause before and after."""
    return [
        write_whole(path, tried.model_dump_json(indent=1) + "\n"),
        write_whole(path.with_suffix(".md"), _markdown(tried)),
    ]


def _markdown(tried: Tried) -> str:
    lines: list[list[object]] = []
    for trial in tried.trials:
        gain = interval(trial.gain, "accuracy", signed=True)
        lines.append([trial.edit.clause, trial.verdict, trial.reason, gain, share(trial.harm)])
    parts = ["## Edits tried", markdown_table(["clause", "verdict", "why", "agreement", "harm beyond noise"], lines)]
    for trial in tried.trials:
        cost = "unknown" if trial.cost_usd is None else f"${trial.cost_usd:.4f}"
        said = f"{trial.affected_rows} affected and {trial.settled_rows} settled rows, cost {cost}, "
        said += f"guideline {trial.growth:+.1%}"
        said += f"; about {trial.more_rows} more affected rows would decide" if trial.more_rows else ""
        body = "\n".join(f"> {markdown_cell(line, longest=1200)}" for line in trial.diff)
        parts.append(f"### {markdown_cell(trial.edit.clause)}: {trial.verdict}\n\n{said}\n\n{body}")
    for clause, why in tried.refused.items():
        parts.append(f"### {markdown_cell(clause)}: not tried\n\n{markdown_cell(why, longest=400)}")
    return "\n\n".join(parts) + "\n"
