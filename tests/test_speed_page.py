"The speeds of the README stand on the speed page, which names a script that is there for each table"

import re

import pytest
from conftest import ROOT

PAGE = (ROOT / "nbs" / "pages" / "speed.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def paragraph():
    return next(line for line in README.splitlines() if line.startswith("**Speed.**"))


@pytest.mark.quick
def test_every_factor_of_the_readme_stands_on_the_speed_page():
    factors = re.findall(r"([\d.,]*\d)x", paragraph())
    assert len(factors) >= 5 and "pages/speed.md" in paragraph()
    for factor in factors:
        assert re.search(rf"(?<![\d.,]){re.escape(factor)}\d?x", PAGE), factor


@pytest.mark.quick
def test_scripts_that_the_page_names_are_there():
    named = set(re.findall(r"`(\w+\.py)[ `]", PAGE))
    assert {"bpg.py", "frechet.py", "inference.py", "step.py", "startup.py"} <= named
    for name in named:
        assert (ROOT / "tests" / "benchmarks" / name).exists(), name


@pytest.mark.quick
def test_words_of_the_page():
    assert "stage 1" not in PAGE and "945" not in PAGE
