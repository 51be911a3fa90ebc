"""The list of protections stays true: `make protections` takes each away and sees its test fail."""

import pytest

from tests.protections.listed import PROTECTIONS
from tests.protections.protection import ROOT, Protection


@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: each.fault)
def test_what_is_to_be_taken_away_is_there_and_so_is_its_test(protection: Protection) -> None:
    for edit in protection.edits:
        assert edit.fits(), f"{edit.file} has not, once:\n{edit.old}"
    file, _, name = protection.test.partition("::")
    assert (
        f"def {name.partition('[')[0]}(" in (ROOT / file).read_text("utf-8")
        if name
        else (ROOT / file).exists()
    )
