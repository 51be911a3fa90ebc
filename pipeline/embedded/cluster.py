"""Several Apache Kafka nodes in one KRaft quorum: what replication, elections and fencing are tried on.

Decides ports, the quorum and what the internal topics keep. Takes a directory and a number of nodes; gives
`bootstrap_servers` once every node knows every other. Each of `nodes` is killed, stopped and started by
itself. Never creates topics, and never restarts what has died.

Invariants: every node is broker and controller; clients' and controllers' ports are chosen once and hold over
restarts; what a majority has acknowledged is there as long as a majority of the directories is.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from pipeline.embedded.broker import EmbeddedBroker, random_cluster_id
from pipeline.embedded.owned import LOOPBACK, StartError, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

_POLL_SECONDS = 0.05


class EmbeddedCluster:
    """Nodes 1 to `nodes`, each in a directory of its own under `directory`; all listen on `host`.

    `configuration` goes over ours on every node, in Kafka's own words. `nodes` lists them in the order of
    their ids, also while they do not run.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        host: str = LOOPBACK,
        configuration: Mapping[str, str] | None = None,
        heap_mebibytes: int = 256,
        cache: Path | None = None,
    ) -> None:
        controller_port_of = {node_id: free_port(host) for node_id in range(1, nodes + 1)}
        voters = ",".join(f"{node_id}@{host}:{port}" for node_id, port in controller_port_of.items())
        cluster_id = random_cluster_id()
        self.nodes = [
            EmbeddedBroker(
                directory / str(node_id),
                free_port(host),
                host=host,
                controller_port=controller_port,
                cluster_id=cluster_id,
                configuration={
                    **_replicated(nodes),
                    "node.id": str(node_id),
                    "controller.quorum.voters": voters,
                    **(configuration or {}),
                },
                heap_mebibytes=heap_mebibytes,
                cache=cache,
            )
            for node_id, controller_port in controller_port_of.items()
        ]

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` of every node, separated by commas, whether it runs or not."""
        return ",".join(node.bootstrap_servers for node in self.nodes)

    def start(self, deadline_seconds: float = 120) -> Self:
        """Start the nodes that do not run, together, and return when every node knows all of them.

        No node answers before a majority runs, so they cannot be started one after the other. Raises what
        `EmbeddedBroker.start` does; nothing runs then.
        """
        deadline = time.monotonic() + deadline_seconds
        try:
            self._each(lambda node: None if node.running else node.start(deadline_seconds))
            self._await_acquaintance(deadline)
        except BaseException:
            self.kill()
            raise
        return self

    def _await_acquaintance(self, deadline: float) -> None:
        while min(known := [node.known_nodes() for node in self.nodes]) < len(self.nodes):
            if time.monotonic() > deadline:
                logs = (node.process.log_tail() for node in self.nodes if node.process is not None)
                raise StartError("\n".join([f"of the others and themselves the nodes know {known}", *logs]))
            time.sleep(_POLL_SECONDS)

    def stop(self, deadline_seconds: float = 20) -> None:
        """End every node in order, by force at the deadline: the last ones have no controller to tell."""
        self._each(lambda node: node.stop(deadline_seconds))

    def kill(self) -> None:
        """`kill -9` every node at once."""
        self._each(EmbeddedBroker.kill)

    def _each(self, act: Callable[[EmbeddedBroker], object]) -> None:
        with ThreadPoolExecutor(len(self.nodes), thread_name_prefix="cluster") as threads:
            list(threads.map(act, self.nodes))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _replicated(nodes: int) -> dict[str, str]:
    """Give the settings by which what is written outlives the loss of one node of three."""
    replicas, insync = str(min(nodes, 3)), str(min(nodes, 2))
    return {
        "default.replication.factor": replicas,
        # Of the offsets topic too, which has no setting of its own.
        "min.insync.replicas": insync,
        "unclean.leader.election.enable": "false",
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": insync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": insync,
    }
