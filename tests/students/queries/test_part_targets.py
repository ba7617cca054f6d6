"""Where the answers come from that a student of a query task learns."""

import json
from typing import Any

import polars as pl
import pytest

from distill.labeling.errors import StudentError
from distill.labeling.merging.merge_answers import merge_answers
from distill.labeling.spans import SpanAnswer
from distill.labeling.task import Task, TaskConfig
from distill.labeling.vote import PartVote, Vote, votes_frame
from distill.students.config import DcnConfig, EncoderConfig, StudentConfig
from distill.students.queries.asked_task import record_of, task_of
from distill.students.queries.config import SyntheticSection
from distill.students.queries.part_fit import right_query_threshold
from distill.students.queries.part_targets import ANSWERS, expansion_vocabulary, gold_answers, part_targets
from distill.students.queries.synthetic_rows import SYNTHETIC, with_typos
from distill.students.task_fit import student_problems
from distill.students.training_set import TrainingSet

CATEGORIES = ["Home > Lamps", "Home > Chairs", "Wear"]


def _task(**settings: Any) -> Task:
    config = {"type": "query_understanding", "inputs": ["query"], "categories": CATEGORIES, **settings}
    return Task.from_config(TaskConfig.model_validate(config))


def _rows(**splits: str) -> pl.DataFrame:
    queries = {"a": "acme lmap", "b": "red chair", "c": "blue shoe", "d": "green lamp"}
    golds = {"a": {"spelling": "acme lamp", "brand": [{"start": 0, "end": 4, "text": "acme", "type": "brand"}]}}
    return pl.DataFrame(
        [
            {
                "row_id": row_id,
                "group": query,
                "split": splits.get(row_id, "train"),
                "gold": json.dumps(golds[row_id]) if row_id in golds else None,
                "weight": 1.0,
                "query": query,
            }
            for row_id, query in queries.items()
        ],
        schema_overrides={"gold": pl.String},
    )


def _votes() -> pl.DataFrame:
    """Two families: they agree on row b, and differ on row c."""
    said = {
        ("one", "b"): ("red chair", [CATEGORIES[1]], ["seat"]),
        ("two", "b"): ("red chair", [CATEGORIES[1]], ["seat", "stool"]),
        ("one", "c"): ("blue shoe", [CATEGORIES[2]], []),
        ("two", "c"): ("blue shoes", [CATEGORIES[0]], []),
    }
    votes = []
    for (teacher, row_id), (text, labels, texts) in said.items():
        parts = (
            PartVote("spelling", text=text),
            PartVote("brand", "invalid", reason="not there"),
            PartVote("category", labels=labels),
            PartVote("expansion", texts=texts),
        )
        votes.append(Vote(row_id, teacher, teacher, "labeled", parts=parts))
    return votes_frame(votes)


def _targets(config: StudentConfig, rows: pl.DataFrame, task: Task) -> TrainingSet:
    labels = merge_answers(_votes(), task=task).labels
    return part_targets(config, rows, labels=labels, votes=_votes(), task=task, seed=0)


def _answers(training: TrainingSet) -> dict[str, dict[str, Any]]:
    return {row_id: json.loads(cell) for row_id, cell in training.train.select("row_id", ANSWERS).iter_rows()}


def test_merged_labels_are_soft_and_parts_without_votes_are_not_known() -> None:
    task = _task()
    training = _targets(EncoderConfig(train_on=("labels",)), _rows(), task)
    found = _answers(training)
    assert found.keys() == {"b", "c"}
    assert found["b"] == {
        "spelling": [["red chair", 1.0]],
        "category": [[CATEGORIES[1], 1.0]],
        "expansion": [["seat", 1.0], ["stool", 0.5]],
    }
    # Two families with half the weight each.
    assert dict(found["c"]["spelling"]) == pytest.approx({"blue shoe": 0.5, "blue shoes": 0.5})
    assert dict(found["c"]["category"]) == pytest.approx({CATEGORIES[0]: 0.5, CATEGORIES[2]: 0.5})
    assert found["c"]["expansion"] == []
    # spelling, brand, category, expansion
    assert training.train["target"].to_list() == [[1.0, 0.0, 1.0, 1.0]] * 2
    assert training.counts == {"labels": 2}


