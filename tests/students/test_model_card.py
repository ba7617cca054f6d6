from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from distill.students.abstention import Abstention
from distill.students.calibration import Calibration, Score
from distill.students.model_card import CardContext, Figure, SplitSize, TeacherShare, model_card, write_card
from distill.students.student_info import StudentInfo

INFO = StudentInfo(
    type="encoder",
    labels=("exact", "other"),
    inputs=("query", "title"),
    positive="exact",
    ordered=True,
    max_length=64,
    precision="fp32",
    parameters=22_700_000,
    seed=7,
    trained_on=("human", "labels"),
    rows={"human": 1200, "labels": 3000},
    config={
        "type": "encoder",
        "base": "roberta-base",
        "loss": {"type": "soft_ce", "temperature": 1.0, "mix": None},
        "epochs": 3,
        "match_tokens": True,
    },
    versions={"torch": "2.13.0"},
    calibration=Calibration(
        1.5, "audit gold", 300, groups=8, scores={"none": Score(0.9, 0.12), "temperature": Score(0.8, 0.04)}
    ),
    abstention=Abstention(0.05, 0.9, 0.75, "audit gold", 300, 8, answered=0.4, wrong=0.02, wrong_at_most=0.045),
    groups={"human": 30, "labels": 75},
)
CONTEXT = CardContext(
    run="shop",
    sources=["pairs.parquet"],
    splits=[SplitSize("audit", 300, 8, 290)],
    teachers=[TeacherShare("llm", "qwen", "openai: qwen3", 4200)],
    merged_by="family_vote",
    guideline=("3", "ab" * 32),
    train_s=61.0,
    truth_source="human",
    rows=1000,
    groups=40,
    figures=[Figure("auc", 0.8123, 0.76, 0.86)],
)


def _front(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_the_card_says_what_the_student_is_and_how_it_was_made() -> None:
    card = model_card(INFO, name="encoder-both", context=CONTEXT)
    for said in (
        "| human | 1,200 | 30 |",
        "| audit | 300 | 8 | 290 |",
        "| llm | qwen | openai: qwen3 | 4,200 |",
        "version 3, SHA-256 `" + "ab" * 32,
        "22,700,000 parameters",
        "61 s",
        "| temperature (chosen) | 0.8000 | 0.0400 |",
        "at most 5.0% wrong labels",
        "40.0% of the rows are answered, 2.0% of those wrongly, at most 4.5%",
        "1,000 test rows of 40 groups, against **labels by people**",
        "| auc | 0.8123 | 0.7600 to 0.8600 |",
        "match tokens",
        "Loss soft\\_ce (temperature: 1.0), computed in fp32",
    ):
        assert said in card
    front = _front(card)
    assert front["base_model"] == "roberta-base"
    assert front["library_name"] == "transformers"
    results = front["model-index"][0]["results"][0]  # type: ignore[index]
    assert results["metrics"] == [{"type": "auc", "value": 0.8123, "name": "auc against labels by people"}]


def test_a_small_gpt_is_told_of_as_one() -> None:
    config = {"type": "causal", "base": "smollm2", "traces": "before_label", "tiny": {"hidden": 128}, "trainer": {}}
    card = model_card(replace(INFO, type="causal", config=config), name="reasoner")
    assert "A causal language model that answers with the letter of a label, from smollm2, of 22,700,000" in card
    assert "`student.predict(rows, traces=True)` writes its reasoning" in card
    assert "| traces | before\\_label |" in card
    assert "| tiny |" not in card  # of a base that is made on the spot, which this is not
    assert "| trainer |" not in card


def test_a_training_alone_writes_what_it_knows(tmp_path: Path) -> None:
    plain = replace(INFO, calibration=Calibration(method="none"), abstention=None)
    write_card(tmp_path, plain, name="encoder")
    card = (tmp_path / "README.md").read_text()
    assert "Not calibrated" in card
    assert "Not measured" in card
    assert "## Abstention" not in card
    assert "model-index" not in _front(card)


@pytest.mark.parametrize(
    ("abstention", "said"),
    [
        (Abstention(0.05, 0.9), "too few held-out gold labels"),
        (Abstention(0.05, 0.9, None, "audit gold", 60, 6, rows_needed=500), "About 500 such rows"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_told(abstention: Abstention, said: str) -> None:
    card = model_card(replace(INFO, abstention=abstention), name="encoder")
    assert said in card
    assert "every row is marked abstained" in card


def test_names_and_labels_are_text_and_no_markup() -> None:
    evil = '<img src=x onerror=alert(1)> | [a](javascript:b) `c`\n# d\n---\nlicense: "mine"'
    info = replace(INFO, labels=(evil, "b"), positive=evil, inputs=(evil, "t"), rows={evil: 1}, groups={evil: 1})
    context = replace(
        CONTEXT,
        run=evil,
        sources=[evil],
        teachers=[TeacherShare(evil, evil, evil, 1)],
        guideline=(evil, "0" * 64),
        merged_by=evil,
    )
    card = model_card(info, name=evil, context=context)
    front = _front(card)
    assert set(front) == {"library_name", "pipeline_tag", "tags", "base_model", "model-index"}
    assert front["model-index"][0]["name"] == " ".join(evil.split())  # type: ignore[index]
    body = card.split("---\n", 2)[2]
    prose = "".join(body.split("```")[::2])  # the code block shows a row as JSON, where nothing is markup
    assert prose.count("<") == prose.count("\\<") > 0
    assert prose.count("[") == prose.count("\\[")
    assert not [line for line in prose.splitlines() if line.startswith(("# d", "license"))]
    # Every line of a table keeps its columns: a bar in a name opens none.
    shares = next(line for line in prose.splitlines() if line.startswith("| \\<img") and line.endswith("| 1 |"))
    assert shares.replace("\\|", "").count("|") in (4, 5)
    assert body.count("```") == 2


def test_the_folder_of_whoever_trained_it_is_not_told() -> None:
    info = replace(INFO, config={**INFO.config, "base": "/home/ann/secret/encoder"})
    card = model_card(info, name="encoder")
    assert "/home/ann" not in card
    assert "from encoder" in card


def test_the_licence_is_that_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    card = model_card(replace(INFO, config={**INFO.config, "base": str(tmp_path)}), name="encoder")
    assert "The base is under the licence mit" in card
    assert "base_model" not in _front(card)
    assert "states no licence that was found" in model_card(INFO, name="encoder")
