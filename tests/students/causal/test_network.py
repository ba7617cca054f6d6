"""The network: what it scores, and that its folders are those of Hugging Face."""

import json

import polars as pl
import pytest
import torch

from distill.labeling.errors import MissingDependencyError, StudentError
from distill.students.causal.network import CausalNetwork
from distill.students.config import CausalConfig

SMALL = {"vocabulary": 400, "hidden": 32, "layers": 2, "heads": 2}
LABELS = ("exact", "substitute", "irrelevant")
INPUTS = ("query", "title", "brand")


def _network(rows, **settings):
    config = CausalConfig.model_validate({"base": "tiny", "tiny": SMALL, "precision": "fp32", **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())
    # At the usual width of initial weights all scores are near zero, and a test of equality would see little.
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    network.model.eval()
    return network


@pytest.fixture(scope="module")
def network(rows):
    return _network(rows)


@torch.inference_mode()
def _scores(network, rows):
    return network.forward(network.model, network.collate(network.read(rows))).logits


def test_one_pass_scores_every_label_as_each_alone(network, rows):
    """P(label | prompt) from the fast mode, and from the log-probability of prompt + label for each label by itself."""
    few = rows.head(3)
    with torch.inference_mode():
        fast = _scores(network, few).log_softmax(-1)
        for number, example in enumerate(network.read(few)):
            alone = []
            for code in network.prompt.code_ids:
                ids = torch.tensor([[*example["input_ids"], code]])
                steps = network.model.whole(input_ids=ids).logits[0, :-1].log_softmax(-1)
                alone.append(steps.gather(1, ids[0, 1:, None]).sum())
            expected = torch.stack(alone).log_softmax(-1)
            torch.testing.assert_close(fast[number], expected, atol=1e-4, rtol=0)
    assert fast.std(dim=0).min() > 1e-3


def test_what_shares_a_batch_changes_nothing(network, rows):
    eight = _scores(network, rows.head(8))
    torch.testing.assert_close(eight, torch.cat([_scores(network, rows[:4]), _scores(network, rows[4:8])]))
    torch.testing.assert_close(eight[2:3], _scores(network, rows[2:3]))


def test_hidden_states_and_output_embedding_give_the_scores(network, rows):
    batch = network.collate(network.read(rows.head(4)))
    with torch.inference_mode():
        hidden = network.hidden(network.model, batch)
        output = network.forward(network.model, batch)
    at_label = hidden[torch.arange(4), batch["label_at"]]
    torch.testing.assert_close(at_label, output.pooled)
    torch.testing.assert_close((at_label @ network.output_embedding.T)[:, network.prompt.code_ids], output.logits)


def test_a_saved_student_is_a_folder_of_hugging_face(network, rows, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network.save(tmp_path)
    asked = json.loads((tmp_path / "distill_prompt.json").read_text())
    assert asked["codes"] == {"A": "exact", "B": "substitute", "C": "irrelevant"}
    # By what is in the folder alone: the prompt's file, the chat template and the weights.
    row = rows.row(0, named=True)
    listing = f"title: {row['title']} brand: {row['brand']}"
    content = asked["prompt"].replace("{query}", row["query"]).replace("{listing}", listing)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    with torch.inference_mode():
        logits = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, -1]
    codes = tokenizer.convert_tokens_to_ids(list(asked["codes"]))
    torch.testing.assert_close(logits[codes], _scores(network, rows.head(1))[0], atol=1e-4, rtol=0)


def test_a_base_is_a_folder_too_and_a_wrong_one_is_told(network, rows, tmp_path):
    network.save(tmp_path / "base")
    config = CausalConfig(base=str(tmp_path / "base"))
    again = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())
    again.model.eval()
    torch.testing.assert_close(_scores(again, rows.head(2)), _scores(network, rows.head(2)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudentError, match="cannot be loaded as a causal language model"):
        CausalNetwork.from_base(
            CausalConfig(base=str(tmp_path / "empty")), labels=LABELS, inputs=INPUTS, rows=rows.lazy()
        )


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "cohere"])
def test_scores_are_the_models_own_whatever_it_does_to_its_logits(kind, network, rows, tmp_path):
    """GPT-2 has learned positions, Gemma caps its logits, Cohere scales them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = len(network.tokenizer)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    own = {
        "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 512},
        "gemma2": {**sizes, "intermediate_size": 32, "head_dim": 16, "final_logit_softcapping": 0.5},
        "cohere": {**sizes, "intermediate_size": 32, "logit_scale": 0.25},
    }[kind]
    tokens = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **tokens, **own))
    model.save_pretrained(tmp_path)
    network.tokenizer.save_pretrained(tmp_path)
    config = CausalConfig(base=str(tmp_path), max_length=400)
    loaded = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())
    loaded.model.eval()
    model.eval()
    (example,) = loaded.read(rows.head(1))
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([example["input_ids"]])).logits[0, -1, loaded.prompt.code_ids]
    torch.testing.assert_close(_scores(loaded, rows.head(1))[0], expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def base(network, tmp_path):
    network.save(tmp_path / "base")
    return str(tmp_path / "base")


def _with_adapters(rows, base, **lora):
    pytest.importorskip("peft")
    config = CausalConfig.model_validate({"base": base, "lora": {"r": 2, **lora}})
    adapted = CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            # New adapters add nothing: their second matrix is zero.
            parameter.add_(0.05) if parameter.requires_grad else None
    adapted.model.eval()
    return config, adapted


@pytest.mark.parametrize("merge", [True, False])
def test_adapters_are_saved_merged_or_alone(merge, network, rows, base, tmp_path):
    config, adapted = _with_adapters(rows, base, merge=merge)
    trained = [name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    # The best epoch and checkpoints hold what is trained, not the base again and again.
    assert sorted(adapted.model.state_dict()) == sorted(trained)
    expected = _scores(adapted, rows.head(3))
    assert (expected - _scores(network, rows.head(3))).abs().max() > 1e-2
    adapted.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert ("adapter_config.json" in names) is not merge
    again = CausalNetwork.from_folder(tmp_path / "saved", config, labels=LABELS, inputs=INPUTS)
    again.model.eval()
    torch.testing.assert_close(_scores(again, rows.head(3)), expected, atol=1e-4, rtol=1e-4)


def test_adapters_for_modules_that_the_base_lacks_are_told(rows, base):
    with pytest.raises(StudentError, match=r"lora\.targets"):
        _with_adapters(rows, base, targets=["query_key_value"])


def test_what_is_not_installed_is_told_with_the_line_that_installs_it(rows, base, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for settings, line in (
        ({"lora": {"r": 2}}, r"pip install 'distill\[peft\]'"),
        ({"lora": {"r": 2}, "quantization": "4bit"}, r"pip install 'distill\[qlora\]'"),
    ):
        config = CausalConfig.model_validate({"base": base, **settings})
        with pytest.raises(MissingDependencyError, match=line):
            CausalNetwork.from_base(config, labels=LABELS, inputs=INPUTS, rows=rows.lazy())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantization": "4bit"}, "add lora"),
        ({"base": "tiny", "lora": {}}, "leave lora out"),
        ({"base": "tiny", "tiny": {"hidden": 30, "heads": 4}}, "whole even number"),
        ({"traces": "first"}, "before_label"),
    ],
)
def test_sections_that_cannot_be_meant_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        CausalConfig.model_validate(settings)


def test_rows_without_any_are_read(network):
    assert network.read(pl.DataFrame(schema={"query": pl.String, "title": pl.String, "brand": pl.String})) == []
