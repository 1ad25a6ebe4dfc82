"The speeds of the README stand on the speed page, which names a script that is there for each table"

import ast
import importlib.util
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


def imports_of(path):
    "What a script takes from the package, as (module, name)"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qebias"):
            yield from ((node.module, alias.name) for alias in node.names)


def is_there(module, name):
    "Does the package have this name, or this module?"
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_what_a_script_takes_from_the_package_is_there(path):
    "Nothing runs the scripts but a person: one timed a command that had long done nothing"
    assert [found for found in imports_of(path) if not is_there(*found)] == []
