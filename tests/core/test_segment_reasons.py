"""Rules of explaining a count: who is to blame, what would be cheaper, and that it agrees with the count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.alphabets import BASIC, EXTENSION
from pipeline.core.segment_reasons import explain_segments
from pipeline.core.segments import measure, measure_as, profile
from pipeline.core.substitutes import plain


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("", "1 segment: an empty body that was sent is one (GSM-7)"),
        ("hello", "1 segment: 5 of 160 septets in GSM-7"),
        ("a" * 161, "2 segments: 161 septets in GSM-7, 153 to a segment"),
        (
            "a" * 200 + "\u2019",
            ("3 segments because one curly quote (U+2019) forced UCS-2; with a straight quote: 2"),
        ),
        (
            "\u201cHi\u201d it\u2019s",
            (
                "1 segment because three curly quotes (U+201C, U+201D, U+2019) forced UCS-2;"
                " with straight quotes: still 1, in GSM-7"
            ),
        ),
        (
            "a" * 100 + "\u2026 \U0001f389\U0001f389",
            (
                "2 segments because one ellipsis (U+2026) and two emoji (U+1F389) forced UCS-2;"
                " with three full stops and without the emoji: 1"
            ),
        ),
        ("a" * 80 + "\t", "2 segments because one tab (U+0009) forced UCS-2; with a space: 1"),
        (
            "a" * 80 + "\u00e7",
            ("2 segments because one accented letter (U+00E7) forced UCS-2; with an unaccented letter: 1"),
        ),
        (
            "a" * 80 + "\ud83d",
            (
                "2 segments because one unpaired surrogate (U+D83D) forced UCS-2;"
                " without the unpaired surrogate: 1"
            ),
        ),
        (
            "a" * 80 + "\u043f",
            ("2 segments because one Cyrillic character (U+043F) forced UCS-2; without it: 1"),
        ),
        (
            "\u043f\u0440\u0438\u0432\u0435\u0442" * 12,
            (
                "2 segments because 72 Cyrillic characters (U+043F, U+0440, U+0438, U+0432, \u2026)"
                " forced UCS-2; GSM-7 has no plainer spelling of them"
            ),
        ),
        (
            "\u2019\u2014\u2026`" + "a" * 80,
            (
                "2 segments because one curly quote (U+2019), one dash (U+2014), one ellipsis (U+2026)"
                " and one other character forced UCS-2;"
                " with a straight quote, with a hyphen and with three full stops: 1"
            ),
        ),
    ],
)
def test_verdict_names_the_culprit_and_the_cheaper_way(body, verdict):
    """The first reason is the one a customer reads."""
    assert explain_segments(body).reasons[0] == verdict


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("[\u20ac]", "three characters take two septets each: [, \u20ac, ]"),
        ("a\f", "one character takes two septets: U+000C"),
        ("a" * 161, "longer than 160 septets, so every segment gives 7 of them to a header"),
        ("\u4f60" * 71, "longer than 70 UTF-16 units, so every segment gives 3 of them to a header"),
        (
            "a" * 152 + "\u20ac" + "a" * 7,
            ("1 septet left empty, because an escape pair is never split over two segments"),
        ),
        (
            "\U0001f600" * 100,
            ("3 UTF-16 units left empty, because a surrogate pair is never split over two segments"),
        ),
        ("a" * 153 * 256, "more than 255 segments cannot be one message: refused as too_many_segments"),
    ],
)
def test_packing_is_explained(body, reason):
    """Whatever costs septets or segments without being visible has its sentence."""
    assert reason in explain_segments(body).reasons


def test_nothing_is_said_about_a_limit_that_is_kept():
    """255 segments are allowed."""
    assert not any("too_many_segments" in reason for reason in explain_segments("a" * 153 * 255).reasons)


def test_named_coding_is_explained():
    """The sender's word is taken, and what the body alone would cost is told."""
    assert explain_segments("it\u2019s", encoding="GSM-7").reasons == (
        "1 segment: 4 of 160 septets in GSM-7",
        "GSM-7 is what the sender named; left to the body it would be 1 segment in UCS-2",
        "one character is not in GSM-7: counted as one replacement septet",
    )
    assert explain_segments("hello", encoding="UCS-2").reasons == (
        "1 segment: 5 of 70 UTF-16 units in UCS-2",
        "UCS-2 is what the sender named; left to the body it would be 1 segment in GSM-7",
    )


def test_national_table_is_explained():
    """A table costs a header, and its characters two septets."""
    assert explain_segments("şey", profile(8, "turkish")).reasons == (
        "1 segment: 4 of 155 septets in GSM-7",
        "written with the Turkish single shift table, whose header leaves 155 septets",
        "one character takes two septets: ş",
    )


def test_only_what_no_allowed_table_holds_is_blamed():
    """With the Turkish table the s cedilla is innocent."""
    found = explain_segments("şey \u2019", profile(8, "turkish")).offences
    assert [offence.characters for offence in found] == [("\u2019",)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u201cit\u2019s\u201d \u2014 ok\u2026", '"it\'s" - ok...'),
        ("e\u0301 o\u0301", "\u00e9 o"),
        ("\ufb01ne \u2126 \uff21 \u0391\u2122", "fine \u03a9 A ATM"),
        ("a\u200db\ufeff\u00adc\0", "abc"),
        ("a\u00a0b\u3000c\td", "a b c d"),
        ("\u0141\u00f3d\u017a", "L\u00f3d\u017a".replace("\u00f3", "o").replace("\u017a", "z")),
        ("hi \U0001f468\u200d\U0001f469", "hi "),
    ],
)
def test_plain_text_keeps_what_it_can(text, expected):
    """Quotes, dashes, spaces and accents have plain forms; the rest is left out."""
    assert plain(text) == expected


BODIES = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=200),
    st.text(st.sampled_from("a\u20ac[\u2019\u4f60\U0001f600\ud83d\ude00\u015f"), max_size=500),
)


@given(BODIES, st.sampled_from([8, 16]), st.sampled_from(["", "turkish", "spanish"]))
def test_explanation_agrees_with_the_count(body, reference_bits, language):
    """Coding, segments, units and parts are those of the fast counter, for every coding."""
    how = profile(reference_bits, language)
    for encoding in ("", "GSM-7", "UCS-2", "8-bit"):
        found = explain_segments(body, how, encoding)
        assert (found.encoding, found.segments) == (
            measure_as(encoding, body, how) if encoding else measure(body, how)
        )
        assert (len(found.parts), sum(found.parts)) == (found.segments, found.units)
        assert bool(found.offences) == (not encoding and found.encoding == "UCS-2")
        "".join(found.reasons).encode()


@given(BODIES)
def test_plain_text_is_gsm7(text):
    """The remedy works for whatever was written."""
    assert set(plain(text)) <= set(BASIC + EXTENSION)
