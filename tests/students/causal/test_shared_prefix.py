"""What sequences of a batch begin with is read once, and nothing else about them changes."""

import copy

import polars as pl
import pytest
import torch

from distill.students.causal.network import CausalNetwork
from distill.students.causal.shared_prefix import can_share, states_at
from distill.students.config import CausalConfig
from distill.students.training.objective import objective_for
from distill.students.training_set import TrainingSet, training_set

SMALL = {"vocabulary": 400, "hidden": 32, "layers": 2, "heads": 2}


@pytest.fixture(scope="module")
def taught(rows, task):
    known = rows.filter(pl.col("gold").is_not_null()).with_columns(split=pl.lit("train"))
    made = training_set(known, train_on="human", labels=None, votes=None, task=task)
    # Traces of unlike lengths, and a row without one.
    traces = ["the maker is the one that was asked for", None, "another maker made it, and it is larger than asked"]
    told = made.train.head(9).with_columns(trace=pl.Series(traces * 3))
    return TrainingSet(told, made.validation)


def _network(training, task, *, base="tiny", traces="before_label"):
    config = CausalConfig.model_validate(
        {"base": base, "tiny": SMALL, "precision": "fp32", "train_on": "human", "traces": traces}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CausalNetwork.from_base(config, labels=task.labels, inputs=task.inputs, rows=training.train.lazy())


class _Tokens(torch.nn.Module):
    """Counts the tokens that a decoder reads, padding included."""

    def __init__(self, decoder):
        super().__init__()
        self.read = 0
        decoder.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.read += kwargs["input_ids"].numel()


def _cost(network, training, task, *, shares):
    """Loss of a batch, every gradient, and how many tokens were read for it."""
    network.model.shares_beginnings = shares
    network.model.train()
    counter = _Tokens(network.model.whole.get_decoder())
    objective = objective_for(network.config, task=task)
    batch = network.collate(objective.read(network, training.train))
    columns = {name: torch.from_numpy(values) for name, values in objective.columns(training.train).items()}
    loss = objective.loss(network, network.model, batch, columns).loss
    network.model.zero_grad()
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten().clone() for parameter in network.model.parameters()])
    return loss.item(), gradients, counter.read


@pytest.mark.parametrize("traces", ["none", "multitask", "before_label", "after_label"])
def test_losses_and_gradients_are_those_of_sequences_read_whole(traces, taught, task):
    network = _network(taught, task, traces=traces)
    whole, shared = (_cost(copy.deepcopy(network), taught, task, shares=shares) for shares in (False, True))
    assert shared[0] == pytest.approx(whole[0], rel=1e-5)
    assert whole[1].norm() > 0.1
    assert (shared[1] - whole[1]).norm() <= 1e-4 * whole[1].norm()
    # A third of these short prompts is the instruction; of a second prompt all but the last line is shared.
    assert shared[2] < 0.8 * whole[2]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma2"])
def test_every_architecture_gives_its_own_states(kind, taught, task, tmp_path):
    """GPT-2 has learned positions, Qwen 3 normalised keys; Gemma 2 slides a window, and is read whole."""
    from transformers import AutoConfig, AutoModelForCausalLM

    network = _network(taught, task)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"intermediate_size": 32, "head_dim": 16}
    own = {"gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}, "qwen3": sizes, "gemma2": sizes}
    tokens = {"vocab_size": len(network.tokenizer), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **tokens, **own[kind])).eval()
    decoder = model.get_decoder()
    assert can_share(decoder) == (kind != "gemma2")
    if not can_share(decoder):
        return
    objective = objective_for(network.config, task=task)
    batch = network.collate(objective.read(network, taught.train))
    length = batch["input_ids"].shape[1]
    at = torch.arange(len(batch["row"])) * length + batch["answer_at"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    whole = decoder(**inputs).last_hidden_state.flatten(0, 1)[at]
    torch.testing.assert_close(states_at(decoder, **inputs, at=at, row=batch["row"]), whole, atol=1e-5, rtol=1e-5)
    assert whole.std() > 1e-3


def test_what_is_not_alike_or_is_checkpointed_is_read_whole(taught, task):
    network = _network(taught, task)
    decoder = network.model.whole.get_decoder()
    ids = torch.randint(5, 300, (3, 40), generator=torch.Generator().manual_seed(0))
    last = torch.arange(3) * 40 + 39
    assert states_at(decoder, ids, torch.ones_like(ids), last, row=torch.arange(3)) is None
    assert can_share(decoder.train())
    network.model.whole.gradient_checkpointing_enable()
    assert not can_share(decoder.train())
    assert can_share(decoder.eval())


def test_sharded_layers_are_read_whole(taught, task):
    assert _network(taught, task).model.shares_beginnings
    config = CausalConfig.model_validate({"base": "tiny", "tiny": SMALL, "trainer": {"fsdp": True}})
    rows = taught.train.lazy()
    sharded = CausalNetwork.from_base(config, labels=task.labels, inputs=task.inputs, rows=rows)
    assert not sharded.model.shares_beginnings
