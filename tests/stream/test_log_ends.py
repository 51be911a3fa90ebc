"""Asking for the ends of the log never ends unseen."""

import subprocess
import sys

from pipeline.stream.exits import ExitCode

_NO_CONSUMER = """
import asyncio, faust
from pipeline.stream.log_ends import LogEnds

class App(faust.App):
    consumer = None

async def ask():
    await LogEnds(App("ends", store="memory://"), "messages.raw").keep_asking()

asyncio.run(ask())
"""


def test_a_fault_that_nobody_foresaw_ends_the_process_with_its_reason() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _NO_CONSUMER], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == ExitCode.AGENT_FAILED
    assert "the log's ends cannot be asked: AttributeError" in ended.stderr
