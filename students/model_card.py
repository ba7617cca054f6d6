"""The ``README.md`` of a student's folder: a model card as the Hugging Face Hub reads it.

A training writes what it knows itself. Whoever ran it adds the rest (:class:`CardContext`): data, teachers, guideline
and what was measured. Names and labels are other people's text, so all of it is escaped.

Specification of the metadata: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.labeling.errors import DataError
from distill.labeling.packaged_folder import packaged_folder
from distill.students.abstention import Abstention
from distill.students.calibration import Calibration
from distill.students.queries.model_card import parts_kind, parts_table, parts_use
from distill.students.student_info import StudentInfo

CARD_FILE = "README.md"
_NOT_SETTINGS = {"type", "train_on", "base", "abstain", "loss"}
"""Settings that the card tells elsewhere."""
_SPECIAL = re.compile(r"([\\`*_\[\]|<>#~!$&])")


@dataclass(frozen=True)
class Figure:
    """A measured number.

    Attributes:
        name: What it is, such as ``auc``.
        value: The number.
        low: Lower end of its interval; None where there is none.
        high: Upper end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SplitSize:
    """Rows of a split, the groups that they are in, and how many of them have a gold label."""

    split: str
    rows: int
    groups: int
    gold: int


@dataclass(frozen=True)
class TeacherShare:
    """A teacher behind the labels: its family, what it is, and its labeled votes outside split ``test``."""

    name: str
    family: str
    kind: str
    votes: int


@dataclass(frozen=True)
class CardContext:
    """What a training does not know of itself.

    Attributes:
        run: Name of the run.
        sources: Names of the data's files or sets.
        splits: Sizes of the splits.
        teachers: Who gave the votes that it learned from.
        merged_by: How votes were merged; None where one teacher's, or none, were used.
        guideline: Version and hash of what the teachers were told; None without one.
        train_s: Seconds of the training.
        gold_source: Whose the gold labels are: ``human`` or ``author``.
        truth_source: What the figures are measured against: ``human``, ``author`` or ``teacher``; None without any.
        rows: Test rows measured on.
        groups: Groups of them.
        level: Coverage of the intervals.
        figures: What was measured.
    """

    run: str
    sources: Sequence[str] = ()
    splits: Sequence[SplitSize] = ()
    teachers: Sequence[TeacherShare] = ()
    merged_by: str | None = None
    guideline: tuple[str, str] | None = None
    train_s: float | None = None
    gold_source: str = "human"
    truth_source: str | None = None
    rows: int = 0
    groups: int = 0
    level: float = 0.95
    figures: Sequence[Figure] = field(default=())


def write_card(folder: Path, info: StudentInfo, *, name: str, context: CardContext | None = None) -> None:
    """Writes ``README.md`` into a student's folder.

    Args:
        folder: The student's.
        info: What it is.
        name: What it is called.
        context: What the run knows besides; left out of the card where it is None.
    """
    (folder / CARD_FILE).write_text(model_card(info, name=name, context=context), encoding="utf-8")


def model_card(info: StudentInfo, *, name: str, context: CardContext | None = None) -> str:
    """The card as Markdown; arguments as for :func:`write_card`."""
    parts = [
        _front_matter(info, name, context),
        f"# {_text(name)}\n\n{_opening(info)}",
        f"## Use\n\n{_use(info)}",
        f"## Data\n\n{_data(info, context)}",
        f"## Training\n\n{_training(info, context)}",
        f"## Calibration\n\n{_calibration(info.calibration, context) if info.parts is None else parts_table(info)}",
        *([f"## Abstention\n\n{_abstention(info.abstention, context)}"] if info.abstention is not None else []),
        f"## Quality\n\n{_quality(context)}",
        f"## Limits\n\n{_limits(info, context)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(info: StudentInfo, name: str, context: CardContext | None) -> str:
    base = str(info.config.get("base", ""))
    metadata: dict[str, Any] = {
        "library_name": "transformers" if info.type == "encoder" else "distill",
        "pipeline_tag": _pipeline(info),
        "tags": ["distill", "knowledge-distillation", "product-search", info.type],
    }
    if base and ":" not in base and not Path(base).is_absolute() and not Path(base).exists():
        metadata["base_model"] = base
    if context is not None and context.figures:
        metadata["model-index"] = [
            {
                "name": _one_line(name),
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"name": _one_line(", ".join(context.sources) or context.run), "type": "private"},
                        "metrics": [
                            {"type": figure.name, "value": round(figure.value, 4), "name": _with_truth(figure, context)}
                            for figure in context.figures
                        ],
                    }
                ],
            }
        ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=math.inf)}---"


