from pathlib import Path

import numpy as np
import polars as pl
import pytest

from distill.labeling.task import Task
from distill.students.abstention import Abstention, fit_abstention
from distill.students.calibration import softmax
from distill.students.config import AbstainConfig, DcnConfig
from distill.students.fit import fit_student
from distill.students.student import load_student
from distill.students.training_set import training_set


def _world(rng: np.random.Generator, groups: int, *, size: int, apart: float) -> tuple[np.ndarray, ...]:
    """Scores, gold and groups. A row is wrong by its stated distribution, harder or easier as its whole group is.

    ``apart`` is the spread over groups of the temperature that the truth has, so that errors of a group go together.
    """
    logits = rng.normal(size=(groups * size, 3)) * 2.5
    group = np.repeat(np.arange(groups), size)
    temperature = np.exp(rng.normal(size=groups) * apart)[group]
    probs = softmax(logits / temperature[:, None])
    gold = (rng.random((len(probs), 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return logits, gold, group


@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_the_risk_is_kept_to_as_often_as_promised(apart: float) -> None:
    # The true risk at a threshold is read from 50,000 rows of the same world. Of 200 draws a share of at most 10% may
    # miss it; 10% + 3 standard deviations of 200 draws is 16.4%.
    rng = np.random.default_rng(0)
    whole, whole_gold, _ = _world(rng, 5000, size=10, apart=apart)
    sureness = softmax(whole).max(axis=1)
    order = np.argsort(-sureness)
    risk = (whole.argmax(axis=1) != whole_gold)[order].cumsum() / np.arange(1, len(order) + 1)
    missed, answered = 0, []
    for _ in range(200):
        logits, gold, group = _world(rng, 60, size=10, apart=apart)
        found = fit_abstention(logits, gold, group=group, risk=0.1, confidence=0.9, source="audit gold")
        kept = 0 if found.threshold is None else int((sureness >= found.threshold).sum())
        answered.append(kept / len(whole))
        missed += bool(kept and risk[kept - 1] > 0.1)
    assert missed <= 0.164 * 200
    # It is not kept by answering nothing: at the best threshold about half of these rows could be answered.
    assert np.median(answered) > 0.2


def test_what_is_stated_is_what_was_seen() -> None:
    # 30 groups of 10. Sure rows (.99) are right, unsure ones (.5) wrong every other time.
    sure = np.tile([[4.6, 0.0], [0.1, 0.0]], (150, 1))
    gold = np.zeros(300, dtype=int)
    gold[1::4] = 1
    found = fit_abstention(
        sure, gold, group=np.repeat(np.arange(30), 10), risk=0.05, confidence=0.9, source="audit gold"
    )
    assert found.threshold == pytest.approx(softmax(sure[:1])[0, 0])
    assert (found.rows, found.groups, found.answered, found.wrong) == (300, 30, 0.5, 0.0)
    assert found.wrong_at_most is not None
    assert 0.0 < found.wrong_at_most <= 0.05
    assert found.abstains(sure).tolist() == [False, True] * 150


def test_where_nothing_is_shown_nothing_is_answered() -> None:
    rng = np.random.default_rng(0)
    logits, group = rng.normal(size=(100, 3)), np.repeat(np.arange(10), 10)
    found = fit_abstention(
        logits, rng.integers(0, 3, 100), group=group, risk=0.01, confidence=0.95, source="audit gold"
    )
    assert (found.threshold, found.answered, found.wrong) == (None, 0.0, None)
    assert found.abstains(logits).all()
    assert Abstention(0.05, 0.9).abstains(logits).all()


@pytest.fixture(scope="module")
def asked() -> DcnConfig:
    return DcnConfig(
        train_on=("human",),
        epochs=15,
        lr=1e-2,
        batch_size=8,
        buckets=512,
        embedding_dim=4,
        hidden=(16,),
        abstain=AbstainConfig(risk=0.2, confidence=0.8),
    )


def test_a_student_marks_what_it_does_not_answer(
    rows: pl.DataFrame, task: Task, tmp_path: Path, asked: DcnConfig
) -> None:
    # The four audit groups and the four test groups, twice over under other names: sixteen held-out groups.
    held_out = rows.filter(pl.col("split").is_in(["audit", "test"]))
    gold = pl.concat([held_out, held_out.with_columns(pl.col("group") + "again")])
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task)
    fitted = fit_student(asked, training, task=task, out=tmp_path / "s", seed=1, calibration=gold)
    student = load_student(fitted.path)
    found = student.predict(rows)
    assert found.schema["abstained"] == pl.Boolean
    assert found["label"].null_count() == 0
    assert fitted.abstention is not None
    assert student.info.abstention == fitted.abstention
    assert (fitted.abstention.source, fitted.abstention.rows, fitted.abstention.groups) == ("audit gold", 64, 16)
    assert fitted.abstention.threshold is not None
    logits = student.logits(rows)
    highest = softmax(logits).max(axis=1)
    assert found["abstained"].to_list() == (highest < fitted.abstention.threshold).tolist()
    assert fitted.calibration.method in {"none", "temperature"}
    assert (fitted.path / "README.md").read_text().count("## Abstention") == 1


def test_without_gold_it_abstains_on_all(rows: pl.DataFrame, task: Task, tmp_path: Path, asked: DcnConfig) -> None:
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task)
    fitted = fit_student(asked.model_copy(update={"epochs": 1}), training, task=task, out=tmp_path / "s", seed=1)
    assert fitted.abstention == Abstention(0.2, 0.8)
    assert load_student(fitted.path).predict(rows)["abstained"].all()
