"""How long the story is: `python tests/benchmarks/words.py`

Words that a reader meets on the pages of the six chapters, in the order of the site: markdown cells and
sentences that cells print. What is folded is not counted; words inside tables are counted apart.
"""

import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = 6


def story() -> list[Path]:
    "The pages of the six chapters, in reading order"
    contents = yaml.safe_load((ROOT / "docs" / "contents.yaml").read_text(encoding="utf-8"))
    pages = [page for chapter in list(contents.values())[:CHAPTERS] for page in chapter]
    return [next((ROOT / "nbs").glob(f"{page}.*[bd]")) for page in pages]


def texts(path: Path) -> list[str]:
    "What a page says: its markdown, and the markdown that its cells print"
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if source.startswith("#| hide"):
            continue
        if cell["cell_type"] == "markdown":
            found.append(source)
            continue
        for output in cell["outputs"]:
            found.append("".join(output.get("data", {}).get("text/markdown", "")))
            found.append("".join(output.get("text", "")))
    return found


def shown(text: str) -> str:
    "Without comments, addresses of links, formulas on lines of their own, and what a reader has to unfold"
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<details.*?</details>", "", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)


def count(path: Path) -> tuple[int, int]:
    "Words of prose, and words inside tables"
    lines = "\n\n".join(shown(text) for text in texts(path)).splitlines()
    tables = [line for line in lines if line.lstrip().startswith("|")]
    prose = [line for line in lines if not line.lstrip().startswith("|")]
    words = [len(re.findall(r"\S*\w\S*", "\n".join(part))) for part in (prose, tables)]
    return words[0], words[1]


def main() -> None:
    "A line a page, and the sum"
    counted = {path: count(path) for path in story()}
    print(f"{'prose':>6} {'tables':>7}  page")
    for path, (prose, tables) in counted.items():
        print(f"{prose:>6} {tables:>7}  {path.relative_to(ROOT / 'nbs')}")
    sums = [sum(column) for column in zip(*counted.values())]
    print(f"{sums[0]:>6} {sums[1]:>7}  the story; {sums[0] / 240:.0f} minutes at 240 words a minute")


if __name__ == "__main__":
    sys.exit(main())
