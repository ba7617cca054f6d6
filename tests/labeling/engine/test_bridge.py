"""The caller's thread beside the one in which the engine asks."""

from __future__ import annotations

import asyncio

import pytest

from distill.labeling.engine.bridge import Bridge


def interrupted() -> None:
    raise KeyboardInterrupt


def test_nobody_waits_for_a_call_that_an_interrupt_ended() -> None:
    bridge = Bridge()
    ended: list[bool] = []

    async def main() -> None:
        answer = bridge.submit(interrupted)
        try:
            await asyncio.Event().wait()  # cancelled by the interrupt, while nobody waits for the answer
        finally:
            await asyncio.wait([answer], timeout=20)
            ended.append(answer.done())

    with pytest.raises(KeyboardInterrupt):
        bridge.run(main)
    assert ended == [True]
