"""State and log belong together, or the worker stops: which states are legitimate and which are not."""

import faust
import pytest

from pipeline.core.eras import ERA_POSITIONS
from pipeline.core.kept import check_versions
from pipeline.metrics.worker import GONE_UNREAD
from pipeline.stream.agreement import (
    MARK_KEY,
    AgreementError,
    Kept,
    Written,
    check_agreement,
    fault_of,
    gone_unread,
    mark_of,
    written_of,
)
from pipeline.stream.gone import tell_gone_unread
from pipeline.stream.tables import ChangelogTable

TABLES = ("accounts", "windows", "ids")
VALUES = None
"""A table of values without a mark, as versions before marks left them."""
EMPTY = -1
"""A table of nothing."""


def kept(committed: int, end: int, *marks: int | None, lost: int = 0, begin: int = 0) -> Kept:
    """A partition by what its tables hold: the offset of the mark, VALUES or EMPTY."""
    tables = [
        Written(name, None if mark in (EMPTY, VALUES) else mark, is_empty=mark == EMPTY, lost=lost)
        for name, mark in zip(TABLES, marks, strict=True)
    ]
    return Kept(3, committed, begin, end, tables)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (kept(0, 0, EMPTY, EMPTY, EMPTY), "nothing has happened yet"),
        (kept(0, 500, EMPTY, EMPTY, EMPTY), "records wait, and nothing is folded yet"),
        (kept(500, 500, 500, 500, 500), "everything is stored and committed"),
        (kept(400, 500, 500, 500, 500), "killed between the tables and the commit"),
        (kept(400, 500, 400, 500, 400), "killed between the tables"),
        (kept(0, 500, EMPTY, 100, EMPTY), "killed in the first checkpoint"),
        (kept(0, 500, 500, 500, 500), "Kafka forgot the offsets of a group that was away"),
        (kept(100, 500, 500, 500, 500), "somebody set the offsets back"),
        (kept(400, 500, VALUES, VALUES, VALUES), "state version 1"),
        (kept(400, 500, VALUES, EMPTY, EMPTY), "state version 1, of a partition with commands alone"),
        (kept(400, 500, VALUES, 450, 450), "killed in the first checkpoint after state version 1"),
        (kept(400, 500, VALUES, EMPTY, 450), "commands alone before, killed between the first marks"),
        (kept(400, 500, VALUES, 450, EMPTY), "the same, the other way round"),
        (kept(0, 500, EMPTY, EMPTY, EMPTY, begin=300), "a group that begins on an old log"),
        (kept(0, 500, EMPTY, 350, EMPTY, begin=300), "the same, killed in the first checkpoint"),
        (kept(0, 500, 400, 350, 350, begin=300), "offsets forgotten, and the log goes back to every mark"),
        (kept(0, 500, 250, 250, 250, begin=300), "offsets forgotten, and 50 records gone unread"),
        (kept(0, 500, VALUES, EMPTY, VALUES, begin=300), "offsets forgotten, state version 1"),
        (kept(0, 500, EMPTY, EMPTY, EMPTY, lost=7), "somebody has emptied the changelogs to begin anew"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_legitimate_state_is_no_fault(given: Kept, why: str) -> None:
    assert fault_of(given) == "", why


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        # Offsets moved forward by somebody, or the end of a changelog lost.
        (
            kept(500, 500, 400, 400, 400),
            "accounts ends at 400, windows ends at 400, ids ends at 400: the records",
        ),
        (
            kept(500, 500, 499, 500, 500),
            "but accounts ends at 499: the records between would never be metered",
        ),
        (kept(500, 500, 500, 500, 1), "but ids ends at 1: "),
        # A changelog made anew, or all of them.
        (kept(500, 500, EMPTY, 500, 500), "but nothing is kept of accounts"),
        (kept(500, 500, 500, EMPTY, EMPTY), "but nothing is kept of windows, ids"),
        (kept(500, 500, EMPTY, EMPTY, EMPTY), "offset 500 is committed, but nothing is kept of accounts"),
        (kept(400, 500, EMPTY, 450, 450), "but nothing is kept of accounts"),
        (kept(400, 500, 450, EMPTY, 450), "but nothing is kept of windows"),
        (kept(400, 500, VALUES, EMPTY, 400), "but nothing is kept of windows"),
        # Offsets forgotten, and retention has reached what would have to be read again.
        (
            kept(0, 500, 250, 400, 400, begin=300),
            "nothing is committed and the log begins at 300, but accounts ends at 250: the records",
        ),
        (kept(0, 500, 200, 250, 250, begin=300), "but accounts ends at 200: the records"),
        (kept(0, 500, 400, EMPTY, 400, begin=300), "but nothing is kept of windows"),
        (kept(0, 500, 400, 400, 400, lost=7, begin=300), "the first 7 records of the changelog of accounts"),
        # The beginning of a changelog deleted.
        (kept(500, 500, 500, 500, 500, lost=7), "the first 7 records of the changelog of accounts are gone"),
        # The log made anew.
        (
            kept(500, 20, 500, 500, 500),
            "go up to 500, the log ends at 20: it is another one, or lost its end",
        ),
        (kept(0, 20, 21, EMPTY, EMPTY), "go up to 21, the log ends at 20"),
        (kept(21, 20, VALUES, EMPTY, EMPTY), "go up to 21, the log ends at 20"),
    ],
)
def test_what_would_lose_records_is_a_fault(given: Kept, fault: str) -> None:
    assert fault in fault_of(given)


