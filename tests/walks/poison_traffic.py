"""The second walk: a new release of one gateway cuts every record off, so none of them can be read."""

from pipeline.core.admission import SOURCE_HEADER
from pipeline.logfile import LogRecord
from tests.walks.scene import Scene
from tests.walks.transcript import Transcript, clock

NAME = "poison-traffic"
_SOURCE = b"gateway-eu"
_BYTES = 160


def walk(scene: Scene, hold: str) -> Transcript:
    """From the page to the cause; `hold` names what waits for a person before it is mended."""
    told = Transcript(
        NAME,
        "A walk: one gateway sends what nobody can read",
        f"of four gateways, one has a release that cuts each record off after {_BYTES} bytes.",
    )
    shell = scene.shell(min(scene.workers))
    spoilt: list[LogRecord] = []

    def cut(record: LogRecord) -> LogRecord:
        if record.is_plain_command or b'"source":"%b"' % _SOURCE not in record.value:
            return record
        spoilt.append(record)
        headers = [(SOURCE_HEADER, _SOURCE), *record.headers]
        return LogRecord(record.key, record.value[:_BYTES], headers, record.received_at)

    broken_at = clock()
    scene.gateway.spoil = cut
    _, message = scene.pager.await_message("MsgmeterRefusalsHigh", severity="critical", deadline_seconds=300)

    told.heading(f"{clock()} A page")
    told.message(message)
    told.say(
        "`critical`: customers see less usage than they have. The description says how much is refused, and that most"
        " of it is `not_json`. `runbook_url` leads to [MsgmeterRefusalsHigh](../runbooks.md#msgmeterrefusalshigh),"
        " `dashboard_url` to the dashboard Fleet and revenue."
    )
    told.picture(
        scene,
        message,
        "Used",
        "Not charged",
        seen="Usage goes on, but refusals have risen in one step, of one reason: `not_json`. The scheduler and"
        " ClickHouse are well. Who sends it is not in the metrics, so it is asked below.",
    )

    told.heading("What else fires?")
    told.type(shell, "ask 'ALERTS{alertstate=\"firing\"}'", shows="MsgmeterRefusalsHigh")
    told.say("Nothing: what can be read is metered as ever.")

    told.heading("Who sends it?")
    told.type(
        shell, "msgmeter refusals --since 1h --limit 5", shows=r"^not_json +gateway-eu +[\d,]+ +9\d\.\d %"
    )
    told.say(
        "One line has nearly all of it: **gateway-eu**, `not_json`. The others are the few that every day has. Is"
        " it one customer of that gateway, or one partition?"
    )
    told.type(
        shell,
        "msgmeter refusals --since 1h --by source,tenant --limit 5",
        shows=r"^gateway-eu +unknown +[\d,]+",
    )
    told.type(
        shell,
        "msgmeter refusals --since 1d --by reason,source,partition --limit 10",
        shows=r"^not_json +gateway-eu +7 ",
    )
    told.say(
        "All partitions, so all its customers, and in most of them it began in the same second. Their names are"
        " unknown, as the values cannot be read; the gateway is known by the header in which it names itself."
    )

    told.heading("Conclusion")
    told.say(
        "**gateway-eu has sent broken JSON since that second.** It is the gateway's software; nothing of ours is to be"
        " restarted. Its owner gets the reason, the time, and a partition and offset to look at, and takes the release"
        " back. Then it sends the messages of that time again, which the runbook says is safe."
    )
    scene.hold(hold)
    scene.gateway.spoil = lambda record: record
    mended_at = clock()
    scene.system.send(list(spoilt))
    told.heading(
        f"{mended_at} Mended: the gateway has its old release, and has sent {len(spoilt):,} messages again"
    )
    _, resolved = scene.pager.await_message(
        "MsgmeterRefusalsHigh", "resolved", "critical", deadline_seconds=300
    )
    told.type(shell, "msgmeter refusals --since 5m", shows=r"\d+ refused since", instead={"5m": "20s"})
    told.say(
        f"At {clock()} the pager says `{resolved['status']}`; what is refused now is what every day has. It was broken"
        f" at {broken_at}. The messages sent again are charged once each, in the period in which they occurred."
    )
    return told
