"""The third walk: one of two workers stands still, as after SIGSTOP or in a frozen container."""

import os
import signal

from tests.walks.scene import Scene
from tests.walks.transcript import Transcript, clock

NAME = "stuck-worker"


def walk(scene: Scene, hold: str) -> Transcript:
    """From the page to the cause; `hold` names what waits for a person before it is mended."""
    told = Transcript(
        NAME,
        "A walk: a worker stands still",
        "one of the two workers"
        " was stopped with SIGSTOP. It does not end, it does nothing, and it holds its connections.",
    )
    port = max(scene.workers)
    worker = scene.workers[port]
    worker.pause()
    broken_at = clock()
    _, message = scene.pager.await_message("MsgmeterTargetDown", deadline_seconds=300)
    instance = message["alerts"][0]["labels"]["instance"]

    told.heading(f"{clock()} A ticket")
    told.message(message)
    told.say(
        f"`warning`: the worker at `{instance}` does not answer. `runbook_url` leads to"
        " [MsgmeterTargetDown](../runbooks.md#msgmetertargetdown), `dashboard_url` to the dashboard On call."
    )
    told.picture(
        scene,
        message,
        "What is burning",
        "Which part is it",
        seen="One alert; ClickHouse and Kafka are well, and no partition is without a worker; of the two"
        " workers one answers nothing: its row has only records/s, as that looks a minute back.",
    )

    told.heading("What else fires, and do customers feel it?")
    shell = scene.shell(port)
    told.type(shell, "ask 'ALERTS{alertstate=\"firing\"}'", shows="MsgmeterTargetDown")
    told.type(shell, "ask 'up{job=~\"msgmeter-.+\"}'", shows=rf'"{instance}", job="msgmeter-worker"}} => 0')
    told.type(shell, "ask 'msgmeter_partitions_assigned'", shows="=> 8 ")
    told.say(
        "The other worker has all eight partitions: it took them over when Kafka missed the first one for 15 seconds."
        " Customers felt that long a delay, and nothing since."
    )

    told.heading("Dead, stuck or cut off?")
    told.say(f"On the machine of `{instance}`:")
    told.type(shell, "msgmeter doctor", shows=r"FAIL +worker here .* stands still")
    told.type(
        shell,
        "curl -sS -m 5 -o /dev/null -w '%{http_code} after %{time_total} s\\n'"
        ' "http://127.0.0.1:${MSGMETER_METRICS_PORT:-9464}/metrics"',
        shows="timed out after",
    )
    told.say(
        "No answer and no refusal, but silence: **stuck**, says the runbook. How, says the letter under STAT:"
    )
    told.type(
        shell,
        "ps -eo pid,stat,etime,args | grep -E '[P]ID|(msgmeter|pipeline) [w]orker$'",
        shows=rf"^ *{worker.pid} +T",
    )

    told.heading("Conclusion")
    told.say(
        f"**Process {worker.pid} was stopped**: `T`. Somebody or something sent it SIGSTOP, attached a debugger or"
        " froze its container. It is not a fault of its work, and nothing is lost. The runbook says: end it for good,"
        " start it again, and do not wake it."
    )
    scene.hold(hold)
    told.heading(f"{clock()} Mended: it is ended and started again")
    told.did(f"kill -9 {worker.pid}")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.start()
    worker.await_ready()
    told.did("docker restart -t 0 msgmeter-worker-1", "(here: the same process was started again)")
    _, resolved = scene.pager.await_message("MsgmeterTargetDown", "resolved", deadline_seconds=300)
    told.type(
        shell, "ask 'up{job=\"msgmeter-worker\"}'", shows=rf'"{instance}", job="msgmeter-worker"}} => 1'
    )
    told.type(shell, "ask 'max(msgmeter_partitions) - sum(msgmeter_partitions_owned)'", shows="=> 0 ")
    told.say(
        f"At {clock()} the pager says `{resolved['status']}`, every partition has its worker. It was broken at"
        f" {broken_at}."
    )
    return told
