"""Credits as integers: decimal text in, micro-credits inside, exact decimal text out.

One credit is 1 000 000 micro-credits. Text is the only other form an amount has: JSON numbers are read as
floats by most programs, so documents carry credits as strings. Money is the same in micro-units of its currency.
Micro-credits per unit times a whole number of units is exact; only `money_for` rounds, and nothing else does.

Amounts stay below 10**12 credits, that is 10**18 micro-credits, so that they fit ClickHouse's Int64.
"""

import re

MICROS = 1_000_000
"""Micro-credits in one credit."""
MAX_MONEY_MICROS = 10**12 * MICROS
"""What no price times credits comes to more than: a trillion units of any currency."""

_CREDITS = re.compile(r"([+-]?)([0-9]{1,12})(?:\.([0-9]{1,6}))?")


def parse_credits(text: str) -> int:
    """Read a decimal string as micro-credits; never round.

    Raise ValueError, fit to be shown to whoever wrote the text, for anything but an optional sign, 1 to 12
    digits and at most 6 decimals: no exponent, no spaces, no separators, no digits of other scripts.
    """
    match = _CREDITS.fullmatch(text)
    if match is None:
        shown = repr(text if len(text) <= 40 else text[:40] + "…")
        raise ValueError(
            f'{shown} is not an amount of credits: write at most 12 digits and 6 decimals, such as "0.03"'
        )
    sign, whole, decimals = match.groups()
    micros = int(whole) * MICROS + int((decimals or "").ljust(6, "0"))
    return -micros if sign == "-" else micros


def format_credits(micros: int) -> str:
    """Write the shortest decimal string that `parse_credits` reads back, such as "18500" or "-0.03"."""
    whole, rest = divmod(abs(micros), MICROS)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def money_for(credits_micros: int, price_micros: int) -> int:
    """What credits cost at a price per credit, in micro-units of money: halves round away from zero.

    Never above `MAX_MONEY_MICROS`, so that it fits an Int64 whatever the price: a trillion units is no bill that
    anybody pays, and whoever gets it sees that the price is wrong.
    """
    product = abs(credits_micros) * price_micros
    rounded = min((product + MICROS // 2) // MICROS, MAX_MONEY_MICROS)
    return -rounded if credits_micros < 0 else rounded
