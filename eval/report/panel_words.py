"""What a panel is worth, in plain words, with what the figures rest on."""

from __future__ import annotations

from distill.eval.report.panel_facts import FamilyGain, PanelFacts
from distill.eval.wording import plural

_JUDGED_BY = {
    "gold": "How errors correlate is told by labels of people or the data’s author; what a family adds by how it "
    "agrees with the others.",
    "consensus": "Errors are told by what the other families agree on: what all get wrong together stays hidden, so "
    "that the true correlation is mostly higher and the votes are worth less. The order of families holds better than "
    "the numbers.",
    "assumed": "These votes do not show it, which takes three families or gold; 0.4 is usual between families of "
    "language models.",
}


def panel_said(facts: PanelFacts | None) -> list[str]:
    """Sentences for the report; none without a panel."""
    if facts is None:
        return []
    if facts.families == 1:
        return [
            f"All {facts.teachers} teachers are of one family, and err together: a further one of it adds next to "
            "nothing. One teacher of another family would tell where they are wrong together."
        ]
    verb = "are assumed to correlate" if facts.source == "assumed" else "correlate"
    lines = [
        f"Errors {verb} by {facts.between:.2f} between {facts.families} families, so that the "
        f"{facts.votes:.1f} votes of a row are worth {facts.n_eff:.1f} independent ones.{_weakest(facts)}"
    ]
    if advice := _advice(facts):
        lines.append(advice)
    lines.append(_JUDGED_BY[facts.source])
    return lines


def panel_table(facts: PanelFacts | None) -> tuple[list[str], list[list[str]]] | None:
    """Columns and lines of the families' gains; None without any."""
    if facts is None or not facts.gains:
        return None
    columns = ["family", "rows", "errors correlate", "agrees with the others", "adds votes", "adds accuracy, about"]
    lines = [
        [
            one.family,
            f"{one.rows:,}",
            f"{one.error_correlation:.2f}",
            f"{100 * one.agreement:.1f}%",
            f"{one.n_eff_gain:+.2f}".replace("-", "−"),
            _points(one),
        ]
        for one in facts.gains
    ]
    return columns, lines


def label_table(facts: PanelFacts | None) -> tuple[list[str], list[list[str]]] | None:
    """Columns and lines of the panel's worth by label; None where no label has enough rows."""
    if facts is None or all(one.n_eff is None for one in facts.by_label):
        return None
    lines = [
        [
            one.label,
            f"{one.rows:,}",
            "–" if one.between is None else f"{one.between:.2f}",
            "–" if one.n_eff is None else f"{one.n_eff:.2f}",
        ]
        for one in facts.by_label
    ]
    return ["label", "rows", "errors correlate", "votes are worth"], lines


def _weakest(facts: PanelFacts) -> str:
    known = [one for one in facts.by_label if one.n_eff is not None]
    if len(known) < 2:
        return ""
    worst, best = (pick(known, key=lambda one: one.n_eff or 0.0) for pick in (min, max))
    if (best.n_eff or 0.0) - (worst.n_eff or 0.0) < 0.1:
        return ""
    return f" Least stands behind {worst.label} ({worst.n_eff:.1f}), most behind {best.label} ({best.n_eff:.1f})."


def _advice(facts: PanelFacts) -> str:
    more = ""
    if facts.one_more is not None:
        more = f" One more family that errs as these do would add {facts.one_more:.2f} votes."
    if not facts.gains:
        return more.strip()
    best, least = facts.gains[0], facts.gains[-1]
    if not facts.pilots:
        return (
            f"{best.family} brings most to the others (about {_points(best)}), {least.family} least (about "
            f"{_points(least)}).{more} To see what a new family would bring, have it label some hundred of these rows."
        )
    if best.expected_gain <= 0:
        return f"None of the families on trial is expected to help; the best is {best.family} ({_points(best)}).{more}"
    votes = f"{best.n_eff_gain:+.2f} independent votes a row".replace("-", "−")
    return (
        f"Of the families on trial, add {best.family} next (tried on {plural(best.rows, 'row')}): it would bring "
        f"{votes} and about {_points(best)}.{more}"
    )


def _points(one: FamilyGain) -> str:
    return f"{100 * one.expected_gain:+.1f} points".replace("-", "−")
