"""What a model card says where a student answers the parts of a query task."""

from __future__ import annotations

import json

from distill.students.queries.asked_task import task_of
from distill.students.queries.part_predictions import prediction_schema
from distill.students.student_info import StudentInfo

_DOES = {
    "spelling": "corrects the query",
    "brand": "marks brands in it",
    "category": "names its categories",
    "expansion": "ranks other ways to say it",
    "spans": "marks parts of it",
    "choice": "names the labels that hold",
    "texts": "ranks texts",
}


def parts_kind(info: StudentInfo) -> str:
    """What it does, as the end of a sentence."""
    assert info.parts is not None
    done = [_DOES.get(name, name) for name in info.parts]
    return ", ".join(done[:-1]) + (" and " if len(done) > 1 else "") + done[-1]


def parts_use(info: StudentInfo) -> str:
    """How to call it."""
    assert info.asked is not None
    writes = info.type == "causal"
    columns = ", ".join(prediction_schema(task_of(info.asked, inputs=info.inputs), writes=writes))
    row = {"row_id": ["1"], **{name: ["…"] for name in info.inputs}}
    text = (
        "```python\nimport distill\nimport polars as pl\n\n"
        'student = distill.load_student("PATH OF THIS FOLDER")\n'
        f"rows = pl.DataFrame({json.dumps(row, ensure_ascii=False)})\n"
        f"student.predict(rows)  # a line a row and part: {columns}\n```\n\n"
    )
    if writes:
        return text + "`AutoModelForCausalLM` of transformers loads it too; `distill_prompt.json` says how to ask it."
    return text + (
        "`AutoModel` and `AutoTokenizer` of transformers load the trunk; the heads are in `parts.safetensors`, what "
        "they read and write is in `parts.json`."
    )


def parts_table(info: StudentInfo) -> str:
    """Rows, threshold and calibration by part."""
    assert info.parts is not None
    lines = ["| part | learned from rows | threshold | held-out rows | right on them | confidence |", "|" + "---|" * 6]
    for name, part in info.parts.items():
        on = "–" if part.threshold_source == "none" else f" ({part.threshold_source})"
        threshold = f"{part.threshold:.4f}{'' if on == '–' else on}" if part.threshold else "–"
        right = "–" if part.right is None else f"{part.right:.1%}"
        method = "not calibrated" if part.calibration.source == "none" else part.calibration.method
        lines.append(f"| {name} | {part.learned:,} | {threshold} | {part.rows:,} | {right} | {method} |")
    text = "\n".join(lines)
    for name, part in info.parts.items():
        if part.wanted is None:
            continue
        if part.over_corrected is None:
            text += (
                f"\n\n{name}: no held-out query is known to be right, so nothing says how often right ones are changed."
            )
            continue
        text += (
            f"\n\n{name}: of {part.right_queries:,} held-out queries that are right, {part.over_corrected:.1%} are "
            f"changed; at most {part.wanted:.1%} was asked for."
        )
        if part.threshold_source == "none":
            text += " **There were too few of them to promise it for others.**"
    return (
        text + "\n\n“Right” is agreement with the held-out answers, which are the teachers' where no people gave any."
    )
