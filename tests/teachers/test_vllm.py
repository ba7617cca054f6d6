"""Servers that are started for a run: with a stand-in for vLLM, whose processes are as real as vLLM's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from distill.labeling.engine.engine import LabelingRun
from distill.labeling.errors import LocalServerError, MissingDependencyError, UsageError
from distill.labeling.labeling_config import LabelingConfig
from distill.labeling.ledger.ledger import Ledger
from distill.labeling.prompts.prompt import Prompter
from distill.labeling.task import Task
from distill.labeling.teacher import Teacher
from distill.labeling.vote import votes_frame
from distill.teachers.config import VLLMTeacherConfig
from distill.teachers.registry import build_teacher, build_teachers
from distill.teachers.vllm import VLLMTeacher

ROOT = Path(__file__).parents[2]
TASK = Task(
    labels=("exact", "substitute", "complement", "irrelevant"), inputs=("title",), positive="exact", ordered=True
)


def label(teachers, folder, rows=40, **settings):
    table = pl.DataFrame({"row_id": [f"r{n}" for n in range(rows)], "title": [f"item {n}" for n in range(rows)]})
    votes = [votes_frame([])]
    with Ledger(folder / "ledger.sqlite") as ledger:
        config = LabelingConfig(**settings)
        run = LabelingRun(task=TASK, teachers=teachers, ledger=ledger, config=config)
        result = run.run([table], on_votes=votes.append)
    return pl.concat(votes).sort("teacher", "row_id"), result


def teacher_of(section, name="local") -> VLLMTeacher:
    return VLLMTeacher(name, VLLMTeacherConfig(**section))


def test_a_run_starts_a_server_and_stops_it_with_what_it_started(fake_vllm, tmp_path):
    teacher = teacher_of(fake_vllm.section())
    assert isinstance(teacher, Teacher)
    votes, result = label([teacher], tmp_path)
    assert votes["outcome"].to_list() == ["labeled"] * 40
    assert result.teachers["local"].requests_sent == 40
    assert len(fake_vllm.starts()) == 1
    assert fake_vllm.none_is_left()
    # The same question is not asked again, though the port is another one.
    votes, result = label([teacher_of(fake_vllm.section())], tmp_path)
    assert votes["outcome"].to_list() == ["labeled"] * 40
    assert result.teachers["local"].requests_sent == 0


def test_a_server_that_dies_is_started_again_and_every_row_is_labeled(fake_vllm, tmp_path):
    # The first answers 10 requests and is killed by the 11th, the second too, the third lives: with one request at a
    # time two of them break off, and each is sent again.
    section = fake_vllm.section(env={"FAKE_VLLM_DIES": "10", "FAKE_VLLM_LIVES": "2"})
    votes, result = label([teacher_of(section)], tmp_path, concurrency=1)
    assert votes["outcome"].to_list() == ["labeled"] * 40
    assert len(fake_vllm.starts()) == 3
    assert result.teachers["local"].retries == {"connection": 2}
    assert fake_vllm.none_is_left()
    said = [line for line in fake_vllm.log.read_text().splitlines() if "distill:" in line]
    assert len([line for line in said if "ended with signal SIGKILL; starting it again" in line]) == 2


def test_a_server_whose_engine_is_dead_is_started_again(fake_vllm, tmp_path):
    section = fake_vllm.section(env={"FAKE_VLLM_SICK": "10", "FAKE_VLLM_LIVES": "1"})
    votes, _ = label([teacher_of(section)], tmp_path, concurrency=1, retries=50)
    assert votes["outcome"].to_list() == ["labeled"] * 40
    assert len(fake_vllm.starts()) == 2
    assert "says that its engine is dead; starting it again" in fake_vllm.log.read_text()


def test_a_server_that_keeps_dying_is_given_up_and_the_others_go_on(fake_vllm, tmp_path):
    dying = fake_vllm.section(env={"FAKE_VLLM_DIES": "1"}, restarts=2)
    teachers = [teacher_of(dying, "dying"), teacher_of(fake_vllm.section(), "well")]
    votes, result = label(teachers, tmp_path, concurrency=1)
    counted = {(who, end): count for who, end, count in votes.group_by("teacher", "outcome").len().iter_rows()}
    assert counted[("well", "labeled")] == 40
    # Started three times, it answers one request each time.
    assert counted[("dying", "labeled")] == 3
    assert "keeps dying" in result.teachers["dying"].stopped
    assert result.teachers["dying"].stop_cause == "local_server"
    unsent = votes.filter((pl.col("teacher") == "dying") & (pl.col("outcome") == "unsent"))
    assert unsent["reason"].str.contains("\n").sum() == 0  # the log is told of once, not with every row
    assert fake_vllm.none_is_left()


def test_what_keeps_it_from_starting_is_told_with_the_end_of_its_log(fake_vllm, tmp_path):
    section = fake_vllm.section(env={"FAKE_VLLM_FAIL": "ValueError: no such architecture"})
    teachers = [teacher_of(section, "broken"), teacher_of(fake_vllm.section(), "well")]
    votes, result = label(teachers, tmp_path)
    stopped = result.teachers["broken"].stopped
    assert "ended with exit status 1 before it was up" in stopped
    assert "ValueError: no such architecture" in stopped
    assert str(fake_vllm.log) in stopped
    assert set(votes.select("teacher", "outcome").iter_rows()) == {("broken", "unsent"), ("well", "labeled")}


def test_one_that_never_listens_is_stopped(fake_vllm):
    teacher = teacher_of(fake_vllm.section(env={"FAKE_VLLM_HANGS": "1"}, start_timeout_s=1))
    with pytest.raises(LocalServerError, match="not up after 1 s; raise start_timeout_s"):
        asyncio.run(teacher.open())
    assert fake_vllm.none_is_left()


def test_cancelling_the_start_leaves_nothing(fake_vllm):
    teacher = teacher_of(fake_vllm.section(env={"FAKE_VLLM_HANGS": "1"}))

    async def main():
        opening = asyncio.create_task(teacher.open())
        while not fake_vllm.starts():
            await asyncio.sleep(0.01)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())
    assert fake_vllm.none_is_left()


PROGRAM = """
import asyncio, json, sys
from distill.teachers.config import VLLMTeacherConfig
from distill.teachers.vllm import VLLMTeacher

