from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest

from distill.labeling.errors import DataError
from distill.labeling.ledger.admin import export_ledger, import_ledger, ledger_stats, prune_ledger
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply

CAREFUL = Source("http://localhost:8000/v1", "tiny", "careful")
QUICK = Source("http://localhost:8000/v1", "tiny", "quick")


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def test_stats_add_up(ledger: Ledger) -> None:
    assert ledger_stats(ledger).bytes_per_reply is None
    for n in range(10):
        cost_usd = None if n == 9 else 0.5
        ledger.put(
            key_of(n), Reply("x", 0.1, cost_usd), source=CAREFUL if n < 6 else QUICK, created_s=1_700_000_000 + n
        )
    ledger.flush()
    stats = ledger_stats(ledger)
    assert (stats.replies, stats.cost_usd) == (10, 4.5)
    assert stats.size_bytes == sum(Path(f"{ledger.path}{end}").stat().st_size for end in ("", "-wal"))
    careful, quick = stats.sources
    assert (careful.source, careful.replies, careful.cost_usd, careful.unpriced) == (CAREFUL, 6, 3.0, 0)
    assert (quick.source, quick.replies, quick.cost_usd, quick.unpriced) == (QUICK, 4, 1.5, 1)
    assert careful.oldest.isoformat() == "2023-11-14T22:13:20+00:00"  # 1,700,000,000 s after 1970
    assert (quick.newest - careful.oldest).seconds == 9


def test_export_and_import_keep_everything(ledger: Ledger, tmp_path: Path) -> None:
    replies = {key_of(n): Reply(f"é{n}\ud800\n", n / 8, n if n % 2 else None) for n in range(2500)}
    for key, reply in replies.items():
        ledger.put(key, reply, source=QUICK, created_s=1_700_000_000)
    ledger.flush()
    file = tmp_path / "out" / "ledger.jsonl"
    assert export_ledger(ledger, file) == (2500, 0)
    assert json.loads(file.read_text().splitlines()[1])["created_at"] == "2023-11-14T22:13:20+00:00"
    with Ledger(tmp_path / "other.sqlite") as other:
        other.put(key_of(7), Reply("mine"), source=CAREFUL)
        assert import_ledger(other, file) == (2499, 1)
        assert import_ledger(other, file) == (0, 2500)
        assert other.get_many(replies) == {**replies, key_of(7): Reply("mine")}
        assert {s.source: s.replies for s in ledger_stats(other).sources} == {QUICK: 2499, CAREFUL: 1}


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"key": "00", "body": "", "latency_s": 0, "cost_usd": null}', '{"key": "zz"}']
)
def test_bad_line_is_named_and_lines_before_it_are_kept(ledger: Ledger, tmp_path: Path, line: str) -> None:
    ledger.put(key_of(1), Reply("x"), source=QUICK).result(10)
    file = tmp_path / "ledger.jsonl"
    export_ledger(ledger, file)
    file.write_text(file.read_text() + "\n" + line + "\n")
    with Ledger(tmp_path / "other.sqlite") as other:
        with pytest.raises(DataError, match=r"ledger\.jsonl:3: not a line"):
            import_ledger(other, file)
        other.flush()
        assert len(other) == 1
    with pytest.raises(DataError, match="cannot be read"):
        import_ledger(ledger, tmp_path / "missing.jsonl")


def test_prune_takes_old_ones_of_one_teacher_and_shrinks_the_file(ledger: Ledger) -> None:
    day_s, now_s = 86_400, int(time.time())
    for n in range(3000):
        age_days = 40 if n % 3 else 2
        source = CAREFUL if n < 1500 else QUICK
        ledger.put(key_of(n), Reply(f"{n}" * 90), source=source, created_s=now_s - age_days * day_s)
    ledger.flush()
    counts = prune_ledger(ledger, older_than_days=30, teacher="quick")
    assert (counts.removed, counts.kept) == (1000, 2000)  # two of three of the 1,500 are old
    counts = prune_ledger(ledger, older_than_days=30)
    assert (counts.removed, counts.kept) == (1000, 1000)
    assert set(ledger.get_many(map(key_of, range(3000)))) == {key_of(n) for n in range(0, 3000, 3)}
    assert prune_ledger(ledger, older_than_days=0).kept == 0
    assert ledger_stats(ledger).sources == []
    assert ledger.path.stat().st_size < 50_000
    ledger.put(key_of(1), Reply("again"), source=CAREFUL).result(10)  # the writer still knows its lane
    assert ledger_stats(ledger).sources[0].source == CAREFUL


def test_damaged_ledger_gives_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        wait([ledger.put(key_of(n), Reply(f"{n}" * 500), source=CAREFUL) for n in range(2000)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 4096 // 2 * 4096
    content[middle : middle + 8192] = b"\x5a" * 8192
    path.write_bytes(content)
    with Ledger(path) as ledger:
        counts = export_ledger(ledger, tmp_path / "saved.jsonl")
    assert counts.written > 1500
    assert 0 < counts.unreadable < 500
    assert counts.written + counts.unreadable == 2000
    with Ledger(tmp_path / "new.sqlite") as ledger:
        assert import_ledger(ledger, tmp_path / "saved.jsonl").added == counts.written
        for key, reply in ledger.get_many(map(key_of, range(2000))).items():
            assert reply.body == f"{int.from_bytes(key, 'big')}" * 500
