"Every link that is written leads somewhere: README, notebooks, pages"

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

HOME = "https://github.com/qebias/qebias/blob/main/"
TREE = "https://github.com/qebias/qebias/tree/main/"
SERVED = "https://raw.githubusercontent.com/qebias/qebias/main/"
COLAB = "https://colab.research.google.com/github/qebias/qebias/blob/main/"
BINDER = "https://mybinder.org/v2/gh/qebias/qebias/main?labpath="
PAGES = [
    *ROOT.glob("*.md"),
    *(
        p
        for p in (ROOT / "nbs").rglob("*")
        if p.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in p.parts
    ),
]


def prose(path):
    "What a page says in Markdown, without its code"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        said = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        for cell in cells:
            for output in cell.get("outputs", []):
                said.append("".join(output.get("data", {}).get("text/markdown", [])))
        text = "\n\n".join(said)
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def targets(text):
    "Addresses of links and pictures"
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:href|src)="([^"]+)"', text)


def anchors(path):
    "The anchors that GitHub gives a page's headings"
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.M):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(words.replace(" ", "-"))
    return found


def dead(path):
    "Links of a page that lead nowhere in the repository; addresses elsewhere are not asked"
    broken = []
    for target in targets(prose(path)):
        place, _, anchor = target.partition("#")
        for start in (HOME, TREE, SERVED, COLAB, BINDER):
            if place.startswith(start):
                place = f"/{place.removeprefix(start).replace('%2F', '/')}"
        if re.match(r"[a-z]+:", place):
            continue
        file = ROOT / place[1:] if place.startswith("/") else (path.parent / place if place else path)
        if not file.exists() or anchor and file.suffix in (".md", ".ipynb") and anchor not in anchors(file):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert dead(page) == []


def test_a_dead_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        f"# Here\n[a](#here) [b](#there) [c](no.md) [d]({HOME}README.md) [e]({HOME}no.md) `[f](no)`"
    )
    assert dead(page) == ["#there", "no.md", f"{HOME}no.md"]


def test_the_readme_reads_well_where_only_its_text_is_shown():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12_000
    assert [t for t in targets(prose(ROOT / "README.md")) if not t.startswith(("https://", "#"))] == []


def test_study_notebooks_link_to_the_library_and_back():
    study = [p for p in PAGES if p.parent == ROOT / "nbs" / "study"]
    for page in study:
        linked = [
            t for t in targets(prose(page)) if t.startswith("../") and t.partition("#")[0].endswith(".ipynb")
        ]
        assert linked, f"{page.name} leads to no library notebook"
    back = {Path(t).name for p in PAGES if p not in study for t in targets(prose(p)) if "study/" in t}
    assert {p.name for p in study} <= back
