"""What the recorded replies of ``query_students.py`` would cost of a hosted model: `distill plan`, without network."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from distill.plan import make_plan
from distill.recipe import load_recipe

# Google's list price of November 2026, dollars a million tokens, as in recipes/query_understanding_gemini.yaml.
_PRICE = {"input_usd_per_mtok": 1.5, "output_usd_per_mtok": 9.0, "cached_input_usd_per_mtok": 0.15, "batch_factor": 0.5}
_FLASH: dict[str, Any] = {"type": "gemini", "model": "gemini-3.5-flash", "family": "gemini", "price": _PRICE}


def listed_cost(recipe: Path, *, teacher: str = "model", rows: str | None = None) -> str:
    """Requests and dollars where a recipe's recorded teacher is a hosted one that has answered nothing yet.

    Args:
        recipe: The recipe, as it was run.
        teacher: The recorded teacher.
        rows: The file of those that it is asked about, where not all of the recipe's.
    """
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if teacher not in written.get("teachers", {}):
        return "Nothing was asked of a model."
    os.environ.setdefault("GEMINI_API_KEY", "none-is-needed-to-plan")
    with tempfile.TemporaryDirectory() as folder:
        asked = {**written, "teachers": {teacher: _FLASH}, "students": {}, "ledger": f"{folder}/ledger.sqlite"}
        if rows is not None:
            asked["data"] = {**written["data"], "rows": rows}
        path = recipe.with_name("cost.yaml")
        path.write_text(yaml.safe_dump(asked, allow_unicode=True), encoding="utf-8")
        (plan,) = make_plan(load_recipe(path)).teachers
    assert plan.cost_usd is not None
    return (
        f"{plan.to_send:,} requests; of gemini-3.5-flash at its list price ${plan.cost_usd.low:.2f} to "
        f"${plan.cost_usd.high:.2f}, half of it by batch (`distill plan`, before any reply)."
    )