def _pipeline(info: StudentInfo) -> str:
    if info.parts is None:
        return "text-classification"
    return "text-generation" if info.type == "causal" else "token-classification"


def _with_truth(figure: Figure, context: CardContext) -> str:
    return f"{figure.name} against {_whose(context.truth_source)}"


def _opening(info: StudentInfo) -> str:
    kinds = {
        "dcn": "A deep & cross network on hashed text features",
        "encoder": "An encoder that reads query and listing",
        "causal": "A causal language model that answers with the letter of a label",
    }
    labels = ", ".join(_text(label) for label in info.labels)
    order = " (grades, in order)" if info.ordered else ""
    match = f" The label that counts as a match is {_text(info.positive)}." if info.positive else ""
    base = f", from {_text(_base_name(info))}" if info.config.get("base") else ""
    if info.parts is not None:
        kind = "A causal language model" if info.type == "causal" else "An encoder"
        return (
            f"{kind}{base}, of {info.parameters:,} parameters, that reads "
            f"{', '.join(_text(name) for name in info.inputs)}, and in one pass {parts_kind(info)}."
        )
    return (
        f"{kinds[info.type]}{base}, of {info.parameters:,} parameters. It reads "
        f"{', '.join(_text(name) for name in info.inputs)}, and states a probability for each of the labels "
        f"{labels}{order}.{match}"
    )


def _use(info: StudentInfo) -> str:
    if info.parts is not None:
        return parts_use(info)
    row = {"row_id": ["1"], **{name: ["…"] for name in info.inputs}}
    text = (
        "```python\nimport distill\nimport polars as pl\n\n"
        'student = distill.load_student("PATH OF THIS FOLDER")\n'
        f"rows = pl.DataFrame({json.dumps(row, ensure_ascii=False)})\n"
        "student.predict(rows)  # row_id, label, probs, confidence\n```"
    )
    if info.type == "causal":
        return text + (
            "\n\n`AutoModelForCausalLM`, `AutoTokenizer` and vLLM load the folder too; `distill_prompt.json` is how it "
            "is asked and which letter is which label. Probabilities of the letters are those before calibration."
            + _linear(info, what="What they give")
            + (" `student.predict(rows, traces=True)` writes its reasoning." if _writes_traces(info) else "")
        )
    if info.type != "encoder":
        return text
    text += (
        "\n\n`AutoModelForSequenceClassification` and `AutoTokenizer` of transformers load the folder too. Their "
        "scores are those before calibration: `distill.students.calibration.calibrated` turns them into the "
        "distribution. The first segment is the query, the second the other inputs as `name: value name: value …`, "
        "empty ones left out."
    )
    if info.config.get("match_tokens") and len(info.inputs) > 1:
        text += (
            " Before the second segment distill puts **match tokens**, which tell where in the listing the query's "
            "words were found (`distill.students.match_tokens`). Without them the scores are another, worse model's."
        )
    return text + _linear(info, what="What transformers gives")


def _linear(info: StudentInfo, *, what: str) -> str:
    if not info.wide_share:
        return ""
    return (
        f" {what} is the network's share alone: a linear model (`wide.json`) is "
        f"{info.wide_share:.0%} of the scores of `student.predict`."
    )


