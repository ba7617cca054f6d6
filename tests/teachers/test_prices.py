from __future__ import annotations

from datetime import date

import pytest
import yaml
from pydantic import ValidationError

from distill.labeling.errors import UsageError
from distill.teachers.config import OpenAITeacherConfig, PriceConfig
from distill.teachers.prices import TABLE, Usage, cost_usd, find_price

PRICE = PriceConfig(
    input_usd_per_mtok=2, cached_input_usd_per_mtok=0.5, output_usd_per_mtok=10, batch_factor=0.5, flex_factor=0.25
)
SECTION = {"model": "m", "family": "f"}


def test_cost_of_an_answer():
    # (1000 - 400) * 2 + 400 * 0.5 + 50 * 10 = 1200 + 200 + 500 = 1900 dollars a million.
    usage = Usage(1000, 50, 400)
    assert cost_usd(usage, PRICE) == pytest.approx(1900e-6)
    assert cost_usd(usage, PRICE, tier="batch") == pytest.approx(950e-6)
    assert cost_usd(usage, PRICE, tier="flex") == pytest.approx(475e-6)
    plain = PriceConfig(input_usd_per_mtok=2, output_usd_per_mtok=10)
    assert cost_usd(usage, plain, tier="batch") == pytest.approx(1250e-6)  # half, where nothing else is said


def test_unknown_is_none_and_never_zero():
    assert cost_usd(Usage(10, 10), None) is None
    assert cost_usd(Usage(None, 10), PRICE) is None
    assert cost_usd(Usage(10, None), PRICE) is None
    assert cost_usd(Usage(10, 10), PriceConfig.model_validate(0)) == 0


def test_a_table_knows_models_of_a_host_and_their_snapshots_alone():
    day = date(2026, 11, 1)
    mini = find_price("gpt-5.4-mini", host="api.openai.com", today=day)
    assert mini and "https://" in mini.source and "2026" in mini.source
    assert find_price("gpt-5.4-mini-2026-03-17", host="API.OpenAI.com", today=day) == mini
    assert find_price("gpt-5.4-mini-huge", host="api.openai.com", today=day) is None
    assert find_price("gpt-5.4-mini", host="localhost", today=day) is None
    assert find_price("gpt-5.4-mini", host=None, today=day) is None


def test_a_price_ends():
    host = "generativelanguage.googleapis.com"
    before, after = (
        find_price("gemini-3.8-flash", host=host, today=day) for day in (date(2026, 12, 31), date(2027, 1, 1))
    )
    assert before and after
    assert (before.price.input_usd_per_mtok, after.price.input_usd_per_mtok) == (0.75, 1.5)


def test_every_line_of_the_table_is_sourced_and_dated():
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    for provider in table["providers"]:
        assert provider["source"].startswith("https://")
        seen = set()
        for line in provider["models"]:
            assert isinstance(line["checked"], date)
            assert line["output_usd_per_mtok"] >= line["input_usd_per_mtok"] > 0
            assert line.get("cached_input_usd_per_mtok", 0) < line["input_usd_per_mtok"]
            assert (line["model"], line.get("until")) not in seen
            seen.add((line["model"], line.get("until")))


def test_the_recipe_wins_then_the_users_table(tmp_path, monkeypatch):
    own = tmp_path / "own.yaml"
    line = "{model: gpt-5.4-mini, input_usd_per_mtok: 7, output_usd_per_mtok: 8, checked: 2026-11-01}"
    own.write_text(f"providers:\n  - {{name: us, hosts: [api.openai.com, llm.corp], source: deal, models: [{line}]}}\n")
    monkeypatch.setenv("DISTILL_PRICES", str(own))
    found = find_price("gpt-5.4-mini", host="llm.corp")
    assert found and (found.price.input_usd_per_mtok, found.source) == (7, "deal, read 2026-11-01")
    given = find_price("gpt-5.4-mini", host="llm.corp", given=PRICE)
    assert given and (given.price, given.source) == (PRICE, "the recipe")
    other = find_price("gpt-5.4", host="api.openai.com")  # what the user's table does not say, the package's does
    assert other and other.price.input_usd_per_mtok == 2.5


def test_a_broken_table_is_named(tmp_path, monkeypatch):
    own = tmp_path / "broken.yaml"
    own.write_text("providers:\n  - {name: us, hosts: [h], source: s, models: [{model: m}]}\n")
    monkeypatch.setenv("DISTILL_PRICES", str(own))
    with pytest.raises(UsageError, match=r"broken\.yaml.*input_usd_per_mtok: Field required"):
        find_price("m", host="h")


def test_a_budget_takes_a_known_price():
    hosted = OpenAITeacherConfig(base_url="https://api.openai.com/v1", model="gpt-5.4-mini", family="gpt", budget_usd=1)
    assert hosted.known_price is not None
    free = OpenAITeacherConfig(base_url="http://localhost:8000/v1", price=0, budget_usd=1, **SECTION)
    assert free.known_price is not None and free.known_price.price.input_usd_per_mtok == 0
    with pytest.raises(ValidationError, match="none is known"):
        OpenAITeacherConfig(base_url="http://localhost:8000/v1", budget_usd=1, **SECTION)
    with pytest.raises(ValidationError):
        OpenAITeacherConfig(base_url="http://localhost:8000/v1", price=False, **SECTION)