def test_every_partition_at_fault_is_told_with_what_to_do() -> None:
    healthy, moved, lost = kept(9, 9, 9, 9, 9), kept(500, 500, 450, 400, 450), kept(9, 9, EMPTY, 9, 9)
    check_agreement([healthy], "meter", "messages.raw")
    with pytest.raises(AgreementError) as raised:
        check_agreement([healthy, moved, lost], "meter", "messages.raw")
    text = str(raised.value)
    assert text.count("- partition 3: ") == 2
    assert "--group meter --topic messages.raw:3 --reset-offsets --to-offset 400 --execute" in text
    assert "restore it from its backup" in text
    out_of_reach = kept(500, 500, 450, 400, 450, begin=420)
    with pytest.raises(AgreementError) as raised:
        check_agreement([lost, out_of_reach], "meter", "messages.raw")
    assert "--reset-offsets" not in str(raised.value)


def test_records_that_no_table_has_and_the_log_no_more_are_gone_unread_where_nothing_is_committed() -> None:
    assert gone_unread(kept(0, 500, 250, 250, 250, begin=300)) == range(250, 300)
    for nothing_gone in (
        kept(0, 500, 300, 300, 300, begin=300),
        kept(0, 500, 250, 250, 250),
        kept(0, 500, EMPTY, EMPTY, EMPTY, begin=300),
        kept(0, 500, VALUES, VALUES, VALUES, begin=300),
        kept(250, 500, 250, 250, 250, begin=300),  # The seek tells these.
    ):
        assert not gone_unread(nothing_gone)


def test_what_is_gone_unread_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    before = GONE_UNREAD._value.get()
    for span in (range(100, 500), range(100, 500), range(500), range(0)):
        tell_gone_unread("told-once", 0, span)
    assert GONE_UNREAD._value.get() == before + 400
    assert caplog.text.count("gone, unread") == 1
    tell_gone_unread("told-once", 0, range(100, 520))
    tell_gone_unread("told-once", 1, range(100, 101))
    assert GONE_UNREAD._value.get() == before + 421
    assert "offsets 500 to 519 are gone, unread" in caplog.text


def test_a_mark_says_how_far_a_table_is_complete() -> None:
    store = faust.App("agreement", store="memory://", Table=ChangelogTable).Table("state").data
    store.open_partition(0)
    assert written_of("accounts", store, 0, lost=0) == Written("accounts", None, is_empty=True)
    store.apply(0, {b"acme": mark_of(5)}, store.position_of(0))
    assert written_of("accounts", store, 0, lost=0) == Written("accounts", None, is_empty=False)
    store.apply(0, {MARK_KEY: mark_of(7)}, store.position_of(0))
    assert written_of("accounts", store, 0, lost=2) == Written("accounts", 7, is_empty=False, lost=2)
    check_versions([mark_of(0), mark_of(7)])


def test_a_mark_of_a_later_era_is_compared_by_its_offset() -> None:
    store = faust.App("agreement", store="memory://", Table=ChangelogTable).Table("state").data
    store.open_partition(0)
    store.apply(0, {MARK_KEY: mark_of(2 * ERA_POSITIONS + 7)}, store.position_of(0))
    assert written_of("accounts", store, 0, lost=0).mark == 7
