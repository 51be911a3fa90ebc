"""The first walk: every request to ClickHouse takes three seconds longer, because of what lies before it."""

import re
from random import Random

from tests.faults.kinds import delay
from tests.walks.scene import Scene
from tests.walks.transcript import Transcript, clock

NAME = "clickhouse-slow"
_SECONDS = 3.0


def walk(scene: Scene, hold: str) -> Transcript:
    """From the page to the cause; `hold` names what waits for a person before it is mended."""
    told = Transcript(
        NAME,
        "A walk: ClickHouse is slow",
        "a proxy between the workers and ClickHouse holds each request for three seconds.",
    )
    port = min(scene.workers)
    shell = scene.shell(port)
    scene.proxy.disturb(Random(1), 1.0, [delay(_SECONDS)])
    broken_at = clock()
    _, message = scene.pager.await_message("MsgmeterClickHouseSlow", deadline_seconds=300)

    told.heading(f"{clock()} A ticket")
    told.message(message)
    told.say(
        "`warning`: nobody is woken. Inserts take seconds instead of a fraction of one. The"
        " message's `runbook_url` leads to [MsgmeterClickHouseSlow](../runbooks.md#msgmeterclickhouseslow), and"
        " `dashboard_url` to the dashboard Pipeline."
    )
    told.picture(
        scene,
        message,
        "Latency",
        "Epochs and inserts",
        seen="Since one moment, inserts into every table take seconds, and so does the way of each message from"
        " received to stored. None fails: Inserts by result has no other line than before, and both servers are up.",
    )

    told.heading("What else fires?")
    told.type(shell, "ask 'ALERTS{alertstate=\"firing\"}'", shows="MsgmeterClickHouseSlow")
    told.say(
        "Neither Kafka nor ClickHouse is away, and no worker is missing. So it is what it says: slow, not broken."
    )

    told.heading("Is it ClickHouse, or the way to it?")
    told.type(shell, "ask 'msgmeter:insert_seconds:p90_10m'", shows=r'"rated_messages"} => [2-9]\.')
    told.say("All tables alike, the small ones too: it is not the amount that is written.")
    slow = told.type(
        shell,
        "curl -sS -w '%{time_total} s\\n' \"${DATABASE%/*}/ping\"",
        shows=r"^[3-5]\.\d+ s$",
    )
    told.say(
        f"A ping, which does no work at all, takes {re.findall(r'(.+) s$', slow)[0]} s by the worker's own settings."
        " Now the same on ClickHouse's own machine, past everything in between:"
    )
    told.type(
        shell,
        "curl -sS -w '%{time_total} s\\n' http://127.0.0.1:8123/ping",
        shows=r"^0\.0\d+ s$",
        instead={"127.0.0.1:8123": f"{scene.clickhouse.host}:{scene.clickhouse.port}"},
    )
    told.type(
        shell,
        "sql 'SELECT round(elapsed, 1) AS seconds, formatReadableSize(memory_usage) AS memory,"
        " substring(query, 1, 60) AS query FROM system.processes ORDER BY elapsed DESC LIMIT 5'",
        shows="system.processes|formatReadableSize",
    )
    told.say("ClickHouse answers at once, and runs nothing but our own question.")

    told.heading("Conclusion")
    told.say(
        "**The way between workers and ClickHouse is slow, ClickHouse is not**: every request takes three seconds more,"
        " whatever it is. The runbook says: the network, a proxy or a balancer between them. Restarting workers or"
        " ClickHouse would have changed nothing."
    )
    scene.hold(hold)
    scene.proxy.calm()
    told.heading(f"{clock()} Mended: the proxy passes requests on at once")
    told.type(shell, "curl -sS -w '%{time_total} s\\n' \"${DATABASE%/*}/ping\"", shows=r"^0\.\d+ s$")
    _, resolved = scene.pager.await_message("MsgmeterClickHouseSlow", "resolved", deadline_seconds=300)
    told.type(shell, "ask 'msgmeter:insert_seconds:p90_10m'", shows=r'"rated_messages"} => [01]\.')
    told.say(
        f"At {clock()} the pager says `{resolved['status']}`. It was broken at {broken_at}; nothing was lost meanwhile,"
        " usage came some seconds later."
    )
    return told
