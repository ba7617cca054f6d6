from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.labeling.errors import LedgerDamagedError, LedgerVersionError, LedgerWriteError
from distill.labeling.ledger import codec as ledger_codec
from distill.labeling.ledger.file import connect
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply

SOURCE = Source("http://localhost:8000/v1", "tiny", "careful")


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def completion(number: int) -> str:
    """A chat completion of the size that vLLM writes."""
    message = {"role": "assistant", "content": json.dumps({"label": "exact", "clauses": [f"E{number % 9}"]})}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    usage = {"prompt_tokens": 812 + number % 50, "total_tokens": 824, "completion_tokens": 12}
    identity = f"chatcmpl-{random.Random(number).getrandbits(128):032x}"
    body = {"id": identity, "object": "chat.completion", "created": 1_760_000_000 + number, "model": "my-model"}
    return json.dumps({**body, "choices": [choice], "usage": usage, "prompt_logprobs": None})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not yet" / "there" / "ledger.sqlite"


def test_what_is_put_comes_back(path: Path) -> None:
    replies = {key_of(0): Reply("", 0.0, None), key_of(1): Reply("é한국어\ud800" * 9, 1.25, 0.0)}
    replies[key_of(2)] = Reply("x" * 3_000_000, 2.0, 1e-6)
    with Ledger(path) as ledger:
        for key, reply in replies.items():
            assert ledger.put(key, reply, source=SOURCE).result(10) == reply
        assert ledger.get_many([*replies, key_of(9)]) == replies
    with Ledger(path) as ledger:
        assert ledger.get_many(iter(replies)) == replies
        assert len(ledger) == 3


def test_any_number_of_keys_is_looked_up(path: Path) -> None:
    with Ledger(path) as ledger:
        wait([ledger.put(key_of(n), Reply(str(n)), source=SOURCE) for n in range(0, 3000, 2)])
        found = ledger.get_many(key_of(n) for n in range(3000))
        assert {int.from_bytes(key, "big"): reply.body for key, reply in found.items()} == {
            n: str(n) for n in range(0, 3000, 2)
        }
        assert ledger.get_many([]) == {}


