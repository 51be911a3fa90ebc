# ruff: noqa: T201 - what was done to the system is shown when a run fails, or with -s.
"""What is done to a deployment: faults at random, all of them following from one seed.

Takes a deployment, a seed and the number of kills; gives a journal. When which fault comes is the seed's; what it
meets is not, because processes run in real time: a seed repeats the attack, not the accident. Whoever wants the
accident repeated uses tests/simulation.
"""

import time
from collections import Counter
from collections.abc import Callable
from random import Random

from pipeline.embedded.broker import EmbeddedBroker
from pipeline.embedded.clickhouse import EmbeddedClickHouse
from tests.chaos.deployment import SESSION_SECONDS, Deployment, Supervised
from tests.faults.kinds import FAULTS

MOST_WORKERS = 4


class Campaign:
    """One run of faults; `run` returns when enough was killed, with everything up again."""

    def __init__(self, deployment: Deployment, random: Random, kills: int) -> None:
        self._deployment = deployment
        self._random = random
        self._kills = kills
        self._began = time.monotonic()
        self.counts: Counter[str] = Counter()
        """How often each thing was done."""
        self._actions: dict[Callable[[], str | None], int] = {
            self._kill_worker: 30,
            self._kill_broker: 12,
            self._kill_clickhouse: 14,
            self._freeze_worker: 8,
            self._scale: 6,
            self._roll: 2,
            self._cut_off_clickhouse: 4,
            self._disturb_clickhouse: 20,
        }

    @property
    def killed(self) -> int:
        """How many processes were killed with -9."""
        return sum(number for name, number in self.counts.items() if name.startswith("kill -9"))

    def run(self) -> None:
        """Does things at random until enough has been killed."""
        deployment, random = self._deployment, self._random
        deployment.scale(random.randint(2, 3))
        deployment.pass_time(random.uniform(5, 8))
        while self.killed < self._kills:
            (action,) = random.choices(list(self._actions), list(self._actions.values()))
            done = action()
            if done is not None:
                self.counts[done] += 1
                print(f"{time.monotonic() - self._began:7.1f} s  {done}")
            # Mostly one after the other, now and then a while in which something gets done.
            deployment.pass_time(random.choice((0.5, 2, 4, 8, 15)) * random.random())
        print(f"{time.monotonic() - self._began:7.1f} s  {self.killed} killed; everything comes back")
        deployment.settle()

    # Each says what it did; None where it found nothing to do it to.

    def _kill_worker(self) -> str | None:
        if (worker := self._running_worker()) is None:
            return None
        was = " frozen" if worker.is_paused else ""
        self._deployment.kill(worker, self._random.uniform(0, 2))
        return f"kill -9 of a{was} worker"

    def _kill_broker(self) -> str | None:
        return self._kill_one_of(EmbeddedBroker, "kill -9 of a broker")

    def _kill_clickhouse(self) -> str | None:
        return self._kill_one_of(EmbeddedClickHouse, "kill -9 of ClickHouse")

    def _kill_one_of(self, kind: type, done: str) -> str | None:
        up = [server for server in self._deployment.servers_up if isinstance(server, kind)]
        if not up:
            return None
        self._deployment.kill_server(self._random.choice(up), self._random.uniform(0, 4))
        return done

    def _freeze_worker(self) -> str | None:
        worker = self._running_worker()
        if worker is None or worker.is_paused:
            return None
        # Mostly so long that its partitions are somebody else's when it wakes.
        seconds = SESSION_SECONDS * self._random.uniform(0.4, 2.5)
        self._deployment.freeze(worker, seconds)
        return "worker frozen past its session" if seconds > SESSION_SECONDS else "worker frozen for a while"

    def _scale(self) -> str | None:
        before = len(self._deployment.wanted)
        count = self._random.choice([number for number in range(1, MOST_WORKERS + 1) if number != before])
        self._deployment.scale(count)
        return "more workers" if count > before else "fewer workers"

    def _roll(self) -> str | None:
        for worker in self._deployment.wanted:
            self._deployment.tell_to_stop(worker)
            self._deployment.pass_time(self._random.uniform(1, 4))
        return "rolling restart"

    def _cut_off_clickhouse(self) -> str | None:
        proxy = self._deployment.proxy
        proxy.away()
        self._deployment.later(self._random.uniform(0.5, 8), proxy.back)
        return "ClickHouse not reached"

    def _disturb_clickhouse(self) -> str | None:
        fault = self._random.choice(FAULTS)
        self._deployment.proxy.inject(fault, count=self._random.randint(1, 4))
        return f"ClickHouse: {fault}"

    def _running_worker(self) -> Supervised | None:
        running = [worker for worker in self._deployment.wanted if worker.process.is_running]
        return self._random.choice(running) if running else None
