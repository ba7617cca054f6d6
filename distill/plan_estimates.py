"""Estimates of a plan: what the requests to send take, from replies that are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from distill.teachers.model_config import ModelTeacherConfig

if TYPE_CHECKING:
    from distill.labeling.engine.limits import Learned
    from distill.labeling.quota_config import QuotaConfig
    from distill.teachers.config import TeacherConfig

ENOUGH_REPLIES = 20
"""Fewer are not estimated from, unless they were asked for as a probe."""
_ENOUGH_OF_A_PROBE = 3
# Bytes of UTF-8 a token, over the tokenizers in use: English runs at 4 to 4.5, Korean and JSON at 2.5 to 3.5.
_BYTES_PER_TOKEN = (2.5, 4.5)
# Tokens of a short JSON answer, and of one with a trace, without any reply to go by.
_SHORT_ANSWER_TOKENS = (8, 80)
_TRACED_ANSWER_TOKENS = (60, 400)
_Z95 = 1.96


class Interval(NamedTuple):
    """From a low to a high estimate."""

    low: float
    high: float


class Measured(NamedTuple):
    """What one reply took.

    Attributes:
        input_tokens: As the provider counted them.
        output_tokens: Likewise.
        latency_s: Seconds from sending to the whole answer.
        sent_bytes: Of the request; 0 where it is not known.
        rows: That the request asked about.
    """

    input_tokens: float
    output_tokens: float
    latency_s: float
    sent_bytes: int
    rows: int = 1


class Load(NamedTuple):
    """What is to be sent: ``requests``, the ``rows`` that they ask about, and their ``sent_bytes`` in all."""

    requests: int
    rows: int
    sent_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What the requests to send would take.

    Attributes:
        input_tokens: In all.
        output_tokens: In all.
        latency_s: Of one request; None where no reply tells.
        basis: What the estimates rest on.
    """

    input_tokens: Interval
    output_tokens: Interval
    latency_s: Interval | None
    basis: str


COMPUTED_HERE = Estimate(Interval(0.0, 0.0), Interval(0.0, 0.0), None, "computed in this process: no tokens, no cost")
"""Of teachers that send nothing to anyone."""


def estimate(
    load: Load,
    *,
    own: Sequence[Measured],
    earlier: Sequence[Measured],
    traced: bool,
    probed: bool,
) -> Estimate:
    """Estimates tokens and latency, from the best that there is.

    Args:
        load: What is to be sent.
        own: Replies to requests of this very plan.
        earlier: Replies of the same teacher to other requests: of an earlier guideline, or on other rows.
        traced: Whether reasoning is asked for.
        probed: Whether ``own`` holds a random sample that was asked for this plan.
    """
    requests, rows, sent_bytes = load
    weighed = [reply.input_tokens / reply.sent_bytes for reply in own if reply.sent_bytes]
    if len(own) >= (_ENOUGH_OF_A_PROBE if probed else ENOUGH_REPLIES):
        if weighed:
            ratio = mean_interval(weighed, of=requests)
            sent = Interval(sent_bytes * ratio.low, sent_bytes * ratio.high)
        else:
            each = mean_interval([reply.input_tokens / reply.rows for reply in own], of=rows)
            sent = Interval(rows * each.low, rows * each.high)
        known, basis = own, f"from {len(own)} replies to requests of this plan"
    elif len(earlier) >= ENOUGH_REPLIES:
        each = mean_interval([reply.input_tokens / reply.rows for reply in earlier], of=rows)
        sent = Interval(rows * each.low, rows * each.high)
        known, basis = earlier, f"from the last {len(earlier)} replies of this teacher to other requests"
    else:
        tokens = _TRACED_ANSWER_TOKENS if traced else _SHORT_ANSWER_TOKENS
        return Estimate(
            Interval(sent_bytes / _BYTES_PER_TOKEN[1], sent_bytes / _BYTES_PER_TOKEN[0]),
            Interval(rows * tokens[0], rows * tokens[1]),
            None,
            "from the length of the requests; `--probe 50` sends a few and tells more",
        )
    output = mean_interval([reply.output_tokens / reply.rows for reply in known], of=rows)
    # How long a reply of a batch job took is not known, and stands at 0.
    timed = [reply.latency_s for reply in known if reply.latency_s > 0]
    latency = mean_interval(timed, of=requests) if timed else None
    return Estimate(sent, Interval(rows * output.low, rows * output.high), latency, basis)


