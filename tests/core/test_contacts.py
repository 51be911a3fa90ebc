"""Who counts as a contact of a plan, and for how long; the query that says the same is held to it elsewhere."""

import pytest

from pipeline.core.contacts import ContactCounts, contact_hash, count_contacts
from tests.builders import DAY, NOON


@pytest.mark.parametrize(
    ("state", "last", "counts"),
    [
        #        marked      last messaged     active, inactive, removed
        pytest.param(None, None, (0, 0, 0), id="unknown"),
        pytest.param("active", None, (1, 0, 0), id="marked active"),
        pytest.param("inactive", None, (0, 0, 0), id="marked inactive"),
        pytest.param("removed", None, (0, 0, 0), id="removed"),
        pytest.param(None, NOON, (1, 0, 0), id="messaged now"),
        pytest.param("active", NOON, (1, 0, 0), id="active for two reasons counts once"),
        pytest.param("inactive", NOON - 60 * DAY + 1, (1, 1, 0), id="inactive, in the last of 60 days"),
        pytest.param("inactive", NOON - 60 * DAY, (0, 0, 0), id="inactive, 60 days after"),
        pytest.param("removed", NOON - DAY, (1, 0, 1), id="removed but messaged"),
    ],
)
def test_a_contact_counts_while_it_is_active_or_was_messaged(
    state: str | None, last: int | None, counts: tuple[int, int, int]
) -> None:
    states = {} if state is None else {7: state}
    messaged = {} if last is None else {7: last}
    assert count_contacts(messaged, states, NOON, 60) == ContactCounts(*counts)


def test_available_is_what_the_plan_licenses_less_all_that_are_active() -> None:
    states = {1: "active", 2: "active", 3: "inactive", 4: "inactive"}
    counts = count_contacts({3: NOON, 5: NOON}, states, NOON, 60)
    assert counts == ContactCounts(active=4, inactive=1, removed=0)
    assert [counts.available(licensed) for licensed in (10, 4, 3)] == [6, 0, -1]


def test_one_person_is_one_contact_however_the_address_is_written() -> None:
    key = b"hashes"
    assert contact_hash(key, "+14155550100") == contact_hash(key, "14155550100")
    assert contact_hash(key, "Ann@Example.com") == contact_hash(key, "ann@example.com")
    assert contact_hash(key, "+14155550100") != contact_hash(b"other", "+14155550100")
