"""Learning from traces, on the tiny shop: the teacher's reason says what agrees, and cites a clause for it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from distill.labeling.errors import StudentError
from distill.labeling.guideline import Guideline
from distill.labeling.task import Task
from distill.students.config import EncoderConfig
from distill.students.encoder import EncoderNetwork
from distill.students.fit import FitResult, fit_student
from distill.students.student import load_student
from distill.students.student_info import StudentInfo
from distill.students.traces.clauses import TracesInfo, choose_threshold, clause_quality, name_clauses
from distill.students.traces.config import TracesConfig
from distill.students.traces.objective import TraceObjective
from distill.students.traces.rows import TraceCounts, clause_columns, clause_labels, clause_vocabulary, fit_traces
from distill.students.traces.texts import NO_TOKEN, embeddings, token_ids, with_traces
from distill.students.training.objective import LabelObjective, objective_for
from distill.students.training_set import TrainingSet, training_set

GUIDELINE = Guideline.parse("- **E1 Both.** a\n- **S1 Colour off.** b\n- **I1 Other.** c\n- **E10 Set.** d\n")
REASONS = {
    "exact": ("the lamp and the colour agree with what was asked for", ["E1"]),
    "substitute": ("the thing agrees and the colour is another one", ["S1"]),
    "irrelevant": ("another thing in another colour was offered here", ["I1"]),
}


@pytest.fixture(scope="module")
def taught(rows: pl.DataFrame, task: Task) -> tuple[TrainingSet, Task]:
    """48 rows to learn from and 16 to stop by, each with a reason and citations; every fourth exact title is a set."""
    told = rows.filter(pl.col("split").is_in(["train", "audit"]))
    votes = pl.DataFrame(
        [
            {
                "row_id": row_id,
                "teacher": "judge",
                "outcome": "labeled",
                "label": gold,
                "probs": None,
                "trace": REASONS[gold][0],
                "clauses": [*REASONS[gold][1], *(["E10"] if " set" in title else [])],
            }
            for row_id, gold, title in told.select("row_id", "gold", "title").iter_rows()
        ],
        schema_overrides={"probs": pl.List(pl.Float64)},
    )
    judged = dataclasses.replace(task, guideline=GUIDELINE)
    found = training_set(rows, train_on="judge", labels=None, votes=votes, task=judged, validation_share=0.25, seed=1)
    return found, judged


def _encoder(base: Path, **settings: Any) -> EncoderConfig:
    defaults: dict[str, Any] = {
        "epochs": 1, "lr": 1e-3, "batch_size": 8, "precision": "fp32", "threads": 1, "validation": 0.25
    }  # fmt: skip
    return EncoderConfig.model_validate({"train_on": ["judge"], "base": str(base)} | defaults | settings)


def _fit(config: EncoderConfig, taught: tuple[TrainingSet, Task], out: Path) -> FitResult:
    return fit_student(config, taught[0], task=taught[1], out=out, seed=1)


def _network(base: Path, task: Task, **widths: int) -> EncoderNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EncoderNetwork.from_base(_encoder(base), labels=task.labels, inputs=task.inputs)
        if widths:
            network.put_on(widths)
    network.model.eval()
    return network


def _table(task: Task, lines: list[dict[str, Any]]) -> pl.DataFrame:
    schema = {"target": pl.List(pl.Float64), "trace": pl.String(), "clauses": pl.List(pl.String())}
    return pl.DataFrame([dict.fromkeys(task.inputs, "") | line for line in lines], schema_overrides=schema)


def test_unfit_traces_go_and_their_rows_stay(task: Task) -> None:
    title = "large red lamp set of two with a shade"
    line: dict[str, Any] = {"target": [0.2, 0.7, 0.1], "title": title, "clauses": ["S1", "Z9"]}
    table = _table(
        task,
        [
            line | {"trace": "The colour is another one, a near miss."},
            line | {"trace": "Everything agrees, so it is exact."},
            line | {"trace": title},
            line | {"trace": None},
            line | {"trace": "Only the thing agrees here, hence.", "clauses": ["Z9"]},
        ],
    )
    judged = dataclasses.replace(task, guideline=GUIDELINE)
    fitted, counts = fit_traces(TrainingSet(table, table.clear()), judged)
    assert fitted.train["trace"].is_null().to_list() == [False, True, True, True, False]
    # Citations given for another label go with its trace; a copied listing says nothing against them; Z9 is no clause.
    assert fitted.train["clauses"].to_list() == [["S1"], None, ["S1"], ["S1"], None]
    assert fitted.train.drop("trace", "clauses").equals(table.drop("trace", "clauses"))
    assert counts == TraceCounts(5, traces=2, citations=3, dropped={"contradicts_label": 1, "repeats_listing": 1})


def test_clauses_are_counted_by_row_and_ordered_as_they_are_numbered(task: Task) -> None:
    cited = [["E10", "E2"], ["E2", "E2", "A1"], ["E10"], None, []]
    table = _table(task, [{"target": [1.0, 0.0, 0.0], "clauses": clauses} for clauses in cited])
    assert clause_vocabulary(table, fewest=2) == ("E2", "E10")
    assert clause_vocabulary(table, fewest=1) == ("A1", "E2", "E10")
    columns = clause_columns(table, ("E2", "E10"))
    assert columns["cited"].tolist() == [[1, 1], [1, 0], [0, 1], [0, 0], [0, 0]]
    assert columns["cited_known"].tolist() == [1, 1, 1, 0, 0]


def test_a_slip_lets_no_clause_stand_behind_a_label(task: Task) -> None:
    exact, other = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    lines = [{"target": exact, "clauses": ["E1"]}] * 9 + [{"target": exact, "clauses": ["S1"]}]
    table = _table(task, [*lines, {"target": other, "clauses": ["S1"]}])
    # One of ten exact rows cites S1: 0.1. No row is irrelevant, so that any clause may stand there.
    found = clause_labels(table, ("E1", "S1"), task.labels, share=0.2)
    assert found == {"exact": ("E1",), "substitute": ("S1",), "irrelevant": ("E1", "S1")}
    assert clause_labels(table, ("E1", "S1"), task.labels, share=0.1)["exact"] == ("E1", "S1")


def test_clauses_are_named_that_fit_the_label_and_one_at_least() -> None:
    info = TracesInfo(
        TraceCounts(0, 0, 0, {}), ("E1", "E2", "S1"), behind={"exact": ("E1", "E2"), "substitute": ("E2", "S1")}
    )
    # Logistic of 2, 1, 0, -1, -2: 0.88, 0.73, 0.5, 0.27, 0.12.
    scores = np.array([[1.0, 2.0, 2.0], [-2.0, -1.0, 2.0], [2.0, -1.0, -2.0]])
    named = name_clauses(scores, ["exact", "exact", "substitute"], info)
    # S1 never stands behind exact, however probable; where nothing reaches a half the most probable one is named.
    assert named.clauses == [["E2", "E1"], ["E2"], ["E2"]]
    assert named.probs[0] == pytest.approx([0.8808, 0.7311], abs=1e-4)


def test_quality_and_threshold_by_hand() -> None:
    cited = np.array([[1, 1, 0], [0, 0, 1]])
    named = np.array([[True, False, True], [False, False, True]])
    probs = np.array([[0.9, 0.4, 0.95], [0.1, 0.2, 0.8]])
    found = clause_quality(probs, cited, named)
    # Two of three named were cited, two of three cited were named; the surest of row 0 is wrong, that of row 1 right.
    assert (found.precision, found.recall, found.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (found.top_1, found.rows, found.truth_source) == (0.5, 2, "teacher")
    # Probabilities .12 and .27 are of clauses cited, .05 is not: any threshold from .06 to .11 names just the right
    # ones, and of these .11 is nearest to a half.
    scores = np.array([[-2.0, -1.0], [-3.0, -2.0]])
    assert choose_threshold(scores, np.array([[1, 1], [0, 1]]), np.ones((2, 2), bool)) == pytest.approx(0.11)


def test_traces_that_would_teach_nothing_are_refused(
    taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match="traces teach nothing"):
        TracesConfig(clauses=0.0)
    training = dataclasses.replace(taught[0], train=taught[0].train.with_columns(clauses=None, trace=None))
    config = _encoder(tiny_base, traces={})
    with pytest.raises(StudentError, match=r"traces: of 36 training rows 0 cite clauses.*draw_to: none"):
        fit_student(config, training, task=taught[1], out=tmp_path / "s", seed=1)


def test_heads_leave_the_scores_as_they_are(rows: pl.DataFrame, task: Task, tiny_base: Path) -> None:
    bare, headed = _network(tiny_base, task), _network(tiny_base, task, clauses=4, trace=7)
    with torch.no_grad():
        batch = bare.collate(bare.read(rows.head(5)))
        plain, output = bare.forward(bare.model, batch), headed.forward(headed.model, batch)
    assert plain.pooled is None
    assert torch.equal(plain.logits, output.logits)
    assert output.pooled is not None
    assert output.pooled.shape == (5, 32)
    assert {name: tuple(scores.shape) for name, scores in output.extra.items()} == {"clauses": (5, 4), "trace": (5, 7)}
    head = headed.model.classifier  # type: ignore[union-attr]
    assert torch.allclose(head.label(output.pooled), output.logits, atol=1e-6)  # type: ignore[union-attr, operator]
    assert all(headed.is_head(name) for name, _ in headed.model.named_parameters() if "further" in name)


def test_a_trace_stands_behind_its_row(task: Task, tiny_base: Path) -> None:
    network = _network(tiny_base, task)
    rows = pl.DataFrame({"query": ["red lamp", "rug"], "title": ["lamp", ""], "brand": ["", ""]})
    batch = network.collate(network.read(rows))
    ids = token_ids(network, ["large [SEP] set", None], most=16)
    pad, separator = network.tokenizer.pad_token_id, network.tokenizer.sep_token_id
    assert isinstance(pad, int)
    # The trace's own [SEP] is spelled out; the one that ends it is real. A row without a trace has no token.
    assert ids[0].tolist().count(separator) == 1
    assert (ids[1] == NO_TOKEN).all()
    told = with_traces(batch, torch.from_numpy(ids), pad=pad, longest=96)
    width = batch["input_ids"].shape[1]
    read = [told["input_ids"][line][told["attention_mask"][line].bool()].tolist() for line in range(4)]
    written = [token for token in ids[0].tolist() if token != NO_TOKEN]
    assert read[2] == read[0] + written
    assert read[3] == read[1]
    assert torch.equal(told["input_ids"][:2, :width], batch["input_ids"])
    assert {tuple(values.shape) for values in told.values()} == {(4, width + len(written))}
    assert bool((told["input_ids"][~told["attention_mask"].bool()] == pad).all())
    # Where the rows leave no room for it the trace is cut.
    assert with_traces(batch, torch.from_numpy(ids), pad=pad, longest=width + 2)["input_ids"].shape == (4, width + 2)


def test_embeddings_do_not_depend_on_the_padding(task: Task, tiny_base: Path) -> None:
    network = _network(tiny_base, task)
    both = embeddings(network, token_ids(network, ["red lamp", "large black kettle set", None], most=16))
    # Less their mean, two vectors are each other's opposite.
    assert np.allclose(both[0], -both[1], atol=1e-6)
    assert not both[2].any()
    one, other = (embeddings(network, token_ids(network, [text, "rug"], most=16))[1] for text in ("red lamp", "rug"))
    assert np.abs(one).max() > 1e-3
    assert np.abs(other).max() < 1e-6


@pytest.mark.parametrize("draw_to", ["trace", "input_with_trace"])
@pytest.mark.parametrize("draw_by", ["agreement", "contrast"])
def test_rows_without_traces_learn_their_label_alone(
    draw_to: str, draw_by: str, taught: tuple[TrainingSet, Task], tiny_base: Path
) -> None:
    config = _encoder(tiny_base, traces={"draw_to": draw_to, "draw_by": draw_by})
    found = {}
    for name, objective in (
        ("traces", objective_for(config, task=taught[1])),
        ("label", LabelObjective(config, task=taught[1])),
    ):
        network = _network(tiny_base, taught[1])
        with torch.random.fork_rng():
            objective.start(network, taught[0])
        silent = (
            taught[0]
            .train.head(6)
            .with_columns(row_id=pl.lit("new"), trace=pl.lit(None, pl.String), clauses=pl.lit(None, pl.List(pl.String)))
        )
        network.model.train()
        columns = {key: torch.from_numpy(value) for key, value in objective.columns(silent).items()}
        batch = network.collate(objective.read(network, silent))
        loss = objective.loss(network, network.model, batch, columns).loss
        loss.backward()
        weight = network.model.get_parameter("bert.encoder.layer.0.output.dense.weight")
        assert all(parameter.grad is not None for parameter in network.model.parameters())
        found[name] = (loss.item(), weight.grad)
    assert found["traces"][0] == pytest.approx(found["label"][0], abs=1e-6)
    assert torch.allclose(found["traces"][1], found["label"][1], atol=1e-7)


def test_the_inner_objective_is_told_the_epoch_and_keeps_its_state(tiny_base: Path, task: Task) -> None:
    class Remembering(LabelObjective):
        def state_dict(self) -> dict[str, Any]:
            return {"epoch": self.epoch}

    config = _encoder(tiny_base)
    inner = Remembering(config, task=task)
    objective = TraceObjective(inner, TracesConfig())
    objective.epoch = 3
    assert (inner.epoch, objective.epoch, objective.state_dict()) == (3, 3, {"epoch": 3})


def test_clauses_are_learned_and_the_folder_is_still_a_classifier(
    rows: pl.DataFrame, taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    config = _encoder(tiny_base, epochs=20, lr=3e-3, head_lr_factor=5.0, traces={"draw_to": "trace"}, wide=None)
    result = _fit(config, taught, tmp_path / "s")
    student = load_student(result.path)
    test = rows.filter(pl.col("split") == "test")
    predicted = student.predict(test)
    assert predicted.columns == ["row_id", "label", "probs", "confidence", "clauses", "clause_probs"]
    own = {"exact": "E1", "substitute": "S1", "irrelevant": "I1"}
    right = [own[gold] in clauses for gold, clauses in zip(test["gold"], predicted["clauses"], strict=True)]
    assert sum(right) >= 0.9 * len(right)
    assert student.info.traces == result.traces == StudentInfo.read(result.path).traces
    assert result.traces is not None
    assert result.traces.counts == TraceCounts(36, traces=36, citations=36, dropped={})
    assert result.traces.clauses == ("E1", "E10", "I1", "S1")
    assert result.traces.told() == "4 clauses from 36 rows, 36 traces fit to learn from"
    # 16 rows are too few to choose a threshold on.
    assert (result.traces.threshold, result.traces.threshold_source, result.traces.quality) == (0.5, "none", None)
    loaded = AutoModelForSequenceClassification.from_pretrained(result.path, output_loading_info=True)
    assert not loaded[1]["unexpected_keys"]
    assert not loaded[1]["missing_keys"]
    network = student.network
    # The head that was compared with the traces is gone: what is counted is what is kept.
    assert result.parameters == sum(parameter.numel() for parameter in network.model.parameters())
    batch = network.collate(network.read(test.head(8)))
    with torch.inference_mode():
        bare = loaded[0].eval()(**batch).logits
    assert np.allclose(bare.numpy(), student.logits(test.head(8), precision="fp32"), atol=1e-5)
    assert sorted(path.name for path in result.path.glob("*.safetensors")) == ["heads.safetensors", "model.safetensors"]


def test_parts_name_the_same_clauses(
    rows: pl.DataFrame, taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    student = load_student(_fit(_encoder(tiny_base, traces={}), taught, tmp_path / "s").path)
    whole = student.predict(rows, precision="fp32")
    assert (
        pl.concat([student.predict(part, precision="fp32") for part in rows.iter_slices(10)])
        .select("row_id", "clauses")
        .equals(whole.select("row_id", "clauses"))
    )
    assert student.predict(rows.clear()).schema == student.predict(rows.head(1)).schema


def test_a_threshold_is_chosen_where_enough_rows_are_held_out(
    taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    more = dataclasses.replace(taught[0], validation=taught[0].train.head(20))
    result = _fit(_encoder(tiny_base, epochs=3, traces={}), (more, taught[1]), tmp_path / "s")
    assert result.traces is not None
    assert result.traces.threshold_source == "validation"
    assert result.traces.quality is not None
    assert result.traces.quality.rows == 20
    assert (
        json.loads((result.path / "distill_student.json").read_text())["traces"]["quality"]["truth_source"] == "teacher"
    )


def test_without_traces_nothing_of_them_is_read(
    rows: pl.DataFrame, taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    bare = dataclasses.replace(taught[0], train=taught[0].train.with_columns(trace=None, clauses=None))
    found = []
    for number, training in enumerate((taught[0], bare)):
        result = _fit(_encoder(tiny_base), (training, taught[1]), tmp_path / str(number))
        found.append((result.path / "model.safetensors").read_bytes())
        assert result.traces is None
        assert not (result.path / "heads.safetensors").exists()
        assert load_student(result.path).predict(rows).columns == ["row_id", "label", "probs", "confidence"]
    assert found[0] == found[1]


def test_a_head_that_is_gone_is_said(taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path) -> None:
    result = _fit(_encoder(tiny_base, traces={}), taught, tmp_path / "s")
    (result.path / "heads.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StudentError, match=r"heads.safetensors: the heads cannot be read"):
        load_student(result.path)
    (result.path / "heads.safetensors").unlink()
    with pytest.raises(StudentError, match=r"heads.safetensors is gone"):
        load_student(result.path)


@pytest.mark.slow
def test_two_processes_learn_the_clauses_of_one(
    taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    traces = {"draw_to": "input_with_trace"}
    results = [
        _fit(
            _encoder(tiny_base, epochs=2, batch_size=5, devices=devices, threads=devices, traces=traces),
            taught,
            tmp_path / str(devices),
        )
        for devices in (1, 2)
    ]
    for file in ("model.safetensors", "heads.safetensors"):
        one, two = (load_file(result.path / file) for result in results)
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    assert results[0].traces == results[1].traces


@pytest.mark.parametrize("draw_to", ["trace", "input_with_trace"])
def test_traces_are_learned_where_no_row_is_held_out(
    draw_to: str, taught: tuple[TrainingSet, Task], tiny_base: Path, tmp_path: Path
) -> None:
    config = _encoder(tiny_base, validation=0.0, traces={"draw_to": draw_to}, wide=None)
    alone = TrainingSet(taught[0].train, taught[0].validation.clear())
    result = fit_student(config, alone, task=taught[1], out=tmp_path / "s", seed=1)
    assert result.traces is not None
    assert result.traces.counts.traces == alone.train.height == 36
