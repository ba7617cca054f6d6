"""The slow mode: traces written in batches are those of a plain loop, and labels are scored after them."""

import pytest
import torch

from distill.students.causal import reasoning as causal_reasoning
from distill.students.causal.network import CausalNetwork
from distill.students.causal.reasoning import reason, write
from distill.students.config import CausalConfig

SMALL = {"vocabulary": 400, "hidden": 32, "layers": 2, "heads": 2}
LABELS = ("exact", "substitute", "irrelevant")
INPUTS = ("query", "title", "brand")


@pytest.fixture
def make(rows):
    def made(**settings):
        config = CausalConfig.model_validate({"base": "tiny", "tiny": SMALL, "trace_tokens": 12, **settings})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())
        # New weights say little, and a tied head says the last token again: neither would show a fault.
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            for parameter in network.model.parameters():
                parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
            head = network.model.whole.get_output_embeddings()
            head.weight = torch.nn.Parameter(torch.randn_like(head.weight))
        network.model.eval()
        return network

    return made


def _greedy(network, ids, count):
    """The likeliest next token, over and over, the whole text read anew each time."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(network.model.whole(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


@torch.inference_mode()
def test_batches_padded_on_the_left_write_what_each_row_alone_would(make, rows):
    network = make(traces="multitask")
    few = rows[[0, 3, 9]]
    prompts = network.prompt.read(few, asked="trace")
    assert len({len(prompt) for prompt in prompts}) > 1
    written = write(network, prompts, batch_size=3)
    assert written == [_greedy(network, prompt, 12) for prompt in prompts]
    assert len({tuple(words) for words in written}) > 1


@torch.inference_mode()
def test_a_label_is_scored_after_the_trace_even_of_one_that_never_ends(make, rows):
    network = make(traces="before_label")
    found = reason(network, rows.head(3), batch_size=2)
    for number, prompt in enumerate(network.prompt.read(rows.head(3), asked="trace_then_label")):
        words = _greedy(network, prompt, 12)
        ids = [*prompt, *words, *network.prompt.answer_mark_ids]
        logits = network.model.whole(input_ids=torch.tensor([ids])).logits[0, -1, network.prompt.code_ids]
        torch.testing.assert_close(torch.from_numpy(found.logits[number]), logits, atol=1e-3, rtol=1e-3)
        assert found.traces[number] == network.tokenizer.decode(words, skip_special_tokens=True).strip()
    fast = network.forward(network.model, network.collate(network.read(rows.head(3)))).logits
    assert (torch.from_numpy(found.logits) - fast).abs().max() > 1e-2


@torch.inference_mode()
def test_a_trace_ends_at_the_mark_or_the_end_token(make, rows):
    network = make(traces="before_label")
    (prompt,) = network.prompt.read(rows.head(1), asked="trace_then_label")
    words = _greedy(network, prompt, 12)
    stop = next(words[place : place + 2] for place in range(3, 10) if words[:place].count(words[place]) == 0)
    place = words.index(stop[0])
    assert write(network, [prompt], batch_size=1, stop=stop) == [words[:place]]
    until = causal_reasoning._until
    assert until([5, 6, 7, 2, 9], end=2, stop=[7, 8]) == [5, 6, 7]
    assert until([5, 6, 7, 8, 2], end=2, stop=[7, 8]) == [5, 6]
    # A mark behind the end token is no mark of this answer.
    assert until([5, 2, 7, 8], end=2, stop=[7, 8]) == [5]
    assert until([7, 8], end=2, stop=[7, 8]) == []


@torch.inference_mode()
def test_a_trace_after_the_label_goes_with_the_label_given(make, rows):
    network = make(traces="after_label")
    found = reason(network, rows.head(2), batch_size=2)
    (example, _) = network.read(rows.head(2))
    code = network.prompt.code_ids[int(found.logits[0].argmax())]
    expected = _greedy(network, [*example["input_ids"], code], 12)
    assert found.traces[0] == network.tokenizer.decode(expected, skip_special_tokens=True).strip()
    fast = network.forward(network.model, network.collate(network.read(rows.head(2)))).logits
    torch.testing.assert_close(torch.from_numpy(found.logits), fast, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_trace_goes_with_the_label_of_scores_that_were_mixed(make, rows):
    network = make(traces="after_label")
    mixed = reason(network, rows.head(2), batch_size=2, mixed=lambda logits: -logits)
    plain = reason(network, rows.head(2), batch_size=2)
    (example, _) = network.read(rows.head(2))
    code = network.prompt.code_ids[int(plain.logits[0].argmin())]
    expected = _greedy(network, [*example["input_ids"], code], 12)
    assert mixed.traces[0] == network.tokenizer.decode(expected, skip_special_tokens=True).strip()
    torch.testing.assert_close(torch.from_numpy(mixed.logits), torch.from_numpy(-plain.logits))
