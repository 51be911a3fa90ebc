"""The shapes of generated messages: countries, languages, gateways and the order of statuses.

Takes a seeded generator; gives templates, each a message's JSON with gaps for identity, instants and numbers.
Texts and number ranges are in `data/sample_traffic.json`; no number is known to belong to anybody.
"""

from importlib.resources import files
from random import Random
from typing import NamedTuple

import msgspec
import orjson

TEMPLATES = 4_096
"""A power of two: the traffic generator picks one with a bit mask."""


class Step(NamedTuple):
    """One record of a message: when it is sent and what it says."""

    sent_after_milliseconds: int
    status_after_milliseconds: int
    status: bytes
    """The JSON between the head and the status instant."""
    with_body: bool


class Template(NamedTuple):
    """A message but for its identity, instants and numbers."""

    head: bytes
    """To be formatted with id, tenant, subscriber number, occurred_at."""
    body: bytes
    """JSON after the status instant; formatted with a token where `has_token`."""
    has_token: bool
    numbers: int
    """Subscriber numbers are 0 to this - 1."""
    lag_milliseconds: int
    offset_minutes: int | None
    """Of the RFC 3339 instants; None for milliseconds."""
    steps: tuple[Step, ...]


class _Country(msgspec.Struct):
    country: str
    weight: int
    prefixes: list[str]
    digits: int
    languages: list[str]


class _Samples(msgspec.Struct):
    countries: list[_Country]
    bodies: dict[str, list[str]]


class _Gateway(NamedTuple):
    source: str
    offset_minutes: int | None
    is_ascii: bool
    counts_itself: bool
    """Whether it sends segments and country instead of the body."""


_GATEWAYS = (
    _Gateway("gateway-eu", None, is_ascii=False, counts_itself=False),
    _Gateway("gateway-us", 0, is_ascii=True, counts_itself=False),
    _Gateway("gateway-tr", 180, is_ascii=False, counts_itself=False),
    _Gateway("carrier-direct", None, is_ascii=True, counts_itself=True),
)
_SENDERS = ("Acme", "MSGMETER", "28500", "+15005550001", "Taverna", "Banka 24")


def make_templates(generator: Random, receipts: float) -> list[Template]:
    """`TEMPLATES` shapes; `receipts` is the share of outbound messages whose statuses come one by one."""
    samples = msgspec.json.decode(
        (files("pipeline.data") / "sample_traffic.json").read_bytes(), type=_Samples
    )
    weights = [country.weight for country in samples.countries]
    return [
        _make_template(generator, samples, country, receipts)
        for country in generator.choices(samples.countries, weights, k=TEMPLATES)
    ]


def _make_template(generator: Random, samples: _Samples, country: _Country, receipts: float) -> Template:
    gateway = generator.choices(_GATEWAYS, (5, 4, 2, 1))[0]
    kind = generator.choices(("sms", "mms", "rcs", "email"), (80, 6, 7, 7))[0]
    direction = "outbound" if kind == "email" or generator.random() < 0.72 else "inbound"
    person = (
        "person-%07d@example.com"
        if kind == "email"
        else f"{generator.choice(country.prefixes)}%0{country.digits}d"
    )
    ours = "news@example.net" if kind == "email" else generator.choice(_SENDERS)
    if direction == "inbound":
        ours = generator.choice(("28500", "+15005550001"))
    to, sender = (person, ours) if direction == "outbound" else (ours, person)
    head = {
        "id": "%b",
        "tenant": "%b",
        "source": gateway.source,
        "kind": kind,
        "direction": direction,
        "to": to,
        "from": sender,
        **_labels(generator, kind, direction),
    }
    if gateway.counts_itself:
        head["country"] = country.country
    body, has_token = _body(generator, samples, country, kind, gateway)
    return Template(
        # The number is formatted third, wherever `to` and `from` put it; instants are not strings everywhere.
        head=orjson.dumps(head)[:-1] + b',"occurred_at":%b',
        body=body,
        has_token=has_token,
        numbers=10 ** min(country.digits, 6),
        lag_milliseconds=generator.randrange(50, 3000),
        offset_minutes=gateway.offset_minutes,
        steps=_steps(generator, kind, direction, receipts),
    )


