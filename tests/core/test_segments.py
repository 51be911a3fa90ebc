"""Rules of counting segments: codings, limits, boundaries, forced codings, national tables."""

import json
from pathlib import Path

import pytest

from pipeline.core.alphabets import BASIC, EXTENSION, alphabet
from pipeline.core.segments import (
    DEFAULT_PROFILE,
    MAX_SEGMENTS,
    Limits,
    cut_septets,
    cut_utf16,
    limits,
    measure,
    measure_as,
    octets,
    profile,
    utf16,
)

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "segments.json").read_text())["vectors"]
# Three long vectors come without their text; their names and unit counts say what it is.
TEXT_OF_LONG_VECTORS = {"gsm_459": "a" * 459, "gsm_460": "a" * 460, "ucs_17085": "\u4f60" * 17085}

EMOJI = "\U0001f600"


def text_of(vector):
    encoded = vector["utf16be_hex"]
    if encoded is None:
        return TEXT_OF_LONG_VECTORS[vector["id"]]
    return bytes.fromhex(encoded).decode("utf-16-be", "surrogatepass")


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_every_reference_vector_is_met(vector):
    """Coding, segments and units are those of the reference values."""
    body, expected = text_of(vector), vector["expected"]
    spelling = DEFAULT_PROFILE.alphabets[0][0]
    units = spelling.septets(body) if expected["encoding"] == "GSM-7" else len(utf16(body)) // 2
    assert (*measure(body), units) == (expected["encoding"], expected["segments"], expected["units"])


@pytest.mark.parametrize(
    ("unit_bits", "reference_bits", "header_octets", "single", "part"),
    [
        (7, 8, 0, 160, 153),
        (7, 16, 0, 160, 152),
        (7, 8, 3, 155, 149),
        (7, 16, 3, 155, 148),
        (7, 8, 6, 152, 146),
        (7, 16, 6, 152, 145),
        (8, 8, 0, 140, 134),
        (8, 16, 0, 140, 133),
        (16, 8, 0, 70, 67),
        (16, 16, 0, 70, 66),
    ],
)
def test_limits_are_those_of_the_standard(unit_bits, reference_bits, header_octets, single, part):
    """The formula gives every published limit."""
    assert limits(unit_bits, reference_bits, header_octets) == Limits(single, part)


def test_empty_body_is_one_segment():
    """What was sent is billed, even if it says nothing."""
    assert measure("") == ("GSM-7", 1)
    assert [measure_as(encoding, "") for encoding in ("GSM-7", "UCS-2", "8-bit")] == [
        ("GSM-7", 1),
        ("UCS-2", 1),
        ("8-bit", 1),
    ]


def test_alphabet_has_127_basic_and_10_extension_characters():
    """ESC is the 128th code and belongs to neither."""
    assert (len(set(BASIC)), len(set(EXTENSION)), set(BASIC) & set(EXTENSION)) == (127, 10, set())
    assert "\x1b" not in BASIC + EXTENSION


@pytest.mark.parametrize(
    "character", "`\u00e7\u00e1\u00ed\u00f3\u00fa\u00a0\t\0\x1b\u2019\u2014\u2026\u2126\u0391\u0301\ufeff"
)
def test_one_character_outside_the_alphabet_makes_the_message_ucs2(character):
    """160 characters that would fit one GSM-7 segment need three in UCS-2."""
    assert measure("a" * 159) == ("GSM-7", 1)
    assert measure("a" * 159 + character) == ("UCS-2", 3)


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        ("a" * 160, [160]),
        ("a" * 152 + "\u20ac" + "a" * 7, [152, 9]),
        ("a" * 151 + "\u20ac" + "a" * 153, [153, 153]),
        ("[" * 153, [152, 152, 2]),
    ],
)
def test_escape_pair_is_never_split(body, sizes):
    """The unit before a pair that does not fit stays empty."""
    spelling, room = DEFAULT_PROFILE.alphabets[0]
    assert cut_septets(spelling.spell(body), room) == sizes
    assert measure(body) == ("GSM-7", len(sizes))


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        ("a" * 66 + EMOJI + "a" * 66, [66, 67, 1]),
        ("a" * 67 + EMOJI + "a" * 65, [67, 67]),
        ("a" * 66 + "\ud83d" + "a" * 67, [67, 67]),
        ("a" * 66 + "\ud83d\ude00" + "a" * 66, [66, 67, 1]),
        ("a" * 66 + "\ude00\ud83d" + "a" * 66, [67, 67]),
    ],
    ids=["straddles", "fits", "unpaired half", "halves given apart", "halves swapped"],
)
def test_surrogate_pair_is_never_split_but_an_unpaired_half_is_one_unit(body, sizes):
    """Only a high half followed by a low half is a pair."""
    assert cut_utf16(utf16(body), DEFAULT_PROFILE.utf16) == sizes
    assert measure(body) == ("UCS-2", len(sizes))


def test_flag_is_split_between_its_pairs():
    """Grapheme clusters are not kept whole: only surrogate pairs are."""
    assert measure("a" * 65 + "\U0001f1e9\U0001f1ea" + "a" * 65) == ("UCS-2", 2)


