from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from distill.labeling import errors
from distill.labeling.engine.engine import ask_teachers
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.teachers.config import OpenAITeacherConfig
from distill.teachers.openai import OpenAITeacher
from distill.teachers.servers import Server, Servers

TASK = Task(labels=("exact", "irrelevant"), inputs=("query", "title"), positive="exact")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make(count: int) -> tuple[Servers, Clock]:
    clock = Clock()
    return Servers([Server(f"http://s{n}/v1", f"http://s{n}/v1") for n in range(count)], clock=clock), clock


def rows(queries: int, listings: int) -> pl.DataFrame:
    numbers = range(queries * listings)
    return pl.DataFrame(
        {
            "row_id": [f"r{n}" for n in numbers],
            "query": [f"query {n // listings}" for n in numbers],
            "title": [f"item {n}" for n in numbers],
        }
    )


def teacher(*addresses: str, **changes: object) -> OpenAITeacher:
    section = {"base_url": list(addresses), "model": "tiny", "family": "f", "timeout_s": 5.0, "probe": False, **changes}
    return OpenAITeacher("group", OpenAITeacherConfig(**section))


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_without_a_prefix_the_least_busy_is_taken() -> None:
    servers, _ = make(3)
    for number, busy in enumerate((4, 1, 2)):
        servers.all[number].in_flight = busy
    assert servers.pick() is servers.all[1]


def test_a_prefix_stays_with_its_server_and_servers_share_prefixes_evenly() -> None:
    servers, _ = make(4)
    first = {f"query {n}": servers.pick(f"query {n}") for n in range(4000)}
    assert all(servers.pick(prefix) is server for prefix, server in first.items())
    # 4,000 prefixes fall on 4 servers as on a fair die: 1,000 each, with a deviation of sqrt(4000 x 1/4 x 3/4) = 27.
    assert all(abs(count - 1000) < 5 * 27 for count in Counter(id(server) for server in first.values()).values())


def test_another_server_takes_over_only_its_share_of_prefixes() -> None:
    four, _ = make(4)
    five, _ = make(5)
    prefixes = [f"query {n}" for n in range(2000)]
    moved = [prefix for prefix in prefixes if four.pick(prefix).base_url != five.pick(prefix).base_url]
    assert all(five.pick(prefix).base_url == "http://s4/v1" for prefix in moved)
    assert abs(len(moved) - 400) < 5 * 18  # a fifth of 2,000; sqrt(2000 x 1/5 x 4/5) = 18


def test_a_prefix_that_everybody_asks_for_does_not_drown_its_server() -> None:
    servers, _ = make(4)
    for _ in range(100):
        servers.pick("the one query").in_flight += 1
    # At most 1.25 of the mean, rounded up: ceil(1.25 x 100 / 4) = 32.
    assert max(server.in_flight for server in servers.all) <= 32
    assert sum(server.in_flight for server in servers.all) == 100


def test_a_lost_server_rests_longer_each_time_and_one_request_tries_it() -> None:
    servers, clock = make(2)
    bad, good = servers.all
    bad.in_flight = good.in_flight = 0
    for expected_s in (1.0, 2.0, 4.0):
        servers.lost(bad)
        servers.lost(bad)  # the others of the burst count for nothing
        good.in_flight = 9
        clock.now_s += expected_s - 0.01
        assert servers.pick() is good
        clock.now_s += 0.01
        assert servers.pick() is bad
        bad.in_flight = 1
        assert servers.pick() is good  # the one that tries it is enough
        bad.in_flight = 0
    servers.reached(bad)
    bad.in_flight = 1
    assert servers.pick() is bad


def test_where_all_rest_the_one_that_is_up_first_is_tried() -> None:
    servers, clock = make(2)
    servers.lost(servers.all[1])
    clock.now_s = 0.5
    servers.lost(servers.all[0])
    assert servers.pick("q") is servers.all[1]
    assert servers.pick("q", without=[servers.all[1]]) is servers.all[0]
    assert servers.pick("q", without=servers.all) is None