def test_people_come_first_part_by_part() -> None:
    training = _targets(EncoderConfig(train_on=("human", "one"), human_weight=3.0), _rows(), _task())
    found = _answers(training)
    assert found["a"] == {"spelling": [["acme lamp", 1.0]], "brand": [[0, 4, 0, 1.0]]}
    assert found["c"]["category"] == [[CATEGORIES[2], 1.0]]
    # Of three spellings people's pulls three times as hard as each of the others; the mean is 1: 3, 1, 1 by 5/3.
    pulls = dict(zip(training.train["row_id"], training.train["target"].list.get(0), strict=True))
    assert pulls == pytest.approx({"a": 9 / 5, "b": 3 / 5, "c": 3 / 5})


def test_no_row_is_learned_that_is_measured_on() -> None:
    rows = _rows(b="test")
    assert _answers(_targets(EncoderConfig(train_on=("labels",)), rows, _task())).keys() == {"c"}
    with pytest.raises(StudentError, match="nothing to learn from"):
        _targets(EncoderConfig(train_on=("human",)), _rows(a="audit"), _task())
    with pytest.raises(StudentError, match="no votes of a teacher 'three'"):
        _targets(EncoderConfig(train_on=("three",)), _rows(), _task())


def test_single_tasks_learn_alike() -> None:
    config = {"type": "choice", "inputs": ["query"], "labels": ["gift", "sale", "new"], "several": True}
    task = Task.from_config(TaskConfig.model_validate(config))
    rows = _rows().with_columns(gold=pl.Series(['["gift", "new"]', "[]", None, None]))
    training = part_targets(EncoderConfig(train_on=("human",)), rows, labels=None, votes=None, task=task, seed=0)
    assert _answers(training) == {"a": {"choice": [["gift", 1.0], ["new", 1.0]]}, "b": {"choice": []}}
    assert gold_answers(rows, task)["row_id"].to_list() == ["a", "b"]


def test_none_is_a_category_of_its_own() -> None:
    rows = _rows().with_columns(gold=pl.Series([json.dumps({"category": []}), None, None, None]))
    training = part_targets(EncoderConfig(train_on=("human",)), rows, labels=None, votes=None, task=_task(), seed=0)
    assert _answers(training) == {"a": {"category": [["", 1.0]]}}


def test_texts_to_choose_from_are_those_that_were_given_once_each() -> None:
    table = pl.DataFrame(
        {ANSWERS: [json.dumps({"expansion": texts}) for texts in ([["Seat", 1.0]], [["stool", 1.0], ["seat", 0.5]])]}
    )
    assert expansion_vocabulary(table, "expansion") == ("Seat", "stool")


def test_typos_are_made_of_right_queries_and_leave_brands_alone() -> None:
    task = _task()
    rows = pl.DataFrame(
        {
            "row_id": ["a", "b"],
            "query": ["acme lamp", "red chiar"],
            ANSWERS: [
                json.dumps({"spelling": [["acme lamp", 1.0]], "brand": [[0, 4, 0, 1.0]]}),
                json.dumps({"spelling": [["red chair", 1.0]]}),
            ],
            "target": [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]],
            "weight": [1.0, 1.0],
            "source": ["labels", "labels"],
        }
    )
    found = with_typos(rows, SyntheticSection(typos=20.0), task=task, seed=0)
    made = found.filter(pl.col("source") == SYNTHETIC)
    assert found[:2].equals(rows)
    assert len(made) > 10
    assert made["row_id"].str.starts_with("a~").all()  # the query of b is wrong as it is
    assert made["query"].str.starts_with("acme ").all()
    assert "acme lamp" not in made["query"].to_list()
    assert made[ANSWERS].unique().to_list() == [json.dumps({"spelling": [["acme lamp", 1.0]]})]
    assert made["target"].to_list() == [[1.0, 0.0, 0.0, 0.0]] * len(made)
    assert with_typos(rows, SyntheticSection(typos=20.0), task=task, seed=0).equals(found)


