"""Counters and histograms of a server, as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How often a value fell below each bound.

    Args:
        bounds: Upper ends of the buckets, rising.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: Counter[Labels] = Counter()

    def observe(self, value: float, **labels: str) -> None:
        """Counts a value."""
        key = tuple(labels.items())
        counts = self._counts.setdefault(key, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[key] += value  # type: ignore[assignment]

    def lines(self, name: str) -> Iterator[str]:
        """Its lines, cumulative as Prometheus wants them."""
        for key, counts in self._counts.items():
            so_far = 0
            for bound, count in zip((*map(str, self._bounds), "+Inf"), counts, strict=True):
                so_far += count
                yield f"{name}_bucket{_braced((*key, ('le', bound)))} {so_far}"
            yield f"{name}_sum{_braced(key)} {self._sums[key]:.6f}"
            yield f"{name}_count{_braced(key)} {so_far}"


class Metrics:
    """What a server counts. Nothing in it comes from a row's text.

    Attributes:
        request_seconds: From the request's arrival to its answer, by path.
        batch_rows: Rows that were scored at once, by model.
        batch_seconds: How long that took, by model.
    """

    def __init__(self) -> None:
        self.request_seconds = Histogram(SECONDS)
        self.batch_rows = Histogram(ROWS)
        self.batch_seconds = Histogram(SECONDS)
        self._requests: Counter[Labels] = Counter()
        self._rows: Counter[Labels] = Counter()
        self._queues: dict[str, Callable[[], int]] = {}

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests[("path", path), ("status", str(status))] += 1
        self.request_seconds.observe(seconds, path=path)

    def predicted(self, model: str, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._rows[("model", model),] += rows
        self.batch_rows.observe(rows, model=model)
        self.batch_seconds.observe(seconds, model=model)

    def watch_queue(self, model: str, waiting: Callable[[], int]) -> None:
        """Has the rows that wait for a model looked up whenever somebody asks."""
        self._queues[model] = waiting

    def text(self) -> str:
        """All of it."""
        queues: Counter[Labels] = Counter()
        for model, waiting in self._queues.items():
            queues[("model", model),] = waiting()
        lines = [
            *_counted("distill_requests_total", "counter", "Requests by path and status.", self._requests),
            *_counted("distill_rows_total", "counter", "Rows predicted.", self._rows),
            *_counted("distill_queue_rows", "gauge", "Rows that wait to be predicted.", queues),
            *_told("distill_request_seconds", "Seconds from a request to its answer.", self.request_seconds),
            *_told("distill_batch_rows", "Rows predicted at once.", self.batch_rows),
            *_told("distill_batch_seconds", "Seconds that a batch took.", self.batch_seconds),
        ]
        return "\n".join(lines) + "\n"


def _counted(name: str, kind: str, about: str, counts: Counter[Labels]) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
    for key, count in counts.items():
        yield f"{name}{_braced(key)} {count}"


def _told(name: str, about: str, histogram: Histogram) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} histogram"
    yield from histogram.lines(name)


def _braced(labels: Labels) -> str:
    escaped = [
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels
    ]
    return "{" + ",".join(escaped) + "}" if escaped else ""
