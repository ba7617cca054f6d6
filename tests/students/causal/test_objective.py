"""The loss against a plain reference, and which traces are learned."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from distill.labeling.task import Task
from distill.students.causal.network import CausalNetwork
from distill.students.causal.objective import CausalObjective, unfit_to_learn
from distill.students.causal.prompt import ANSWER_MARK
from distill.students.config import CausalConfig
from distill.students.training.objective import objective_for

SMALL = {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2}
LABELS = ("exact", "substitute", "irrelevant")
INPUTS = ("query", "title", "brand")
TRACES = ("Both words of the query are found in the title.", None, "The colour is another one, the thing is not.", None)


@pytest.fixture
def table(rows):
    """Four rows: a soft and three sharper targets, two traces, weights of mean 1."""
    targets = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.0, 0.3, 0.7]]
    return rows.head(4).with_columns(
        pl.Series("target", targets), pl.Series("weight", [1.0, 0.5, 1.5, 1.0]), pl.Series("trace", TRACES)
    )


def _made(table, **settings):
    config = CausalConfig.model_validate({"base": "tiny", "tiny": SMALL, "precision": "fp32", **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=table.lazy())
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return config, network, objective_for(config, task=Task(labels=LABELS, inputs=INPUTS))


def _step(objective, network, examples, table):
    columns = {name: torch.from_numpy(values) for name, values in objective.columns(table).items()}
    return objective.loss(network, network.model, network.collate(examples), columns)


def _log_probs(network, ids):
    """``[L, V]`` by the model's own forward pass: what each position says of the next token."""
    return network.model.whole(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def _label_cost(network, log_probs, target):
    """Soft cross-entropy over the codes, and the mass that is on no code; together that over the vocabulary."""
    codes = network.prompt.code_ids
    return -sum(share * log_probs[code] for share, code in zip(target, codes, strict=True))


def _words_cost(log_probs, ids, places):
    return -sum(log_probs[place - 1, ids[place]] for place in places) / len(places)


@pytest.mark.parametrize("use", ["none", "multitask", "before_label", "after_label"])
def test_the_loss_is_that_of_a_plain_loop_over_rows_and_tokens(use, table):
    _, network, objective = _made(table, traces=use, trace_weight=0.5)
    found = _step(objective, network, objective.read(network, table), table)
    prompt, end = network.prompt, network.tokenizer.eos_token_id
    expected = torch.tensor(0.0)
    for number, row in enumerate(table.iter_rows(named=True)):
        one, target, weight = table[number : number + 1], row["target"], row["weight"]
        code = prompt.code_ids[int(np.argmax(target))]
        words = [] if row["trace"] is None or use == "none" else prompt.tokens(row["trace"])
        (start,) = prompt.read(one, asked="label_then_trace" if use == "after_label" else "label")
        ids = [*start, code, *(words if use == "after_label" else []), end]
        log_probs = _log_probs(network, ids)
        cost = _label_cost(network, log_probs[len(start) - 1], target)
        cost = cost + 0.5 * _words_cost(log_probs, ids, range(len(start) + 1, len(ids)))
        if words and use == "multitask":
            (start,) = prompt.read(one, asked="trace")
            ids = [*start, *words, end]
            cost = cost + 0.5 * _words_cost(_log_probs(network, ids), ids, range(len(start), len(ids)))
        if words and use == "before_label":
            (start,) = prompt.read(one, asked="trace_then_label")
            before = [*start, *words, *prompt.tokens(ANSWER_MARK)]
            ids = [*before, code, end]
            log_probs = _log_probs(network, ids)
            places = [*range(len(start), len(before)), len(ids) - 1]
            cost = cost + _label_cost(network, log_probs[len(before) - 1], target)
            cost = cost + 0.5 * _words_cost(log_probs, ids, places)
        expected = expected + weight * cost / table.height
    torch.testing.assert_close(found.loss, expected, atol=1e-4, rtol=1e-5)
    fast = network.forward(network.model, network.collate(network.read(table))).logits
    torch.testing.assert_close(found.logits, fast, atol=1e-4, rtol=1e-5)


def test_hard_ce_takes_the_top_label_of_both_sequences(table):
    sharp = table.with_columns(target=pl.Series([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    _, network, hard = _made(table, traces="before_label", loss="hard_ce")
    _, _, soft = _made(table, traces="before_label")
    found = _step(hard, network, hard.read(network, table), table)
    expected = _step(soft, network, soft.read(network, sharp), sharp)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("use", ["multitask", "before_label", "after_label"])
def test_parts_of_a_batch_have_its_mean(use, table):
    """What two processes would each compute: rows with and without a trace do not divide evenly."""
    _, network, objective = _made(table, traces=use)
    examples = list(objective.read(network, table))
    whole = _step(objective, network, examples, table).loss
    parts = [
        _step(objective, network, [examples[number] for number in part], table[part]).loss for part in ([0, 2], [1, 3])
    ]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_where_nothing_is_trained_the_label_alone_is_costed(table):
    _, network, objective = _made(table, traces="before_label")
    network.model.eval()
    with torch.inference_mode():
        found = _step(objective, network, objective.read(network, table), table)
        scores = network.forward(network.model, network.collate(network.read(table))).logits.log_softmax(-1)
    target, weight = torch.tensor(table["target"].to_list()), torch.tensor(table["weight"].to_list())
    torch.testing.assert_close(found.loss, -(weight * (target * scores).sum(-1)).sum() / 4, check_dtype=False)


def test_traces_that_should_not_be_learned_are_dropped_and_counted(table):
    traces = [
        "The words agree, so it is irrelevant.",  # the row's label is exact
        "blue lamp with a white linen shade",  # the row's title, word for word
        "The colour is another one, the thing is not.",
        None,
    ]
    bad = table.with_columns(title=pl.Series(["red lamp", *traces[1:2], "lamp", "rug"]), trace=pl.Series(traces))
    _, network, objective = _made(table, traces="multitask")
    examples = objective.read(network, bad)
    assert [bool(example["reasoned_ids"]) for example in examples] == [False, False, True, False]
    counted = {"traces_contradicts_label": 1, "traces_repeats_listing": 1, "traces_learned": 1, "traces_absent": 1}
    objective.columns(bad)
    assert objective.facts == counted


def test_what_makes_a_trace_unfit():
    task = Task(labels=LABELS, inputs=INPUTS)
    values = {"query": "red lamp", "title": "Large red table lamp with a white shade", "brand": ""}
    for trace, problem in (
        (None, "absent"),
        (" ", "empty"),
        ("Fits.", "too_short"),
        ("It has every word, so it is irrelevant.", "contradicts_label"),
        ("Large red table lamp with a white shade", "repeats_listing"),
        ("Exact: colour and thing are those of the query.", None),
        ("Colour and thing are those of the query.", None),
    ):
        assert unfit_to_learn(trace, label="exact", task=task, values=values) == problem, trace


def test_a_long_trace_is_cut_and_a_table_without_traces_is_read(table):
    _, network, objective = _made(table, traces="before_label", trace_tokens=8)
    long = table.with_columns(trace=pl.lit("colour and thing are those of the query, and " * 20))
    (example, *_) = objective.read(network, long)
    mark = network.prompt.answer_mark_ids
    # The prompt, eight tokens of the trace, the mark, the code and the end token.
    assert len(example["reasoned_ids"]) == example["reasoned_answer_at"][0] + 1 + 8 + len(mark) + 2
    assert not objective.read(network, table.drop("trace"))[0]["reasoned_ids"]


def test_state_is_that_of_the_labels_objective(table):
    class Counts:
        epoch = 0
        rows_together = 1
        columns_need_texts = False

        def state_dict(self):
            return {"seen": 3}

    config, _, _ = _made(table)
    assert CausalObjective(config, Counts(), task=Task(labels=LABELS, inputs=INPUTS)).state_dict() == {"seen": 3}
    assert math.isclose(config.trace_weight, 1.0)
