"""Whether another machine's clock agrees with ours, as far as a question and its answer can show.

Takes what the other clock said and when, by our clock, that was asked and answered; gives a finding. Instants are epoch
milliseconds. No time server is asked: where both agree, both may be wrong by as much.
"""

from pipeline.doctor.findings import Finding, failure, ok, skipped, warning

TOLERATED_MILLISECONDS = 1_000
"""Clocks kept by NTP differ by a few; a second is what freshness and the age of a lag can bear."""
WRONG_MILLISECONDS = 60_000
"""From here on lag, freshness and the scheduler's ticks say something else than what is so."""
_REMEDY = "let NTP (chrony, systemd-timesyncd) keep the clocks of both machines"


def judge_clock(subject: str, whose: str, said_at: int, asked_at: int, answered_at: int) -> Finding:
    """Judge a clock that showed `said_at` at a moment within `[asked_at, answered_at]` of ours."""
    if said_at > answered_at:
        return _judged(subject, whose, said_at - answered_at, "ahead of")
    return _judged(subject, whose, max(asked_at - said_at, 0), "behind")


def judge_append_clock(before: int | None, asked_at: int, after: int | None, answered_at: int) -> Finding:
    """Judge the brokers' clock by append times; never writes a record to learn it.

    `before` and `after` are the newest append times of the log at `asked_at` and `answered_at` of ours; None for an
    empty log. What was appended in between tells both directions; an old record can only be from the future.
    """
    subject, whose = "clock", "the brokers' clock"
    newest = max((each for each in (before, after) if each is not None), default=None)
    if newest is not None and newest > answered_at + TOLERATED_MILLISECONDS:
        return _judged(subject, whose, newest - answered_at, "ahead of")
    if after is None or after == before:
        return skipped(
            subject, "nothing was appended while it was looked at, so the brokers' clock is not known"
        )
    return judge_clock(subject, whose, after, asked_at, answered_at)


def _judged(subject: str, whose: str, apart: int, direction: str) -> Finding:
    if apart <= TOLERATED_MILLISECONDS:
        return ok(subject, f"{whose} and this machine's agree")
    found = f"{whose} is at least {apart / 1000:.1f} s {direction} this machine's"
    if apart <= WRONG_MILLISECONDS:
        return warning(subject, found, _REMEDY)
    return failure(subject, found, _REMEDY)
