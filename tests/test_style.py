"How the code reads, where a sentence can be held by a test; the figures are `tests/benchmarks/style.py`'s"

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "benchmarks"))

from style import figures, modules

pytestmark = pytest.mark.quick
NOT_ANNOTATED: set = set()  # `module.py:function` of public functions that are excused, with a reason each


def public(body, owner=""):
    "The public functions of a module or class, as (name, node)"
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body, f"{node.name}.")
        named = isinstance(node, ast.FunctionDef)
        if named and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
            yield owner + node.name, node


def missing(node):
    "The arguments of a function that have no annotation, and `return` where that has none"
    a = node.args
    rest = [x for x in (a.vararg, a.kwarg) if x]
    arguments = [x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, *rest) if x.arg not in ("self", "cls")]
    found = [x.arg for x in arguments if x.annotation is None]
    return found + (["return"] if node.returns is None and node.name != "__init__" else [])


def test_public_signatures_are_annotated():
    found = {}
    for path in modules():
        for name, node in public(ast.parse(path.read_text(encoding="utf-8")).body):
            where = f"{path.relative_to(ROOT / 'qebias').as_posix()}:{name}"
            if missing(node):
                found[where] = missing(node)
    assert set(found) == NOT_ANNOTATED, found


def test_a_function_without_annotations_would_be_seen():
    module = ast.parse("class A:\n    def f(self, x, *, y: int = 0): ...\n    def _g(self, x): ...")
    assert [(name, missing(node)) for name, node in public(module.body)] == [("A.f", ["x", "return"])]


def test_the_type_checker_excuses_no_module():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert told["files"] == ["qebias"] and "overrides" not in told and "exclude" not in told
    ignored = [path for path in modules() if "type: ignore\n" in path.read_text(encoding="utf-8")]
    assert not ignored  # each ignored line names its error


def test_the_figures_stay_within_their_limits():
    found = figures()
    assert found["private functions, %"] < 20
    assert found["over 100 characters, %"] < 5.5
    assert found["nested comprehensions per 100 lines"] < 0.3
    assert found["lines of an export cell, median"] <= 12
    assert found["lines of an export cell, ninth tenth"] <= 30
    assert found["lines of an export cell, most"] <= 60


def test_workflows_forms_and_citation_can_be_read_and_name_what_is_there():
    "YAML that GitHub reads, and nobody else does before a push: its scripts, tests and extras exist"
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert told, path.name
        if path.parent.name == "ISSUE_TEMPLATE":
            assert told["name"] and told["description"]
            assert all(part["type"] and part["attributes"]["label"] for part in told["body"]), path.name
        for job in told.get("jobs", {}).values():
            assert all("uses" in step or "run" in step for step in job["steps"]), path.name
            for run in (step.get("run", "") for step in job["steps"]):
                for named in re.findall(r"(?:^|\s)(\.ci/\w+|tests/\w+\.py)", run):
                    assert (ROOT / named).is_file(), f"{path.name}: {named}"
                for target in re.findall(r"\bmake (\w+)", run):
                    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
                for extra in re.findall(r'-e "?\.\[([\w,]+)\]', run):
                    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
                    assert all(f"\n{name}_requirements = " in settings for name in extra.split(","))
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r"^version = (.+)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)
    assert cited["version"] == version[1] and cited["references"][0]["type"] == "conference-paper"
