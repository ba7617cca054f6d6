"""Computes the last layer of an encoder for its first token only, which is all that a classifier's head reads.

Scores and gradients are the same: no other token of the last layer is used. What is saved is the last layer's
feed-forward part, output projection and queries for every token but one, ten twelfths of a layer: a seventh of the work
of six layers, a fourteenth of that of twelve.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_KNOWN = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})
"""Model types whose layers and attention are built alike and whose classifier reads the first token alone."""


def read_first_token_only(model: nn.Module) -> bool:
    """Makes the last layer give the state of the first token alone, ``[B, 1, D]``, whenever the classifier is called.

    Parameters, their names and what is saved stay as they are. Whoever calls ``model.base_model`` gets every token's
    state, as before. A head put on the classifier must read the first token only.

    Args:
        model: A sequence classifier of transformers.

    Returns:
        Whether it is of a known type; another is left alone.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in _KNOWN or config.is_decoder or config.add_cross_attention:
        return False
    layer = _last_layer(model)
    layer.first_token_only = False
    layer.forward = MethodType(_forward_of_layer, layer)

    def switch(model: Any, on: bool) -> None:
        _last_layer(model).first_token_only = on

    # Hooks, since a forward of our own would hide the classifier's parameters from the Trainer and from exporters.
    # They ask the model that is called for its layer: it may be a deep copy, which takes the hooks along.
    model.register_forward_pre_hook(lambda model, *_: switch(model, True))
    model.register_forward_hook(lambda model, *_: switch(model, False), always_call=True)
    return True


def _last_layer(model: Any) -> Any:
    return model.base_model.encoder.layer[-1]


def _forward_of_layer(
    layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *more: Any, **options: Any
) -> Tensor:
    """The layer's forward pass, as transformers' ``BertLayer``, with one query a row."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.bert.modeling_bert import eager_attention_forward

    attention = layer.attention.self
    # Gradient checkpointing calls the layer again in the backward pass, when the classifier is not running.
    whole = not layer.first_token_only or (layer.gradient_checkpointing and layer.training)
    if whole or attention.config._attn_implementation not in ("eager", "sdpa"):
        return type(layer).forward(layer, hidden_states, attention_mask, *more, **options)
    first = hidden_states[:, :1]
    # Sizes are taken from shapes, not by len(): an exporter that traces the model would fix the size of a batch.
    of_one, of_all = ((*states.shape[:-1], -1, attention.attention_head_size) for states in (first, hidden_states))
    query = attention.query(first).view(of_one).transpose(1, 2)
    key = attention.key(hidden_states).view(of_all).transpose(1, 2)
    value = attention.value(hidden_states).view(of_all).transpose(1, 2)
    if attention_mask is not None:
        attention_mask = attention_mask[..., :1, :]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    for name in ("past_key_values", "encoder_hidden_states", "encoder_attention_mask"):
        options.pop(name, None)
    context, _ = attend(
        attention,
        query,
        key,
        value,
        attention_mask,
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
        **options,
    )
    output = layer.attention.output(context.reshape(*first.shape[:2], -1).contiguous(), first)
    return layer.feed_forward_chunk(output)
