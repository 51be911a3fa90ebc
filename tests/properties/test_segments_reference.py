"""The fast counter against a slow one that packs characters into segments one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.alphabets import BASIC, EXTENSION
from pipeline.core.segments import measure, measure_as, profile

LIMITS = {  # Copied from the standard, not from the code: (coding, reference bits) -> (single, part).
    ("GSM-7", 8): (160, 153),
    ("GSM-7", 16): (160, 152),
    ("UCS-2", 8): (70, 67),
    ("UCS-2", 16): (70, 66),
    ("8-bit", 8): (140, 134),
    ("8-bit", 16): (140, 133),
}


def packed(costs, single, part):
    """Pack indivisible costs into segments in order; give how many segments were opened."""
    if sum(costs) <= single:
        return 1
    segments, used = 1, 0
    for cost in costs:
        if used + cost > part:
            segments, used = segments + 1, 0
        used += cost
    return segments


def is_gsm7(body):
    return all(character in BASIC or character in EXTENSION for character in body)


def gsm7_costs(body):
    return [2 if character in EXTENSION else 1 for character in body]


def utf16_costs(body):
    """One cost for each character, two halves that meet being one character."""
    costs, previous = [], ""
    for character in body:
        if "\ud800" <= previous <= "\udbff" and "\udc00" <= character <= "\udfff":
            costs[-1], previous = 2, ""
            continue
        costs.append(2 if character > "\uffff" else 1)
        previous = character
    return costs


def slow(body, reference_bits):
    coding = "GSM-7" if is_gsm7(body) else "UCS-2"
    costs = gsm7_costs(body) if coding == "GSM-7" else utf16_costs(body)
    return coding, packed(costs, *LIMITS[coding, reference_bits])


# Long runs of equal characters reach the boundaries; the mix decides where pairs fall on them.
def runs(characters):
    return st.lists(st.tuples(st.sampled_from(characters), st.integers(1, 170)), max_size=8).map(
        lambda pieces: "".join(character * count for character, count in pieces)
    )


ANY_CHARACTER = st.characters(exclude_categories=())
BODIES = st.one_of(
    runs([*BASIC[:12], *EXTENSION]),
    runs(["a", "\u20ac", "\u2019", "\U0001f600", "\ud83d", "\ude00"]),
    st.text(ANY_CHARACTER, max_size=300),
    st.text(st.sampled_from(BASIC + EXTENSION), min_size=140, max_size=700),
    st.text(st.sampled_from("a\u4f60\U0001f600\ud83d\ude00"), min_size=60, max_size=400),
)
REFERENCE_BITS = st.sampled_from([8, 16])
TABLES = st.sampled_from(
    [("turkish", ""), ("", "turkish"), ("turkish", "turkish"), ("spanish", ""), ("portuguese", "portuguese")]
)


@settings(max_examples=600)
@given(BODIES, REFERENCE_BITS)
def test_fast_count_equals_the_slow_one(body, reference_bits):
    """Shortcuts and boundary walks change no answer."""
    assert measure(body, profile(reference_bits)) == slow(body, reference_bits)


@given(BODIES, REFERENCE_BITS)
def test_named_codings_equal_the_slow_count(body, reference_bits):
    """Forced codings pack the same way."""
    how = profile(reference_bits)
    as_octets = body.encode("latin-1" if all(c <= "\xff" for c in body) else "utf-8", "surrogatepass")
    replaced = [cost if is_gsm7(c) else 1 for c, cost in zip(body, gsm7_costs(body), strict=True)]
    expected = {
        "UCS-2": packed(utf16_costs(body), *LIMITS["UCS-2", reference_bits]),
        "8-bit": packed([1] * len(as_octets), *LIMITS["8-bit", reference_bits]),
        "GSM-7": packed(replaced, *LIMITS["GSM-7", reference_bits]),
    }
    assert {coding: measure_as(coding, body, how)[1] for coding in expected} == expected


@given(st.text(st.sampled_from("a€[èØçşığãõúÁΦ|\n"), max_size=700), TABLES, REFERENCE_BITS)
def test_national_tables_never_cost_more(body, tables, reference_bits):
    """A sender that may use tables pays no more than one that may not, and GSM-7 no more than UCS-2."""
    segments = measure(body, profile(reference_bits, *tables))[1]
    assert segments <= measure(body, profile(reference_bits))[1]
    assert segments <= measure_as("UCS-2", body, profile(reference_bits))[1]


@given(BODIES)
def test_a_longer_body_never_needs_fewer_segments_in_the_same_coding(body):
    """Cutting the tail off can only save."""
    for coding in ("GSM-7", "UCS-2", "8-bit"):
        # A shorter body may change the octets of an 8-bit one from UTF-8 to Latin-1, which only saves too.
        assert measure_as(coding, body[:-1])[1] <= measure_as(coding, body)[1]