def test_done_means_durable(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.put(key_of(1), Reply("a"), source=SOURCE).result(10)
        other = sqlite3.connect(path)
        assert other.execute("SELECT count(*) FROM replies").fetchone() == (1,)
        # synchronous is a setting of each connection: 2 is FULL, which syncs the log at every commit.
        assert connect(path).execute("PRAGMA synchronous").fetchone() == (2,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.close()


def test_first_writer_wins_and_the_other_is_told(path: Path) -> None:
    with Ledger(path) as one, Ledger(path) as two:
        assert one.put(key_of(1), Reply("first"), source=SOURCE).result(10).body == "first"
        assert two.put(key_of(1), Reply("second"), source=SOURCE).result(10).body == "first"
        # Also when both stand in one commit.
        futures = [two.put(key_of(2), Reply(body), source=SOURCE) for body in ("a", "b", "c")]
        assert [future.result(10).body for future in futures] == ["a", "a", "a"]
        assert one.get_many([key_of(1), key_of(2)])[key_of(2)].body == "a"


def test_many_replies_share_a_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits, commit = [], Ledger._commit

    def counted(self: Ledger, *arguments: Any) -> Any:
        result = commit(self, *arguments)
        commits.append(len(arguments[1]))
        return result

    monkeypatch.setattr(Ledger, "_commit", counted)
    with Ledger(path) as ledger:
        wait([ledger.put(key_of(n), Reply(completion(n)), source=SOURCE) for n in range(2000)])
    assert sum(commits) == 2000
    assert len(commits) < 500  # 4 or more a commit also on a very fast disk


def test_commits_gather_until_somebody_is_in_a_hurry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.labeling.ledger.ledger._GATHER_S", 60.0)

    async def main(ledger: Ledger) -> None:
        waiting = [ledger.put_soon(key_of(n), Reply(str(n)), source=SOURCE) for n in range(50)]
        done, _ = await asyncio.wait(waiting, timeout=0.02)
        assert not done
        ledger.hurry()
        await asyncio.wait_for(asyncio.gather(*waiting), timeout=10)
        waiting = [ledger.put_soon(key_of(99), Reply("x"), source=SOURCE)]
        await asyncio.to_thread(ledger.flush)
        assert (await waiting[0]).body == "x"

    with Ledger(path) as ledger:
        asyncio.run(main(ledger))


def test_closing_writes_what_is_left(path: Path) -> None:
    ledger = Ledger(path)
    futures = [ledger.put(key_of(n), Reply("x"), source=SOURCE) for n in range(500)]
    ledger.close()
    ledger.close()
    assert all(future.done() for future in futures)
    with pytest.raises(LedgerWriteError, match="closed"):
        ledger.put(key_of(1), Reply("x"), source=SOURCE)
    with Ledger(path) as again:
        assert len(again) == 500


def test_loops_are_woken_and_cancelled_waiters_do_no_harm(path: Path) -> None:
    async def main(ledger: Ledger) -> None:
        waiting = [ledger.put_soon(key_of(n), Reply(str(n)), source=SOURCE) for n in range(100)]
        waiting[50].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [r.body for r in results if isinstance(r, Reply)] == [str(n) for n in range(100) if n != 50]
        assert len(await ledger.fetch([key_of(n) for n in range(100)])) == 100  # bought is kept, wanted or not

    with Ledger(path) as ledger:
        asyncio.run(main(ledger))
        asyncio.run(main(ledger))


def test_threads_write_and_read_at_once(path: Path) -> None:
    def work(start: int) -> None:
        for n in range(start, start + 200):
            ledger.put(key_of(n), Reply(str(n)), source=SOURCE)
        ledger.get_many([key_of(start)])

    with Ledger(path) as ledger:
        threads = [threading.Thread(target=work, args=(start,)) for start in (0, 100, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ledger.flush()
        assert len(ledger) == 400


_WRITER = """
import sys
from distill.labeling.ledger.ledger import Ledger, Source
from distill.labeling.teacher import Reply
path, name = sys.argv[1:]
with Ledger(path) as ledger:
    keys = [n.to_bytes(16, "big") for n in range(400)]
    futures = [ledger.put(key, Reply(f"{name}{n}"), source=Source("e", "m", name)) for n, key in enumerate(keys)]
    print(" ".join(future.result(60).body for future in futures))
"""


def test_processes_write_at_once(path: Path) -> None:
    names = ("one", "two", "three")
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    told = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    with Ledger(path) as ledger:
        held = ledger.get_many(map(key_of, range(400)))
    # Whoever was first, all three were told the same, and it is what the file holds.
    assert told[0] == told[1] == told[2] == [held[key_of(n)].body for n in range(400)]


def test_bytes_on_disk_for_a_short_label(path: Path) -> None:
    with Ledger(path) as ledger:
        for n in range(5000):
            key = n.to_bytes(2, "big") * 8
            ledger.put(key, Reply(completion(n), 0.5, 1e-5), source=SOURCE)
    assert path.stat().st_size / 5000 < 250


@given(st.text(st.characters(), max_size=2000))
def test_codec_gives_back_what_it_took(body: str) -> None:
    assert ledger_codec.unpack(*ledger_codec.pack(body)) == body


def test_dictionary_is_never_changed() -> None:
    # Written by the first version. Where this fails, an old ledger cannot be read any more: add a codec instead.
    stored = bytes.fromhex("58a410a9242a434f88e6045222c929aeb636b61600b03a2278")
    assert ledger_codec.unpack(ledger_codec.DEFLATE_1, stored) == (
        '{"id":"chatcmpl-7","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant"}}]}'
    )


def test_damage_inside_a_body_is_noticed() -> None:
    codec, stored = ledger_codec.pack(completion(1))
    noticed = 0
    for at in range(len(stored)):
        damaged = bytearray(stored)
        damaged[at] ^= 0x10
        try:  # a bit of padding may change nothing; no other text may ever come out
            assert ledger_codec.unpack(codec, bytes(damaged)) == completion(1)
        except ledger_codec.UnreadableBodyError:
            noticed += 1
    assert noticed >= len(stored) - 1
    with pytest.raises(ledger_codec.UnreadableBodyError, match="codec 77"):
        ledger_codec.unpack(77, stored)
    with pytest.raises(ledger_codec.UnreadableBodyError):
        ledger_codec.unpack(codec, stored[:-6])


# What cannot be used


def test_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Ledger(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LedgerVersionError, match=r"newer distill \(schema 99.*upgrade distill"):
        Ledger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_refused_with_a_way_out(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(LedgerDamagedError, match=r"ledger\.sqlite: .*distill ledger export"):
        Ledger(path)
    assert path.read_bytes() == content


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    for name, statement in (("a", "CREATE TABLE t (x)"), ("b", "PRAGMA application_id = 5")):
        with sqlite3.connect(tmp_path / name) as other:
            other.execute(statement)
        other.close()
        with pytest.raises(LedgerDamagedError, match=r"not a ledger|another program"):
            Ledger(tmp_path / name)


def test_damaged_page_is_refused_with_a_way_out(path: Path) -> None:
    with Ledger(path) as ledger:
        wait([ledger.put(key_of(n), Reply(f"{n}" * 500), source=SOURCE) for n in range(300)])
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 12] = b"\x5a" * (4096 * 10)
    path.write_bytes(content)
    with Ledger(path) as ledger, pytest.raises(LedgerDamagedError, match="distill ledger export"):
        ledger.get_many(map(key_of, range(300)))


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "ledger.sqlite", tmp_path):
        with pytest.raises(LedgerWriteError, match="DISTILL_LEDGER"):
            Ledger(place)


def test_full_disk_stops_writing_and_keeps_what_was_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr("distill.labeling.ledger.ledger.connect", small)
    kept = []
    with Ledger(path) as ledger:
        with pytest.raises(LedgerWriteError, match=r"could not be made durable .*full.*make room"):
            for n in range(200):
                body = random.Random(n).randbytes(1000).hex()  # about 1,000 bytes on disk
                ledger.put(key_of(n), Reply(body), source=SOURCE).result(10)
                kept.append(n)
        assert 5 < len(kept) < 200
        with pytest.raises(LedgerWriteError):  # nothing slips through afterwards
            ledger.put(key_of(1000), Reply("x"), source=SOURCE)
        with pytest.raises(LedgerWriteError):
            ledger.flush()
    monkeypatch.setattr("distill.labeling.ledger.ledger.connect", connect)
    with Ledger(path) as ledger:
        assert sorted(ledger.get_many(map(key_of, range(200)))) == [key_of(n) for n in kept]
        ledger.put(key_of(500), Reply("there is room again"), source=SOURCE).result(10)


def test_what_nobody_foresaw_is_told_and_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def surprise(*_: Any) -> None:
        raise ValueError("surprise")

    with Ledger(path) as ledger:
        monkeypatch.setattr(ledger, "_commit", surprise)
        with pytest.raises(LedgerWriteError, match="surprise"):
            ledger.put(key_of(1), Reply("a"), source=SOURCE).result(10)
        with pytest.raises(LedgerWriteError, match="surprise"):
            ledger.put(key_of(2), Reply("b"), source=SOURCE)