def test_count_stays_honest_above_the_limit():
    """The caller refuses what lies above 255; it learns by how much."""
    assert measure("a" * 153 * MAX_SEGMENTS) == ("GSM-7", 255)
    assert measure("a" * (153 * MAX_SEGMENTS + 1)) == ("GSM-7", 256)
    assert measure("\u4f60" * 67 * 300) == ("UCS-2", 300)


def test_sixteen_bit_reference_takes_an_octet_more():
    """The longer header shows only in concatenated messages."""
    wide = profile(reference_bits=16)
    assert [measure("a" * n, wide)[1] for n in (160, 161, 304, 305)] == [1, 2, 2, 3]
    assert [measure("\u4f60" * n, wide)[1] for n in (70, 71, 132, 133)] == [1, 2, 2, 3]
    assert [measure_as("8-bit", "a" * n, wide)[1] for n in (140, 141, 266, 267)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("encoding", "body", "segments"),
    [
        ("UCS-2", "a" * 70, 1),
        ("UCS-2", "a" * 71, 2),
        ("UCS-2", "\u20ac" * 70, 1),
        ("8-bit", "a" * 140, 1),
        ("8-bit", "a" * 141, 2),
        ("8-bit", "\u00ff\0" * 134, 2),
        ("8-bit", "\u4f60" * 46, 1),
        ("8-bit", "\u4f60" * 47, 2),
        ("GSM-7", "a" * 160, 1),
        ("GSM-7", "\u20ac" * 81, 2),
        ("GSM-7", "\u2019" + "a" * 159, 1),
        ("GSM-7", "\u2019" + "a" * 160, 2),
        ("GSM-7", EMOJI * 160, 1),
    ],
)
def test_named_coding_is_believed(encoding, body, segments):
    """An event that names its coding is counted in it; what GSM-7 lacks counts as one replaced septet."""
    assert measure_as(encoding, body) == (encoding, segments)


def test_unknown_coding_is_an_error():
    """Decoding refuses it long before; here it is a bug."""
    with pytest.raises(ValueError, match="EBCDIC"):
        measure_as("EBCDIC", "a")


def test_octets_are_latin1_where_possible_and_utf8_otherwise():
    """An unpaired surrogate is three octets and no error."""
    assert octets("\u00e9") == b"\xe9"
    assert octets("\u00e9\u20ac") == b"\xc3\xa9\xe2\x82\xac"
    assert len(octets("\ud83d")) == 3


@pytest.mark.parametrize(
    ("single_shift", "locking_shift", "body", "expected"),
    [
        ("turkish", "", "ş" * 77, ("GSM-7", 1)),
        ("turkish", "", "ş" * 78, ("GSM-7", 2)),
        ("", "turkish", "ş" * 155, ("GSM-7", 1)),
        ("", "turkish", "ş" * 156, ("GSM-7", 2)),
        ("turkish", "turkish", "ş" * 155, ("GSM-7", 1)),
        ("", "turkish", "è" + "ş", ("UCS-2", 1)),
        ("spanish", "", "á" * 74 * 2, ("GSM-7", 2)),
        ("spanish", "", "á" * 74 * 2 + "a", ("GSM-7", 2)),
        ("spanish", "", "á" * 74 * 2 + "aa", ("GSM-7", 3)),
        ("portuguese", "portuguese", "ã" * 155, ("GSM-7", 1)),
        ("portuguese", "portuguese", "ã" * 76 + "Φ" * 38, ("GSM-7", 1)),
        ("portuguese", "portuguese", "ã" * 76 + "Φ" * 39, ("GSM-7", 2)),
        ("turkish", "turkish", "ş\u2019", ("UCS-2", 1)),
    ],
)
def test_national_tables_give_what_their_headers_leave(single_shift, locking_shift, body, expected):
    """155/149 with one table, 152/146 with both; the sender takes what is cheapest."""
    assert measure(body, profile(8, single_shift, locking_shift)) == expected


def test_national_tables_are_not_used_where_the_default_alphabet_is_enough():
    """The full 160 septets stay available under a national profile."""
    assert measure("a" * 160, profile(8, "turkish", "turkish")) == ("GSM-7", 1)


def test_locking_shift_is_taken_when_it_saves_segments():
    """The euro sign is one septet in the Turkish locking table: 100 of them fit one segment."""
    assert measure("\u20ac" * 100) == ("GSM-7", 2)
    assert measure("\u20ac" * 100, profile(8, "", "turkish")) == ("GSM-7", 1)


@pytest.mark.parametrize("language", ["turkish", "spanish", "portuguese"])
def test_single_shift_tables_keep_the_default_extension(language):
    """Every national single shift table contains the ten default extension characters."""
    assert set(EXTENSION) < set(alphabet(single_shift=language).two)


def test_locking_shift_tables_have_127_distinct_characters_without_escape():
    """What replaces a character stands in exactly one place."""
    for language in ("turkish", "portuguese"):
        one = alphabet(locking_shift=language).one
        assert (len(one), len(set(one)), "\x1b" in one) == (127, 127, False)


def test_unknown_language_is_an_error():
    """There is no locking shift table for Spanish."""
    with pytest.raises(KeyError):
        profile(8, "", "spanish")