def test_key_is_the_groups_so_that_another_server_pays_for_nothing_again() -> None:
    def key(*addresses: str, **changes: object) -> bytes:
        one = teacher(*addresses, **changes)
        return one.compile(Prompter(TASK, one.answer)(rows(1, 1).row(0, named=True)), sample=0).key

    alone = key("http://a/v1")
    assert key("http://a/v1", "http://b/v1") == alone
    assert key("http://c/v1", "http://b/v1", endpoint="http://a/v1") == alone
    assert key("http://b/v1", "http://a/v1") != alone
    single = OpenAITeacher("group", OpenAITeacherConfig(base_url="http://a/v1", model="tiny", family="f"))
    assert single.compile(Prompter(TASK, single.answer)(rows(1, 1).row(0, named=True)), sample=0).key == alone


def label(table: pl.DataFrame, one: OpenAITeacher, tmp_path: Path) -> tuple[pl.DataFrame, int]:
    parts: list[pl.DataFrame] = []
    with Ledger(tmp_path / "l.sqlite") as ledger:
        result = ask_teachers(
            [table],
            task=TASK,
            teachers=[one],
            ledger=ledger,
            config=LabelingConfig(concurrency=32, retries=2),
            on_votes=parts.append,
        )
    return pl.concat(parts), result.requests_sent


def queries_of(server: object) -> Counter[str]:
    texts = [message["content"] for request in server.requests for message in request["messages"][1:2]]
    return Counter(text.split("query: ")[1].split("\n")[0] for text in texts)


def test_rows_of_a_query_go_to_one_server(make_fault_server, tmp_path):
    one, two = make_fault_server(), make_fault_server()
    votes, sent = label(rows(40, 5), teacher(one.base_url, two.base_url), tmp_path)
    assert (sent, set(votes["outcome"])) == (200, {"labeled"})
    at_one, at_two = queries_of(one), queries_of(two)
    assert sum(at_one.values()) + sum(at_two.values()) == 200
    assert min(sum(at_one.values()), sum(at_two.values())) >= 40
    # The bound on load sends some elsewhere; by chance every second row of a query would miss the others' server.
    kept = sum(max(at_one[query], at_two[query]) for query in at_one | at_two)
    assert kept >= 0.8 * 200


def test_requests_of_a_dead_server_go_to_the_others(make_fault_server, tmp_path):
    alive = make_fault_server()
    votes, sent = label(rows(20, 2), teacher(closed_port(), alive.base_url), tmp_path)
    assert set(votes["outcome"]) == {"labeled"}
    assert sent == len(alive.requests) == 40  # nothing is waited for, and nothing sent twice
    # Its answers are the group's: another server, and nothing is paid for again.
    again, sent = label(rows(20, 2), teacher(closed_port(), closed_port()), tmp_path)
    assert sent > 0 and "labeled" not in set(again["outcome"])  # another first address is another endpoint


def test_adding_a_server_asks_nothing_again(make_fault_server, tmp_path):
    one, two = make_fault_server(), make_fault_server()
    label(rows(5, 2), teacher(one.base_url), tmp_path)
    _, sent = label(rows(5, 2), teacher(one.base_url, two.base_url), tmp_path)
    assert (sent, len(one.requests), len(two.requests)) == (0, 10, 0)


def test_a_gateway_without_a_server_behind_it_rests(make_fault_server, tmp_path):
    bad, good = make_fault_server(), make_fault_server()
    bad.always("503")
    votes, _ = label(rows(30, 1), teacher(bad.base_url, good.base_url), tmp_path)
    assert set(votes["outcome"]) == {"labeled"}
    assert len(good.requests) == 30
    # Of the burst of 30 it gets at most ceil(1.25 x 30 / 2) = 19; then one request a time tries it.
    assert len(bad.requests) <= 22


def test_all_dead_is_a_connection_that_failed():
    async def main() -> None:
        one = teacher(closed_port(), closed_port())
        await one.open()
        try:
            request = one.compile(Prompter(TASK, one.answer)(rows(1, 1).row(0, named=True)), sample=0)
            with pytest.raises(errors.ConnectionFailedError, match="is the server up"):
                await one.ask(request)
        finally:
            await one.close()

    asyncio.run(main())
