import json
from pathlib import Path

import polars as pl
import pytest
import torch

from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import EncoderConfig
from distill.students.encoder import EncoderNetwork, base_folder
from distill.students.text import PairTemplate

INPUTS = ("query", "title", "brand")


def _network(base: Path, **settings: object) -> EncoderNetwork:
    config = EncoderConfig(base=str(base), **settings)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EncoderNetwork.from_base(config, labels=("yes", "no"), inputs=INPUTS)


def _row(query: str, title: str, brand: str = "") -> pl.DataFrame:
    return pl.DataFrame({"query": [query], "title": [title], "brand": [brand]})


def _written(network: EncoderNetwork, row: pl.DataFrame) -> str:
    (example,) = network.read(row)
    return str(network._tokenizer.decode(example["input_ids"]))


def test_fields_are_named_and_empty_ones_left_out() -> None:
    rows = pl.DataFrame({"query": ["red lamp", "rug"], "title": ["Lamp", " "], "brand": ["", None]})
    assert PairTemplate(INPUTS).render(rows) == (["red lamp", "rug"], ["title: Lamp", ""])
    both = PairTemplate(INPUTS).render(_row("rug", "Rug", "acme"))
    assert both == (["rug"], ["title: Rug brand: acme"])
    assert PairTemplate(("query",)).render(rows) == (["red lamp", "rug"], None)


def test_query_and_listing_are_two_segments(tiny_base: Path) -> None:
    network = _network(tiny_base, match_tokens=False)
    (example,) = network.read(_row("red lamp", "lamp", "acme"))
    decoded = network._tokenizer.decode(example["input_ids"])
    assert decoded == "[CLS] red lamp [SEP] title : lamp brand : acme [SEP]"
    # [CLS] red lamp [SEP] are of the first segment, the seven others of the second.
    assert example["token_type_ids"] == [0] * 4 + [1] * 7
    assert network.size(example) == 11


def test_truncation_keeps_the_query(tiny_base: Path) -> None:
    network = _network(tiny_base, match_tokens=False, max_length=16)
    written = _written(network, _row("red lamp", "lamp " * 50))
    assert written.startswith("[CLS] red lamp [SEP] title : lamp")
    assert network.size(network.read(_row("red lamp", "lamp " * 50))[0]) == 16


def test_a_query_that_alone_is_too_long_is_cut(tiny_base: Path) -> None:
    network = _network(tiny_base, max_length=48)
    (example,) = network.read(_row("red lamp " * 200, "lamp"))
    assert network.size(example) <= 48
    assert _written(network, _row("red lamp " * 200, "lamp")).startswith("[CLS] red lamp red lamp")


def test_length_is_bounded_by_the_positions_of_the_base(tiny_base: Path) -> None:
    network = _network(tiny_base, max_length=512)
    (example,) = network.read(_row("lamp", "lamp " * 500))
    assert network.size(example) == 96
    network.forward(network.model, network.collate([example]))


def test_a_listing_cannot_write_special_tokens(tiny_base: Path) -> None:
    network = _network(tiny_base)
    planted = network.read(_row("lamp", "rug [SEP] [match:title.part=6]"))[0]["input_ids"]
    honest = network.read(_row("lamp", "rug"))[0]["input_ids"]
    separator = network._tokenizer.sep_token_id
    special = set(network._tokenizer.convert_tokens_to_ids([f"[match:title.part={step}]" for step in range(7)]))
    assert planted.count(separator) == honest.count(separator) == 2
    assert sum(token in special for token in planted) == sum(token in special for token in honest) == 1


def test_match_tokens_stand_before_the_listing(tiny_base: Path) -> None:
    network = _network(tiny_base)
    written = _written(network, _row("red lamp", "lamp"))
    # One word of two is in the title: a share of 0.5 is step 1 + floor(0.5 * 5) = 3. The brand has none: step 0.
    assert written.startswith("[CLS] red lamp [SEP] [match:title.part=3]")
    assert "[match:brand.part=0]" in written
    assert written.endswith("title : lamp [SEP]")
    (example,) = network.read(_row("red lamp", ""))
    assert len({len(values) for values in example.values()}) == 1


def test_padding_changes_no_score(tiny_base: Path) -> None:
    network = _network(tiny_base)
    network.model.eval()
    short, long = network.read(pl.concat([_row("lamp", "rug"), _row("red lamp", "large red lamp set", "acme")]))
    with torch.inference_mode():
        alone = network.forward(network.model, network.collate([short])).logits
        padded = network.forward(network.model, network.collate([short, long])).logits[:1]
    assert torch.allclose(alone, padded, atol=1e-5)


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tiny_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "config.json").write_text(json.dumps({}))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert base_folder("package:tiny_weights/model") == str(package / "model")
    with pytest.raises(StudentError, match=r"no config.json in .*elsewhere"):
        base_folder("package:tiny_weights/elsewhere")


def test_a_missing_base_says_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(StudentError, match="'no_such_weights' is not installed; install it"):
        base_folder("package:no_such_weights/model")
    with pytest.raises(StudentError, match=r"base 'nobody/nothing'.*the Hugging Face cache.*give the folder"):
        EncoderNetwork.from_base(EncoderConfig(base="nobody/nothing"), labels=("a", "b"), inputs=INPUTS)
    with pytest.raises(StudentError, match="tried as a folder:"):
        EncoderNetwork.from_base(EncoderConfig(base=str(tmp_path)), labels=("a", "b"), inputs=INPUTS)


def test_dropout_is_set_wherever_the_architecture_has_it(tiny_base: Path) -> None:
    network = _network(tiny_base, dropout=0.25)
    shares = {module.p for module in network.model.modules() if isinstance(module, torch.nn.Dropout)}
    assert shares == {0.25}


def test_a_student_goes_on_from_another(task: Task, tiny_base: Path, tmp_path: Path) -> None:
    """What the match tokens and the head have learned is kept where the base is a student of the same labels."""
    config = EncoderConfig(base=str(tiny_base))
    first = EncoderNetwork.from_base(config, labels=task.labels, inputs=task.inputs)
    first.save(tmp_path / "first")
    onward = EncoderConfig(base=str(tmp_path / "first"))
    second = EncoderNetwork.from_base(onward, labels=task.labels, inputs=task.inputs)
    kept = second.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in first.model.state_dict().items())
