"""One command in every process of a torchrun, on two machines: the first process leads, the others train with it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

import distill
from distill.labeling.errors import StudentError
from distill.labeling.task import Task
from distill.students.config import DcnConfig
from distill.students.fit import fit_student
from distill.students.training_set import training_set
from distill.students.world import World, in_torchrun, together

RECIPE = """
version: 1
name: nodes
seed: 5
data: {{rows: {rows}, id: row_id, group: group, gold: gold, split: split}}
task: {{type: relevance, labels: [exact, substitute, irrelevant], positive: exact, inputs: [query, title, brand]}}
students:
  crossed: {{type: dcn, train_on: human, epochs: 2, buckets: 64, embedding_dim: 4, hidden: [8], dropout: 0,
    batch_size: 7, threads: 1, wide: null}}
  encoder: {{type: encoder, base: {base}, train_on: human, epochs: 2, lr: 0.001, batch_tokens: 150, precision: fp32,
    threads: 1, validation: 0.25, wide: null, trainer: {{gradient_accumulation_steps: {parts}}}}}
"""


def _on_two_machines(*arguments: str, folder: Path, port: int) -> list[tuple[int, str]]:
    """Status and output of ``python -m distill …`` under a torchrun for each of two machines, both of them this one."""
    environment = {**os.environ, "PYTHONPATH": str(Path(distill.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    started = []
    for machine in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={machine}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}", "--nproc-per-node=1", "-m", "distill"]
        with (folder / f"{machine}.log").open("w") as log:
            started.append(
                subprocess.Popen([*command, *arguments], cwd=folder, env=environment, stdout=log, stderr=log)
            )
    try:
        statuses = [process.wait(timeout=240) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return [(status, (folder / f"{machine}.log").read_text()) for machine, status in enumerate(statuses)]


@pytest.mark.slow
def test_two_machines_train_the_students_of_one_process(
    rows: pl.DataFrame, tiny_base: Path, tmp_path: Path, free_port: int
) -> None:
    from safetensors.torch import load_file

    rows.write_parquet(tmp_path / "rows.parquet")
    # Two parts of a step on each of two machines are four shares of a batch, and most batches do not divide by four.
    for name, parts in (("one", 1), ("two", 2)):
        recipe = RECIPE.format(rows=tmp_path / "rows.parquet", base=tiny_base, parts=parts)
        (tmp_path / f"{name}.yaml").write_text(recipe)
    distill.run(tmp_path / "one.yaml", out=tmp_path / "one", until="train")
    ended = _on_two_machines("train", "two.yaml", "--out", "two", folder=tmp_path, port=free_port)
    assert [status for status, _ in ended] == [0, 0], ended
    assert "train:encoder" not in ended[1][1]  # the second machine runs no stage
    for student in ("crossed", "encoder"):
        one, two = (load_file(tmp_path / run / "students" / student / "model.safetensors") for run in ("one", "two"))
        assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    start = load_file(tiny_base / "model.safetensors")
    assert max(float((one[f"bert.{name}"][: len(start[name])] - start[name]).abs().max()) for name in start) > 1e-3
    # What is done after a training is there too, once.
    labelled = pl.read_parquet(tmp_path / "two" / "predictions" / "encoder.parquet")
    assert labelled.height == rows.filter(pl.col("split") == "test").height


def test_a_script_of_ones_own_is_told_what_to_call(
    rows: pl.DataFrame, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    training = training_set(rows, train_on="human", labels=None, votes=None, task=task, validation_share=0.0)
    with pytest.raises(StudentError, match=r"process 2 of 4 of torchrun .*together\(main\)"):
        fit_student(DcnConfig(train_on=("human",)), training, task=task, out=tmp_path / "s", seed=1)


def test_a_command_alone_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    done: list[bool] = []
    together(lambda: done.append(in_torchrun()))
    assert done == [False]


def test_the_others_end_as_the_first_does() -> None:
    from torch.distributed import HashStore

    store = HashStore()
    first, second = (World(store, processes=2, process=process) for process in range(2))
    with ThreadPoolExecutor(1) as others:
        status = others.submit(second.follow)
        first.end(0)
        assert status.result(timeout=60) == 0
    store = HashStore()
    World(store, processes=2, process=0).end(3)  # waits for nobody
    assert World(store, processes=2, process=1).follow() == 3


def test_a_machine_that_does_not_see_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import HashStore

    monkeypatch.setattr("distill.students.world._LAST_WORDS_S", 0.0)
    store = HashStore()
    store.set("job/0", str(tmp_path / "run" / ".encoder.job"))
    with pytest.raises(StudentError, match=r"\.encoder\.job: not to be seen by process 1 of 2, on .*--out"):
        World(store, processes=2, process=1).follow()
    # Where the first process failed too, that one tells it.
    store.set("ended", "1")
    assert World(store, processes=2, process=1).follow() == 1
