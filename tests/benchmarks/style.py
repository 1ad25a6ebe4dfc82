"""How the code reads, in figures: `python tests/benchmarks/style.py`

Lines over 100 and over 110 characters, private functions, nested comprehensions, branches a line of function,
lines of a function, lines of an export cell. Of the exported package and of the notebooks that it comes from;
nothing is imported.
"""

import ast
import json
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.BoolOp, ast.comprehension, ast.ExceptHandler)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def modules():
    "The exported modules"
    return [p for p in sorted((ROOT / "qebias").rglob("*.py")) if p.name not in ("_modidx.py", "__init__.py")]


def export_cells():
    "Lines of the export cells of each notebook"
    found = {}
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        name = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and source.startswith("#| export"):
                found.setdefault(name, []).append(len(source.splitlines()) - 1)
    return found


def figures() -> dict:
    "The figures, by name"
    lines, functions, private, nested, branches, body = [], [], 0, 0, 0, 0
    for path in modules():
        text = path.read_text(encoding="utf-8")
        lines += text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, COMPREHENSIONS):
                inner = [n for n in ast.walk(node) if isinstance(n, COMPREHENSIONS) and n is not node]
                nested += bool(inner) or len(node.generators) > 1
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                functions.append(length)
                private += node.name.startswith("_") and not node.name.startswith("__")
                branches += sum(isinstance(n, BRANCHES) for n in ast.walk(node))
                body += length
    cells = [length for lengths in export_cells().values() for length in lengths]
    share = {n: 100 * sum(len(line) > n for line in lines) / len(lines) for n in (100, 110)}
    return {
        "lines": len(lines),
        "over 100 characters, %": round(share[100], 1),
        "over 110 characters, %": round(share[110], 2),
        "private functions, %": round(100 * private / len(functions), 1),
        "nested comprehensions per 100 lines": round(100 * nested / len(lines), 2),
        "branches a line of function": round(branches / body, 2),
        "lines of a function, median": statistics.median(functions),
        "lines of a function, ninth tenth": statistics.quantiles(functions, n=10)[8],
        "lines of an export cell, median": statistics.median(cells),
        "lines of an export cell, ninth tenth": statistics.quantiles(cells, n=10)[8],
        "lines of an export cell, most": max(cells),
    }


if __name__ == "__main__":
    for name, value in figures().items():
        print(f"{value:>10}  {name}")
