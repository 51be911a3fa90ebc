"""Rules of `msgmeter segments` and `msgmeter locate`: people get reasons, JSON Lines get JSON Lines."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.explain import locate, segments

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "segments.json").read_text())["vectors"]


def run(command, *arguments, lines=()):
    given = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return CliRunner().invoke(command, arguments, input=given, env={"COLUMNS": "100"})


def answers(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_reference_vectors_pass_through_the_command():
    """Every vector, by its UTF-16 octets, unpaired surrogates included."""
    vectors = [vector for vector in VECTORS if vector["utf16be_hex"] is not None]
    lines = [{"id": vector["id"], "utf16be_hex": vector["utf16be_hex"]} for vector in vectors]
    result = run(segments, "--json", lines=lines)
    assert result.exit_code == 0
    assert result.stderr == ""
    found = [{key: answer[key] for key in ("encoding", "units", "segments")} for answer in answers(result)]
    assert found == [vector["expected"] for vector in vectors]


def test_json_answer_has_the_five_members_in_order():
    """The form others build on."""
    result = run(segments, "--json", lines=[{"id": "a", "text": "it\u2019s"}])
    assert list(answers(result)[0]) == ["id", "encoding", "units", "segments", "reasons"]
    assert answers(result)[0]["reasons"][0].startswith("1 segment because one curly quote (U+2019)")


def test_escaped_half_surrogate_is_counted():
    """What orjson refuses, the standard library reads."""
    result = run(segments, "--json", lines=['{"id":7,"text":"a\\ud83d"}', '{"id":"\\ud83d","text":"a"}'])
    assert [(answer["id"], answer["units"]) for answer in answers(result)] == [(7, 2), ("\ud83d", 1)]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("nonsense", "not JSON"),
        ('{"id":"a","text":NaN}', "not JSON: NaN"),
        ("[1]", "not a JSON object"),
        ('{"text":"a"}', '"id" must be'),
        ('{"id":true,"text":"a"}', '"id" must be'),
        ('{"id":"a"}', 'needs either "text" or "utf16be_hex"'),
        ('{"id":"a","text":"a","utf16be_hex":"0061"}', 'needs either "text" or "utf16be_hex"'),
        ('{"id":"a","text":5}', "are strings"),
        ('{"id":"a","utf16be_hex":"006"}', "in hexadecimal"),
        ('{"id":"a","utf16be_hex":"00"}', "in hexadecimal"),
        ('{"id":"a","text":' + "[" * 100_000, "nested too deep"),
    ],
)
def test_bad_line_is_named_and_the_others_are_answered(line, fault):
    """A fault costs its own line and the exit code, nothing else."""
    result = run(segments, "--json", lines=[{"id": 1, "text": "a"}, line, "", {"id": 3, "text": "b"}])
    assert [answer["id"] for answer in answers(result)] == [1, 3]
    assert result.stderr.startswith("line 2: ")
    assert fault in result.stderr
    assert result.exit_code == 1


def test_line_that_is_not_utf8_is_named():
    """Octets that are no text are a fault of the line."""
    given = b'{"id":1,"text":"\xff"}\n{"id":2,"text":"a"}\n'
    result = CliRunner().invoke(segments, ["--json"], input=given)
    assert [answer["id"] for answer in answers(result)] == [2]
    assert result.stderr.startswith("line 1: not UTF-8 at byte 16")


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ([], "ş", ("UCS-2", 1, 1)),
        (["--national", "turkish"], "ş" * 155, ("GSM-7", 155, 1)),
        (["--national", "turkish", "--shift", "single"], "ş" * 77, ("GSM-7", 154, 1)),
        (["--national", "turkish", "--shift", "locking"], "ş" * 156, ("GSM-7", 156, 2)),
        (["--national", "spanish"], "á", ("GSM-7", 2, 1)),
        (["--reference-bits", "16"], "a" * 305, ("GSM-7", 305, 3)),
        (["--encoding", "UCS-2"], "a" * 71, ("UCS-2", 71, 2)),
        (["--encoding", "8-bit"], "é", ("8-bit", 1, 1)),
    ],
)
def test_options_make_the_profile(options, text, expected):
    """Reference length, national tables and a named coding reach the count."""
    result = run(segments, "--json", *options, lines=[{"id": 1, "text": text}])
    answer = answers(result)[0]
    assert (answer["encoding"], answer["units"], answer["segments"]) == expected


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "Give at least one TEXT"),
        (["--json", "text"], "not both"),
        (["--shift", "single", "a"], "--national"),
        (["--national", "spanish", "--shift", "locking", "a"], "no locking shift table for spanish"),
    ],
)
def test_impossible_arguments_are_a_usage_error(arguments, fault):
    """Exit code 2, a sentence, and no answer."""
    result = run(segments, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert fault in result.stderr


def test_person_sees_text_bars_reasons_and_offenders():
    """Everything a writer needs to make the message cheaper."""
    result = run(segments, "a" * 70 + "\u2019")
    assert result.exit_code == 0
    for shown in (
        "2 segments UCS-2, 71 UTF-16 units",
        "segment 1 \u2588",
        "67 of 67",
        "4 of 67, 63 free",
        "2 segments because one curly quote (U+2019) forced UCS-2; with a straight quote: 1",
        "Right single quotation mark",
    ):
        assert shown in result.stdout


@pytest.mark.parametrize(
    "text", ["", "[bold]x[/bold] :smile:", "a\x1b[31m\x07\u202eb\x00", "\ud83d", "x" * 50_000, "\n" * 500]
)
def test_any_text_can_be_shown(text):
    """Markup is not obeyed, controls are not passed on, long texts are cut."""
    result = run(segments, "--encoding", "8-bit", text)
    assert result.exit_code == 0
    assert not set("\x1b\x07\x00\u202e") & set(result.stdout)
    assert len(result.stdout.splitlines()) < 50
    assert "[bold]x[/bold] :smile:" in result.stdout or "[bold]" not in text


def test_locate_answers_json_lines():
    """Kind, country, prefix and reasons; what has no country has an empty one."""
    result = run(
        locate, "--json", lines=[{"id": 1, "number": "+447797712345"}, {"id": 2, "number": "ACME"}, {"id": 3}]
    )
    first, second = answers(result)
    assert list(first) == ["id", "kind", "country", "prefix", "reasons"]
    assert (first["kind"], first["country"], first["prefix"]) == ("e164", "JE", "447797")
    assert (second["kind"], second["country"], second["prefix"]) == ("alphanumeric", "", "")
    assert result.stderr.startswith('line 3: "number" must be a string')
    assert result.exit_code == 1


def test_locate_explains_numbers_to_a_person():
    """One row for each number."""
    result = run(locate, "+14155550123", "12345", "")
    assert result.exit_code == 0
    for shown in ("+1415 is US", "short code", "none", "(empty)"):
        assert shown in result.stdout


def test_locate_needs_a_number():
    """Nothing to explain is a usage error."""
    assert run(locate).exit_code == 2
    assert run(locate, "--json", "+14155550123").exit_code == 2