async def main():
    teacher = VLLMTeacher("local", VLLMTeacherConfig(**json.loads(sys.argv[1])))
    await teacher.open()
    print("up", flush=True)
    try:
        await asyncio.sleep(600)
    finally:
        await teacher.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_server_outlives_the_process_that_started_it(fake_vllm, number):
    command = [sys.executable, "-c", PROGRAM, json.dumps(fake_vllm.section())]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert program.stdout is not None
    assert program.stdout.readline() == b"up\n"
    assert len(fake_vllm.processes()) == 2
    program.send_signal(number)
    program.wait(60)
    program.stdout.close()
    assert fake_vllm.none_is_left()


def test_killing_the_guard_kills_the_server(fake_vllm):
    async def main():
        teacher = teacher_of(fake_vllm.section())
        await teacher.open()
        (server,) = teacher.fleet.servers
        guard = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])
        first = server.pid
        os.kill(guard, signal.SIGKILL)
        while len(fake_vllm.starts()) < 2 or not server.up:
            await asyncio.sleep(0.01)
        assert server.pid != first
        await teacher.close()
        return first

    first = asyncio.run(main())
    deadline = time.monotonic() + 10
    while (alive := Path(f"/proc/{first}").exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive


def test_teachers_that_want_the_same_servers_share_them(fake_vllm, tmp_path):
    lora = {"shop": "org/shop", "news": "org/news"}
    section = fake_vllm.section(lora=lora)
    configs = {
        "plain": VLLMTeacherConfig(**section),
        "shop": VLLMTeacherConfig(**section, adapter="shop", traces=True),
        "news": VLLMTeacherConfig(**section, adapter="news", temperature=0.5),
        "other": VLLMTeacherConfig(**{**section, "model": "org/other"}),
    }
    teachers = build_teachers(configs)
    assert teachers[0].fleet is teachers[1].fleet is teachers[2].fleet is not teachers[3].fleet
    votes, _ = label(teachers, tmp_path)
    assert votes["outcome"].to_list() == ["labeled"] * 160
    assert len(fake_vllm.starts()) == 2
    traces = dict(votes.group_by("teacher").agg(pl.col("trace").first()).iter_rows())
    assert traces["shop"] == "shop says so."  # the adapter answered
    argv = next(start["argv"] for start in fake_vllm.starts() if "org/tiny" in start["argv"])
    assert argv[argv.index("--lora-modules") + 1 :][:2] == ["shop=org/shop", "news=org/news"]
    assert fake_vllm.none_is_left()


def test_one_server_for_each_group_of_gpus(fake_vllm, tmp_path):
    section = fake_vllm.section(env={"CUDA_VISIBLE_DEVICES": "0,1,2,3,4"}, tensor_parallel=2)
    votes, _ = label([teacher_of(section)], tmp_path)
    assert votes["outcome"].to_list() == ["labeled"] * 40
    assert sorted(start["devices"] for start in fake_vllm.starts()) == ["0,1", "2,3"]
    assert {path.name for path in fake_vllm.log.parent.iterdir()} == {"vllm-0.log", "vllm-1.log"}
    with pytest.raises(UsageError, match="3 servers of 2 GPUs each, got 5 GPUs"):
        asyncio.run(teacher_of({**section, "servers": 3}).open())


def test_two_servers_at_a_time_have_two_ports_and_keep_them(fake_vllm):
    async def main():
        teacher = teacher_of(fake_vllm.section(servers=2))
        await teacher.open()
        one, other = teacher.fleet.servers
        assert one.base_url != other.base_url
        before = one.base_url
        os.kill(one.pid, signal.SIGKILL)
        while len(fake_vllm.starts()) < 3 or not one.up:
            await asyncio.sleep(0.01)
        assert one.base_url == before
        ports = [start["argv"][start["argv"].index("--port") + 1] for start in fake_vllm.starts()]
        assert len(set(ports)) == 2
        await teacher.close()

    asyncio.run(main())
    assert fake_vllm.none_is_left()


def test_an_interpreter_without_vllm(fake_vllm):
    section = fake_vllm.section()
    section["env"] = {}
    with pytest.raises(MissingDependencyError, match=r"distill\[vllm\].*DISTILL_VLLM_PYTHON"):
        asyncio.run(teacher_of(section).open())
    with pytest.raises(UsageError, match="/no/python cannot be run"):
        asyncio.run(teacher_of({**section, "python": "/no/python"}).open())


def test_the_environment_names_an_interpreter_where_the_recipe_does_not(fake_vllm, monkeypatch):
    monkeypatch.setenv("DISTILL_VLLM_PYTHON", "/no/such")
    with pytest.raises(UsageError, match="/no/such cannot be run"):
        asyncio.run(teacher_of({**fake_vllm.section(), "python": None}).open())


def test_a_request_needs_no_server(fake_vllm):
    teacher = build_teacher("local", VLLMTeacherConfig(**fake_vllm.section(temperature=0.2, extra_body={"top_p": 0.5})))
    request = teacher.compile(Prompter(TASK, teacher.answer)({"row_id": "r", "title": "t"}), sample=0)
    body = json.loads(request.body)
    assert (body["model"], body["temperature"], body["top_p"]) == ("org/tiny", 0.2, 0.5)
    assert request.endpoint == teacher.endpoint == "vllm:org/tiny?dtype=auto"
    assert not fake_vllm.starts()


def test_a_proxy_is_not_asked_for_our_own_servers(fake_vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    votes, _ = label([teacher_of(fake_vllm.section())], tmp_path, rows=4)
    assert votes["outcome"].to_list() == ["labeled"] * 4
