"Notebooks, package, README and published tables say the same"

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_notebooks import NOTEBOOKS

from qebias.readme import readme


@pytest.fixture(scope="module")
def exported(root, tmp_path_factory):
    "The checkout's notebooks, cleaned and exported anew in another place"
    copy = tmp_path_factory.mktemp("copy")
    for name in ("settings.ini", "pyproject.toml", "setup.py", "README.md"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    bin = Path(sys.executable).parent
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run(
            [bin / command], cwd=copy, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""}
        )
    return copy


def sources(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in folder.rglob("*.py")
        if "__pycache__" not in p.parts
    }


def test_package_is_what_the_notebooks_export(root, exported):
    ours, theirs = sources(root / "qebias"), sources(exported / "qebias")
    theirs.setdefault("__init__.py", ours["__init__.py"])
    assert sorted(ours) == sorted(theirs), "modules without a notebook, or notebooks that were not exported"
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_notebooks_are_clean(root, exported):
    dirty = [
        p.relative_to(root).as_posix()
        for p in (root / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
        and p.read_text() != (exported / p.relative_to(root)).read_text()
    ]
    assert dirty == []


def test_no_output_names_a_machine():
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        for part in ("/site-packages/IPython", "lib/python3", "/home/", "/root/", "/work/"):
            assert part not in text, f"{path}: run it again, an output holds {part}"


def test_readme_is_made_from_the_index(root):
    text = (root / "README.md").read_text()
    assert text == readme()
    assert len(text.encode()) <= 12_000
    shown = re.findall(
        r"!\[[^]]+\]\((?:https://raw.githubusercontent.com/qebias/qebias/main/)([^)]+)\)", text
    )
    assert len(shown) >= 3 and all((root / name).is_file() for name in shown)


def test_readme_holds_the_two_commands_word_for_word(root):
    text = (root / "README.md").read_text()
    for command in ('pip install -e ".[dev]" && qebias study demo', 'pip install -e ".[dev]" && pytest'):
        assert f"\n{command}\n" in text


def test_parameters_tag_survives_cleaning(root, exported):
    for notebook in sorted((exported / "nbs" / "study").rglob("*.ipynb")):
        tagged = [c for c in nbformat.read(notebook, 4).cells if "parameters" in c.metadata.get("tags", [])]
        assert len(tagged) == 1, notebook.name


def test_imports_go_one_way(root):
    """A module imports from notebooks before it only: in an earlier part of the book, or with a lower number
    in its own"""
    import ast

    number = {}
    for place, notebook in enumerate(NOTEBOOKS):
        number[notebook.stem.partition("_")[2]] = place
    for name in number:
        path = root.joinpath("qebias", *name.split(".")).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = name.split(".")[: -node.level]
                imported = ".".join([*base, *([node.module] if node.module else [])])
                for found in (
                    [imported]
                    if imported in number
                    else [f"{imported}.{a.name}".lstrip(".") for a in node.names]
                ):
                    if found in number:
                        assert number[found] < number[name], f"{name} imports {found}"
