"""How the ledger keeps a reply's body on disk.

A body is mostly the provider's envelope, the same in every reply. Deflate with a preset dictionary (RFC 1950, FDICT)
that holds the envelopes of the common protocols leaves little more than the answer itself: about 60 bytes of a 500-byte
chat completion, in 6 µs. The zlib wrapper's checksum also notices a damaged page.

Each stored body names its codec by number. Numbers and dictionaries are never changed, only added: a dictionary
that changed by one byte could not read what was written before.
"""

from __future__ import annotations

import zlib

PLAIN = 0
"""UTF-8 as it is."""
DEFLATE_1 = 1
"""zlib with ``_DICTIONARY_1``."""

# What occurs most stands last: deflate writes short distances in fewer bits.
_DICTIONARY_1 = (
    b'{"candidates":[{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0,"avgLogprobs":-0.0}],'
    b'"usageMetadata":{"promptTokenCount":,"candidatesTokenCount":,"totalTokenCount":,"thoughtsTokenCount":},'
    b'"modelVersion":"gemini-","responseId":""}'
    b'{"id":"gen-","provider":"","system_fingerprint":"fp_","service_tier":"default",'
    b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,'
    b'"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0},"cost":0.00'
    b'"logprobs":{"content":[{"token":"","logprob":-0.0,"bytes":[],"top_logprobs":[{"token":"'
    b'"reasoning":"","reasoning_content":"","content_filter","length","tool_calls"'
    b"The query asks for the product listing is not the same brand, color, size, model, and it matches every stated "
    b"constraint, so it is a substitute because the shopper would accept irrelevant complement exact"
    b'{"id":"chatcmpl-","object":"chat.completion","created":17,"model":"","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"{\\"trace\\": \\"\\", \\"probs\\": {\\"\\": 0.0}, \\"confidence\\": 0.9, '
    b'\\"clauses\\": [\\"E1\\"], \\"label\\": \\"","refusal":null,"annotations":null,"audio":null,"function_call":null,'
    b'"tool_calls":[],"reasoning":null,"reasoning_content":null},"logprobs":null,"finish_reason":"stop","stop_reason":null,'
    b'"token_ids":null}],"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":,"total_tokens":,'
    b'"completion_tokens":,"prompt_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,'
    b'"kv_transfer_params":null}'
)
# An 8 KB window (2**13) and memory level 5 are a third of the default's cost: a fresh compressor clears its memory.
_WINDOW_BITS = 13
_MEMORY_LEVEL = 5
# Has taken the dictionary in already; each body takes a copy.
_READY = zlib.compressobj(6, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zdict=_DICTIONARY_1)


class UnreadableBodyError(ValueError):
    """The stored bytes are damaged, or were written with a codec that this version does not know."""


def pack(body: str) -> tuple[int, bytes]:
    """Packs a body: the codec's number and the bytes to store."""
    plain = body.encode("utf-8", "surrogatepass")
    deflate = _READY.copy()
    packed = deflate.compress(plain) + deflate.flush()
    return (DEFLATE_1, packed) if len(packed) < len(plain) else (PLAIN, plain)


def unpack(codec: int, stored: bytes) -> str:
    """Gives back the body that :func:`pack` took.

    Raises:
        UnreadableBodyError: The checksum fails, or the codec is not known.
    """
    try:
        if codec == DEFLATE_1:
            inflate = zlib.decompressobj(_WINDOW_BITS, zdict=_DICTIONARY_1)
            plain = inflate.decompress(stored)
            if not inflate.eof:
                raise UnreadableBodyError("the stored body ends too early")
        elif codec == PLAIN:
            plain = bytes(stored)
        else:
            raise UnreadableBodyError(f"codec {codec} is not known to this version")
        return plain.decode("utf-8", "surrogatepass")
    except (zlib.error, UnicodeDecodeError) as error:
        raise UnreadableBodyError(f"the stored body is damaged ({error})") from None
