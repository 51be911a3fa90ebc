"""Credits are read and written exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.amounts import MAX_MONEY_MICROS, MICROS, format_credits, money_for, parse_credits

TEXTS = [
    ("18500", 18_500_000_000, "18500"),
    ("0.03", 30_000, "0.03"),
    ("-0.03", -30_000, "-0.03"),
    ("+2.5", 2_500_000, "2.5"),
    ("0.000001", 1, "0.000001"),
    ("-0.000001", -1, "-0.000001"),
    ("10.100000", 10_100_000, "10.1"),
    ("007", 7_000_000, "7"),
    ("0", 0, "0"),
    ("-0", 0, "0"),
    ("100", 100_000_000, "100"),
    ("999999999999.999999", 10**18 - 1, "999999999999.999999"),
]


@pytest.mark.parametrize(("text", "micros", "written"), TEXTS)
def test_text_is_read_and_written_exactly(text: str, micros: int, written: str) -> None:
    assert parse_credits(text) == micros
    assert format_credits(micros) == written


NOT_AMOUNTS = [
    *("", "-", ".", ".5", "5.", "1e3", "1,5", "1_000", " 1", "1 ", "1\n", "0x1", "--1", "NaN", "inf"),
    *("1.0000001", "1000000000000", "\N{ARABIC-INDIC DIGIT ONE}", "\N{SUPERSCRIPT TWO}"),
]


@pytest.mark.parametrize("text", NOT_AMOUNTS)
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="6 decimals, such as") as refusal:
        parse_credits(text)
    assert repr(text) in str(refusal.value)


def test_refusal_never_repeats_a_long_text() -> None:
    with pytest.raises(ValueError, match="…") as refusal:
        parse_credits("9" * 100_000)
    assert len(str(refusal.value)) < 200


@given(st.integers(-(10**18) + 1, 10**18 - 1))
def test_writing_and_reading_give_the_same_amount(micros: int) -> None:
    assert parse_credits(format_credits(micros)) == micros


@given(st.integers(-(10**6), 10**6))
def test_whole_credits_are_written_without_decimals(count: int) -> None:
    assert format_credits(count * MICROS) == str(count)


@pytest.mark.parametrize(
    ("credits_micros", "price_micros", "money_micros"),
    [
        (1, 500_000, 1),
        (1, 499_999, 0),
        (-1, 500_000, -1),
        (10**18, MICROS, 10**18),
        (10**18, MICROS + 1, MAX_MONEY_MICROS),
        (2 * 10**18, 10**18, MAX_MONEY_MICROS),
        (-2 * 10**18, 10**18, -MAX_MONEY_MICROS),
    ],
)
def test_money_rounds_halves_away_from_zero_and_stays_within_its_bound(
    credits_micros: int, price_micros: int, money_micros: int
) -> None:
    assert money_for(credits_micros, price_micros) == money_micros