def test_a_task_comes_back_from_its_record() -> None:
    task = _task(several=False, parts=["category", "brand"])
    record = json.loads(json.dumps(record_of(task)))
    found = task_of(record, inputs=task.inputs)
    assert [(one.part, one.labels, one.several, one.types) for one in found.singles] == [
        ("category", tuple(CATEGORIES), False, ()),
        ("brand", (), False, ("brand",)),
    ]
    assert record_of(Task(labels=("a", "b"), inputs=("query",))) is None


def test_a_threshold_lets_through_no_more_right_queries_than_asked() -> None:
    scores = [0.01 * number for number in range(1, 20)]  # 19 of them
    # (19 + 1) * 0.9 = 18: the eighteenth smallest, above which one of the nineteen is.
    assert right_query_threshold(pl.Series(scores).to_numpy(), rate=0.1, usual=0.5) == (0.18, True)
    # 20 * 0.98 rounds up to 20, and there are 19: nothing can be promised.
    assert right_query_threshold(pl.Series(scores).to_numpy(), rate=0.02, usual=0.5) == (0.5, False)
    assert right_query_threshold(pl.Series([0.7]).to_numpy(), rate=0.02, usual=0.5) == (0.7, False)
    assert right_query_threshold(pl.Series([], dtype=pl.Float64).to_numpy(), rate=0.02, usual=0.5) == (0.5, False)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"abstain": {}}, "abstain"),
        ({"loss": "rps"}, "loss"),
        ({"match_people": True}, "match_people"),
        ({"weights": {"colour": 1.0}}, "weights"),
        ({"weights": {"spelling": 0, "brand": 0, "category": 0, "expansion": 0}}, "weights"),
        ({"head": "ordered"}, "head"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
    ],
)
def test_settings_that_say_nothing_to_these_tasks_are_refused(settings: dict[str, Any], key: str) -> None:
    config = EncoderConfig.model_validate(settings)
    assert [found for found, _ in student_problems(config, _task())] == [key]


def test_each_kind_of_student_says_which_tasks_it_is_for() -> None:
    brand = TaskConfig.model_validate({"type": "brand", "inputs": ["query"]})
    assert [key for key, _ in student_problems(DcnConfig(), brand)] == ["type"]
    assert [key for key, _ in student_problems(EncoderConfig(synthetic=SyntheticSection()), brand)] == ["synthetic"]
    text = TaskConfig.model_validate({"type": "text", "inputs": ["query"]})
    assert [key for key, _ in student_problems(EncoderConfig(), text)] == ["type"]
    relevance = TaskConfig.model_validate({"type": "relevance", "inputs": ["query", "title"]})
    assert [key for key, _ in student_problems(EncoderConfig(over_correction=0.1), relevance)] == ["over_correction"]
    assert not list(student_problems(EncoderConfig(weights={"brand": 2.0}), brand))


def test_rows_that_nobody_answered_may_be_taken_for_having_no_brand() -> None:
    task = Task.from_config(TaskConfig.model_validate({"type": "brand", "inputs": ["query"]}))
    votes = votes_frame([Vote("a", "tool", "tool", "labeled", spans=[SpanAnswer(0, 4, "acme", "brand", None)])])
    rows = _rows().with_columns(gold=pl.lit(None, dtype=pl.String))

    def targets(**spans: Any) -> TrainingSet:
        config = EncoderConfig.model_validate({"train_on": ["tool"], "spans": spans})
        return part_targets(config, rows, labels=None, votes=votes, task=task, seed=0)

    assert targets().train["row_id"].to_list() == ["a"]
    found = targets(unanswered=0.25).train
    assert found.select("row_id", "source").rows() == [("a", "tool"), *((name, "unanswered") for name in "bcd")]
    assert [json.loads(cell)["brand"] for cell in found[ANSWERS]] == [[[0, 4, 0, 1.0]], [], [], []]
    # One pulls 1 and three 0.25 each; the mean, 0.4375, is scaled to 1.
    assert [pull for (pull,) in found["target"]] == pytest.approx([1 / 0.4375, *[0.25 / 0.4375] * 3])
