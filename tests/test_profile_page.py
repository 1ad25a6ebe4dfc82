"The page of commands and profiles names every key that a profile and a training can have, and no other"

import re

import pytest
from conftest import ROOT

from qebias.study.profile import Profile, Setting

PAGE = (ROOT / "nbs" / "pages" / "profiles.md").read_text(encoding="utf-8")


def described(heading: str) -> set[str]:
    "Keys in the first column of the table under a sentence"
    table = PAGE.split(heading, 1)[1].split("| --- | --- |", 1)[1].split("\n\n", 1)[0]
    first = [line.split("|")[1] for line in table.strip().splitlines()]
    return set(re.findall(r"`(\w+)`", " ".join(first)))


@pytest.mark.quick
def test_every_key_of_a_profile_is_described_and_no_other():
    assert described("### What a profile can say") == set(Profile.model_fields)


@pytest.mark.quick
def test_every_key_of_a_training_is_described_and_no_other():
    assert described("Under `training`, for a stage") == set(Setting.model_fields)
