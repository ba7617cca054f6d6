"""Makes the model of a query encoder: a pretrained trunk, and a head for each part of the task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from distill.labeling.errors import StudentError
from distill.students.encoder import not_an_encoder
from distill.students.queries.asked_task import head_kind
from distill.students.queries.readings import FIRST_WEIGHTS
from distill.students.queries.span_words import WordReader

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distill.students.queries.encoder import QueryNetwork
    from distill.students.queries.span_vocabulary import SpanVocabulary
    from distill.students.queries.vocabulary import Vocabulary

_NAMES_TOGETHER = 256


def model_with_heads(trunk: nn.Module, network: QueryNetwork, *, dropout: float, named: bool) -> nn.Module:
    """A :class:`~distill.students.queries.heads.QueryModel`, with heads drawn from torch's global generator.

    Args:
        trunk: What :func:`load_trunk` gave.
        network: Knows the parts, what their heads say, and the tokenizer.
        dropout: Of the heads' inputs.
        named: Whether a head that chooses among options begins from what the trunk makes of their words; otherwise from
            nothing, for weights that are loaded next.
    """
    from distill.students.queries.heads import QueryModel

    width = int(cast(Any, trunk.config).hidden_size)
    heads: dict[str, nn.Module] = {}
    for name, single in network.parts.items():
        kind = head_kind(single)
        if kind == "edits":
            heads[name] = _spelling_head(network.vocabulary, width, dropout)
        elif kind == "spans":
            heads[name] = _span_head(network.vocabulary.spans, width, len(single.types), dropout)
        else:
            heads[name] = _option_head(trunk, network, name, width=width, dropout=dropout, named=named)
    return QueryModel(trunk, heads)


def _spelling_head(vocabulary: Vocabulary, width: int, dropout: float) -> nn.Module:
    from distill.students.queries.heads import LetterTagger, ReadingChooser

    if vocabulary.readings is not None:
        return ReadingChooser(width, FIRST_WEIGHTS, dropout=dropout)
    alphabet = vocabulary.alphabet
    assert alphabet is not None
    sizes = {"letters": alphabet.size, "replace": len(alphabet.replace), "append": len(alphabet.append)}
    return LetterTagger(width, **sizes, dropout=dropout)


def _span_head(spans: SpanVocabulary, width: int, types: int, dropout: float) -> nn.Module:
    from distill.students.queries.heads import Marks
    from distill.students.queries.span_head import WordMarks

    if spans.letters is None:
        return Marks(width, types, dropout=dropout)
    letters = WordReader(spans.letters).size
    return WordMarks(width, types, letters=letters, names=spans.listed, dropout=dropout)


def _option_head(
    trunk: nn.Module, network: QueryNetwork, part: str, *, width: int, dropout: float, named: bool
) -> nn.Module:
    import torch

    from distill.students.queries.heads import NamedOptions

    single = network.parts[part]
    if head_kind(single) == "paths":
        names = network.options(part).names
    else:
        texts = (*network.vocabulary.texts.get(part, ()), "")  # the last one: none of them
        plain = single.labels if head_kind(single) == "labels" else texts
        names = tuple((text,) for text in plain)
    states = _name_states(trunk, network.tokenizer, names) if named else torch.zeros(len(names), width)
    return NamedOptions(states, dropout=dropout)


def _name_states(trunk: nn.Module, tokenizer: Any, names: Sequence[Sequence[str]]) -> Tensor:
    """``[options, D]``: the mean of what a trunk makes of each option's names, which are as many for all."""
    import torch

    from distill.students.queries.heads import TRUNK_INPUTS, mean_state

    texts = [text for own in names for text in own]
    training, found = trunk.training, []
    trunk.eval()
    with torch.no_grad():
        for start in range(0, len(texts), _NAMES_TOGETHER):
            batch = tokenizer(
                texts[start : start + _NAMES_TOGETHER],
                padding=True,
                truncation=True,
                max_length=64,
                split_special_tokens=True,
                return_tensors="pt",
            )
            states = trunk(**{name: batch[name] for name in TRUNK_INPUTS if name in batch}).last_hidden_state
            found.append(mean_state(states, batch["attention_mask"]))
    trunk.train(training)
    return torch.cat(found).unflatten(0, (len(names), -1)).mean(dim=1)


def load_trunk(source: str, *, name: str, config: Any = None) -> nn.Module:
    """Loads a pretrained encoder without a head, in float32.

    Args:
        source: Its folder, or its name on the Hugging Face Hub.
        name: What errors call it.
        config: Its configuration where it was changed; its own by default.

    Raises:
        StudentError: It cannot be loaded, or is no encoder.
    """
    import torch
    from transformers import AutoModel

    attention = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
    settings = {} if config is None else {"config": config}
    try:
        found: nn.Module = AutoModel.from_pretrained(source, **settings, dtype=torch.float32, **attention)
    except (OSError, ValueError, RuntimeError) as error:
        raise StudentError(not_an_encoder(name, error)) from error
    return found


def dropout_of(config: Any) -> float:
    """The share that the base drops, which ``dropout`` of the section has set already where it is given."""
    found = [value for name, value in config.to_dict().items() if "hidden" in name and name.endswith("dropout_prob")]
    return float(found[0]) if found else float(getattr(config, "dropout", 0.1) or 0.0)
