"""The paper's map as a page that a repository shows: `python docs/map.py` makes docs/map.md

It is written from docs/map.yaml, of which the site makes a page of its own, with links into its API pages.
"""

from pathlib import Path

from qebias.site import Item, page_title, paper_map

ROOT = Path(__file__).resolve().parents[1]
HEAD = """<!-- made from docs/map.yaml, do not edit: python docs/map.py -->

# The paper's map

From each equation, table and figure of the paper to where it is computed here.

| paper | section | read | code | tests |
| --- | --- | --- | --- | --- |
"""


def module_of(function: str) -> Path:
    "The file of a dotted name"
    words = function.split(".")
    while not ROOT.joinpath(*words).with_suffix(".py").is_file():
        words.pop()
    return Path(*words).with_suffix(".py")


def line(item: Item) -> str:
    "An item as a line of the table"
    books = [f"[{page_title(ROOT / 'nbs' / book)}](../nbs/{book})" for book in item.notebooks]
    code = [f"[`{name.removeprefix('qebias.')}`](../{module_of(name)})" for name in item.functions]
    tests = []
    for test in item.tests:
        file, _, name = test.partition("::")
        tests.append(f"[`{name}`](../{file})")
    paper = f"**{item.title}.** {item.says}"
    cells = (paper, item.section, "<br>".join(books), "<br>".join(code), "<br>".join(tests))
    return f"| {' | '.join(cells)} |"


def page() -> str:
    "The whole page"
    return HEAD + "\n".join(map(line, paper_map(ROOT))) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "map.md").write_text(page(), encoding="utf-8")