def _data(info: StudentInfo, context: CardContext | None) -> str:
    lines = [
        f"| {_text(source)} | {count:,} | {f'{info.groups[source]:,}' if source in info.groups else '–'} |"
        for source, count in info.rows.items()
    ]
    text = _table(("learned from", "rows", "groups"), lines)
    if context is None:
        return text
    if context.sources:
        text += (
            f"\n\nRows come from {', '.join(_text(source) for source in context.sources)} (run {_text(context.run)})."
        )
    if context.splits:
        sizes = [f"| {_text(s.split)} | {s.rows:,} | {s.groups:,} | {s.gold:,} |" for s in context.splits]
        text += f"\n\n{_table(('split', 'rows', 'groups', 'with a gold label'), sizes)}"
        text += f"\n\nGold labels are {_whose(context.gold_source)}. No split cuts through a group."
    if context.teachers:
        shares = [f"| {_text(t.name)} | {_text(t.family)} | {_text(t.kind)} | {t.votes:,} |" for t in context.teachers]
        text += f"\n\n{_table(('teacher', 'family', 'what', 'votes outside test'), shares)}"
    if context.merged_by is not None:
        text += f"\n\nVotes were merged by {_text(context.merged_by)}."
    if context.guideline is not None:
        version, digest = context.guideline
        text += f"\n\nGuideline: version {_text(version)}, SHA-256 `{digest}`."
    return text


def _training(info: StudentInfo, context: CardContext | None) -> str:
    settings = {name: value for name, value in info.config.items() if _tells(info, name, value)}
    facts = [f"loss {_text(_loss(info.config['loss']))}"] if "loss" in info.config else []
    facts += [f"computed in {_text(info.precision)}", f"seed {info.seed}"]
    if context is not None and context.train_s is not None:
        facts.append(f"{context.train_s:,.0f} s, calibration included")
    if info.wide_share is not None:
        facts.append(f"{info.wide_share:.0%} of the scores from a linear model of how query and listing match")
    told = ", ".join(facts)
    text = f"{told[0].upper()}{told[1:]}.\n\n"
    text += _table(
        ("setting", "value"), [f"| {_text(key)} | {_text(_plain(value))} |" for key, value in settings.items()]
    )
    versions = ", ".join(f"{_text(package)} {_text(version)}" for package, version in info.versions.items())
    return f"{text}\n\nMade with {versions}."


def _loss(section: Mapping[str, Any]) -> str:
    rest = _plain({name: value for name, value in section.items() if name != "type"})
    return f"{section['type']} ({rest})" if rest else str(section["type"])


def _tells(info: StudentInfo, name: str, value: object) -> bool:
    """Whether a setting says something of this student."""
    unused = name == "tiny" and info.config.get("base") != "tiny"
    return name not in _NOT_SETTINGS and value is not None and value != {} and not unused


def _writes_traces(info: StudentInfo) -> bool:
    return info.config.get("traces", "none") != "none"


def _calibration(calibration: Calibration, context: CardContext | None) -> str:
    if calibration.source == "none":
        return "Not calibrated: too few held-out rows. Probabilities are the network's own."
    whose = (
        f"gold labels ({_whose(_gold_source(context))})"
        if calibration.source == "audit gold"
        else (
            "held-out targets of the kind that it learned from, so that it is calibrated to its teachers, not to people"
        )
    )
    fitted_on = f"{calibration.rows:,} rows of {calibration.groups:,} groups: {whose}"
    text = f"Method: **{calibration.method}**, fitted on {fitted_on}."
    if not calibration.scores:
        return f"{text} There are too few groups to tell what it is worth on others."
    lines = [
        f"| {name}{' (chosen)' * (name == calibration.method)} | {score.log_loss:.4f} | {score.calibration_error:.4f} |"
        for name, score in calibration.scores.items()
    ]
    table = _table(("method", "log loss", "calibration error (15 bins)"), lines)
    return f"{text} Each method on groups that it was not fitted on; `none` is how it was before:\n\n{table}"