def _labels(generator: Random, kind: str, direction: str) -> dict[str, str | int]:
    """The optional dimensions, each there for a part of the traffic."""
    labels: dict[str, str | int] = {}
    if direction == "outbound":
        labels["category"] = generator.choices(("campaign", "messaging", "transactional"), (5, 3, 3))[0]
        if labels["category"] == "campaign":
            labels["list"] = f"list-{generator.randrange(6)}"
            labels["campaign"] = f"campaign-{generator.randrange(20)}"
    else:
        labels["inbox"] = f"inbox-{generator.randrange(3)}"
    if generator.random() < 0.3:
        labels["member"] = f"member-{generator.randrange(5)}"
    if kind == "email":
        labels["recipients"] = generator.choice((1, 1, 1, 3, 25))
    return labels


def _body(
    generator: Random, samples: _Samples, country: _Country, kind: str, gateway: _Gateway
) -> tuple[bytes, bool]:
    """The JSON after the status instant up to the end, and whether it takes a token."""
    if gateway.counts_itself and kind == "sms":
        return b',"segments":%d}' % generator.choices((1, 2, 3, 5), (6, 2, 1, 1))[0], False
    text = generator.choice(samples.bodies[generator.choice(country.languages)])
    text = text.replace("{ref}", f"#{generator.randrange(1000)}")
    if generator.random() < 0.01:
        text = " ".join([text, *[text.replace("{n}", "000000")] * generator.randrange(2, 12)])
    encoded = msgspec.json.encode({"body": text})
    if gateway.is_ascii:
        encoded = _ascii(text)
    has_token = b"{n}" in encoded
    if has_token:
        encoded = encoded.replace(b"%", b"%%").replace(b"{n}", b"%06d")
    return b"," + encoded[1:], has_token


def _ascii(text: str) -> bytes:
    """The body with everything beyond ASCII as escapes, astral characters as surrogate pairs."""
    units = memoryview(text.encode("utf-16-be")).cast("B")
    pairs = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    plain = (f"\\u{unit:04x}" if unit > 126 or unit < 32 or unit in (34, 92) else chr(unit) for unit in pairs)
    return ('{"body":"' + "".join(plain) + '"}').encode()


def _steps(generator: Random, kind: str, direction: str, receipts: float) -> tuple[Step, ...]:
    """The records of a message. Statuses mostly come in order; one chain in ten has its receipt first."""
    if direction == "inbound":
        return (_step(0, 0, "received", with_body=True),)
    final = generator.choices(("delivered", "undelivered", "unknown", "failed"), (90, 5, 2, 3))[0]
    if generator.random() >= receipts:
        return (_step(0, 0, generator.choices((final, "sent"), (4, 1))[0], with_body=True),)
    sent_after = generator.randrange(100, 3_000)
    final_after = sent_after + generator.randrange(500, 60_000)
    if final == "failed":
        return (_step(0, 0, "accepted", with_body=True), _step(final_after, final_after, final))
    if generator.random() < 0.1:
        return (
            _step(0, final_after, final),
            _step(200, 0, "accepted", with_body=True),
            _step(900, sent_after, "sent"),
        )
    steps = [
        _step(0, 0, generator.choice(("accepted", "queued")), with_body=True),
        _step(sent_after, sent_after, generator.choice(("sent", "sent", "sending"))),
        _step(final_after, final_after, final),
    ]
    if kind == "rcs" and final == "delivered":
        steps.append(_step(final_after + 5_000, final_after + 5_000, "read"))
    return tuple(steps)


def _step(sent_after: int, status_after: int, status: str, *, with_body: bool = False) -> Step:
    return Step(sent_after, status_after, b',"status":"%b","status_at":' % status.encode(), with_body)