def mean_interval(values: Sequence[float], *, of: int) -> Interval:
    """95% prediction interval for the mean of ``of`` further values, cut at zero.

    ``mean ± t * s * sqrt(1 / n + 1 / of)`` with Student's t for n - 1 degrees of freedom, by the first terms of its
    expansion around the normal quantile (Abramowitz and Stegun 26.7.5).
    """
    count = len(values)
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(count - 1, 1))
    z, freedom = _Z95, max(count - 1, 1)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    spread = t * deviation * math.sqrt(1 / count + 1 / max(of, 1))
    return Interval(max(0.0, mean - spread), mean + spread)


def cost_usd(config: TeacherConfig, sent: Interval, received: Interval) -> Interval | None:
    """Dollars for tokens, none of them from a provider's cache; None where the price is not known.

    Args:
        config: The teacher's section, with its price; what is asked by batch jobs has theirs.
        sent: Tokens in.
        received: Tokens out.

    Returns:
        Dollars, from the low ends together to the high ends together.
    """
    if not isinstance(config, ModelTeacherConfig):
        return Interval(0.0, 0.0)  # a file, or computed here
    known = config.known_price
    if known is None:
        return None
    price = known.price
    factor = price.batch_factor if getattr(config, "batch", False) else 1.0
    low, high = (
        factor * (tokens_in * price.input_usd_per_mtok + tokens_out * price.output_usd_per_mtok) / 1e6
        for tokens_in, tokens_out in zip(sent, received, strict=True)
    )
    return Interval(low, high)


def in_flight(concurrency: int | str, ceiling: int | None, learned: Learned | None, *, most: int) -> Interval | None:
    """How many requests would be under way at once; None where nothing tells.

    Args:
        concurrency: ``labeling.concurrency``.
        ceiling: The teacher's ``max_concurrency``.
        learned: What earlier runs, or the probe, found that the server bears.
        most: What the search never goes beyond.
    """
    if isinstance(concurrency, int):
        limit = min(concurrency, ceiling or concurrency)
        return Interval(limit, limit)
    if learned is None:
        return None
    limit = min(learned.limit, ceiling or learned.limit)
    return Interval(limit, limit if learned.settled else ceiling or most)


def time_s(requests: int, latency: Interval | None, lanes: Interval | None, *, least_s: float = 0.0) -> Interval | None:
    """Seconds for all requests; None where nothing tells.

    Args:
        requests: How many are to be sent.
        latency: Seconds of one.
        lanes: How many are under way at once.
        least_s: What quotas a minute allow at best.
    """
    if requests == 0:
        return Interval(0.0, 0.0)
    if latency is None or lanes is None:
        return None
    # A handful cannot be spread over more lanes than there are requests.
    low = requests * latency.low / min(lanes.high, requests)
    high = requests * latency.high / min(lanes.low, requests)
    return Interval(max(low, least_s), max(high, least_s))


def quota_s(quotas: Sequence[QuotaConfig | None], *, requests: int, tokens: float, usd: float | None) -> float:
    """Seconds that quotas a minute make of so much at least.

    Args:
        quotas: The teacher's and the run's; None is no quota.
        requests: To be sent.
        tokens: In and out.
        usd: What they cost; None where it is not known, and then no quota of dollars counts.
    """
    minutes = [0.0]
    for quota in quotas:
        if quota is None:
            continue
        uses = (
            (quota.requests_per_minute, requests),
            (quota.tokens_per_minute, tokens),
            (quota.usd_per_minute, usd),
        )
        minutes += [used / limit for limit, used in uses if limit is not None and used is not None]
    return 60 * max(minutes)