def _abstention(abstention: Abstention, context: CardContext | None) -> str:
    wanted = (
        f"Asked for: at most {abstention.risk:.1%} wrong labels among the rows answered, with a confidence of "
        f"{abstention.confidence:.0%}."
    )
    if abstention.source == "none":
        return f"{wanted} There were too few held-out gold labels to show it, so **every row is marked abstained**."
    on = f"{abstention.rows:,} rows of {abstention.groups:,} groups with gold labels ({_whose(_gold_source(context))})"
    if abstention.threshold is None:
        needed = abstention.rows_needed
        more = f" About {needed:,} such rows would probably be enough." if needed else ""
        return f"{wanted} No threshold was shown to do on {on}, so **every row is marked abstained**.{more}"
    return (
        f"{wanted} On {on} a highest probability before calibration of at least {abstention.threshold:.4f} does: "
        f"{abstention.answered:.1%} of the rows are answered, {abstention.wrong or 0.0:.1%} of those wrongly, at most "
        f"{abstention.wrong_at_most or 0.0:.1%} at the confidence wanted. It holds for rows like these."
    )


def _quality(context: CardContext | None) -> str:
    if context is None or not context.figures:
        return "Not measured."
    lines = [
        f"| {_text(figure.name)} | {figure.value:.4f} | "
        + ("–" if figure.low is None or figure.high is None else f"{figure.low:.4f} to {figure.high:.4f}")
        + " |"
        for figure in context.figures
    ]
    about = f"On {context.rows:,} test rows of {context.groups:,} groups, against **{_whose(context.truth_source)}**."
    if context.truth_source == "teacher":
        about += " That is agreement with those that it learned from: it ranks students and does not grade them."
    table = _table(("metric", "value", f"{context.level:.0%} interval over groups"), lines)
    return f"{about}\n\n{table}"


def _limits(info: StudentInfo, context: CardContext | None) -> str:
    limits = [
        "Tested on no language, shop, label set or wording of fields but those of the rows above.",
        "Product text is written by someone who wants to win: listings made to mislead were not tested.",
        "A new query is like the test groups or it is not; the intervals answer for the first only.",
    ]
    if context is None or context.truth_source in (None, "teacher"):
        limits.append("Nobody's labels tell how often it is right.")
    if info.config.get("base"):
        licence = _licence(str(info.config["base"]))
        said = f"is under the licence {_text(licence)}" if licence else "states no licence that was found"
        limits.append(f"The base {said}; the data's and the teachers' terms are not told here.")
    return "\n".join(f"- {limit}" for limit in limits)


def _whose(source: str | None) -> str:
    return {
        "human": "labels by people",
        "author": "the labels that the rows were written to have",
        "teacher": "the teachers' merged labels",
        None: "gold labels",
    }.get(source, "gold labels")


def _gold_source(context: CardContext | None) -> str | None:
    return None if context is None else context.gold_source


def _base_name(info: StudentInfo) -> str:
    """The base as it was named, without the folders of whoever trained it."""
    base = str(info.config["base"])
    return Path(base).name if Path(base).is_absolute() else base


def _licence(base: str) -> str | None:
    """What the base's own card says, where its folder is here."""
    try:
        text = (Path(packaged_folder(base)) / CARD_FILE).read_text(encoding="utf-8")
        _, head, _ = text.split("---\n", 2) if text.startswith("---\n") else ("", "", "")
        found = yaml.safe_load(head)
    except (DataError, OSError, ValueError, yaml.YAMLError):
        return None
    licence = found.get("license") if isinstance(found, Mapping) else None
    return licence if isinstance(licence, str) else None


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items() if item is not None)
    return ", ".join(_plain(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _table(head: Sequence[str], lines: Iterable[str]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines])


def _text(value: object) -> str:
    """Someone else's text on one line, none of it Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", _one_line(str(value)))


def _one_line(text: str) -> str:
    return " ".join(text.split())
