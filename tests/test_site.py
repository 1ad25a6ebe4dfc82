"The site: the paper's map and its inverse by links alone, names in prose, a build without a warning"

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from conftest import ROOT

from qebias import site
from qebias.core import QebiasError

ITEMS = [*(f"eq-{k}" for k in range(1, 10)), "obs-1", "obs-2"]
ITEMS += [*(f"tab-{k}" for k in range(1, 6)), *(f"fig-{k}" for k in range(1, 11))]


def test_the_map_has_every_item_of_the_paper():
    items = site.paper_map()
    assert [i.id for i in items] == ITEMS
    for item in items:
        assert item.notebooks and item.functions and item.tests, item.title


def test_the_map_of_the_repository_is_made_from_the_list():
    "`python docs/map.py` makes it anew; each of its links leads to a file"
    import importlib.util

    told = importlib.util.spec_from_file_location("map_page", ROOT / "docs" / "map.py")
    made = importlib.util.module_from_spec(told)
    told.loader.exec_module(made)
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    assert text == made.page()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) >= 3 * len(ITEMS)
    assert [t for t in targets if not (ROOT / "docs" / t).resolve().is_file()] == []


def test_a_name_that_does_not_exist_is_refused(tmp_path):
    for name in ("settings.ini",):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("docs", "nbs", "qebias", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "docs").unlink()
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs" / "map.yaml"
    good = page.read_text()
    for old, new, words in (
        ("qebias.bias.deviation", "qebias.bias.no", "names qebias.bias.no, which the package does not have"),
        (
            "measurement/10_bias.ipynb",
            "measurement/no.ipynb",
            "names nbs/measurement/no.ipynb, which does not exist",
        ),
        ("::test_the_papers_fifteen", "::test_no", "test_no, which does not exist"),
    ):
        page.write_text(good.replace(old, new))
        with pytest.raises(QebiasError, match=re.escape(words)):
            site.paper_map(tmp_path)


def test_every_public_function_has_an_entry_with_its_arguments():
    every = site.modules()
    assert {"qebias.losses", "qebias.generators.rrdb", "qebias.site"} <= set(every)
    for module in every.values():
        page = site.module_page(module, [], ROOT)
        for symbol in module.symbols:
            assert f"({site.label(f'{symbol.module}.{symbol.name}')})=" in page
            assert all(f"- **{a.name}**" in page for a in symbol.arguments)


def test_labels_are_told_apart_without_case():
    labels = [site.label(f"{s.module}.{s.name}").lower() for m in site.modules().values() for s in m.symbols]
    assert len(labels) == len(set(labels))


def test_every_notebook_and_page_is_in_the_contents():
    listed = {p for pages in site.chapters(ROOT).values() for p in pages}
    there = {p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")}
    missing = {p for p in there if not p.startswith("study/run/") and ".ipynb_checkpoints" not in p} - listed
    assert missing == {"index"}


# --- the built site


class Links(HTMLParser):
    "Links, pictures, scripts and anchors of a page"

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id"):
            self.anchors.add(found["id"])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script") and found.get("src"):
            self.loaded.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The site, built into a folder of its own; without Sphinx there is none"
    pytest.importorskip("sphinx_book_theme")
    pytest.importorskip("myst_nb")
    return site.build_site(tmp_path_factory.mktemp("site")).parent


@pytest.fixture(scope="module")
def pages(built):
    return {
        p.relative_to(built).as_posix(): Links(p.read_text(encoding="utf-8")) for p in built.rglob("*.html")
    }


def resolve(page, link):
    "(page, anchor) of the site that a link leads to, or None"
    place, _, anchor = link.partition("#")
    if re.match(r"[a-z]+:|//", place):
        return None
    target = page if not place else str((Path("/") / Path(page).parent / unquote(place)).resolve())[1:]
    return target.lstrip("/"), unquote(anchor)


def test_a_build_that_was_cut_short_is_done_anew(tmp_path, monkeypatch):
    "Sphinx remembers what it has read, but not the words for its search: without the index all is read again"
    pytest.importorskip("sphinx_book_theme")
    pytest.importorskip("myst_nb")
    asked, html = [], tmp_path / "html"

    def run(command, **options):
        asked.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(site.subprocess, "run", run)
    site.build_site(html)
    html.mkdir()
    (html / "searchindex.js").write_text("Search.setIndex({})")
    site.build_site(html)
    assert {"-E", "-a"} <= set(asked[0]) and not {"-E", "-a"} & set(asked[1])


@pytest.mark.thorough
def test_the_menu_has_one_button_which_the_theme_listens_to(built):
    "A second one, in a header that nobody sees, took the phone's way to the contents"
    text = (built / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<button class="[^"]*primary-toggle', text)) == 1


@pytest.mark.thorough
def test_it_builds_without_a_warning(pages):
    assert {"index.html", "search.html", "pages/map.html", "api/qebias.losses.html"} <= set(pages)
    assert len(pages) > 80


@pytest.mark.thorough
def test_every_link_of_the_site_leads_somewhere(built, pages):
    broken = []
    for name, page in pages.items():
        if name.startswith("_static/"):
            continue  # the theme's templates
        for link in [*page.links, *page.loaded]:
            found = resolve(name, link.partition("?")[0])
            if not found or name in ("search.html", "genindex.html"):
                continue
            target, anchor = found
            known = pages[target].anchors if target in pages else {anchor}
            if not (built / target).exists() or (anchor and anchor not in known):
                broken.append(f"{name}: {link}")
    assert broken == []


@pytest.mark.thorough
def test_it_asks_the_network_for_no_script_and_no_style(pages):
    pytest.importorskip("mathjax")
    asked = {s for page in pages.values() for s in page.loaded if re.match(r"https?:|//", s)}
    assert {s for s in asked if not s.startswith(("https://colab.", "https://mybinder.org/badge"))} == set()


@pytest.mark.thorough
def test_from_each_item_of_the_paper_to_its_code_and_back_by_links_alone(built, pages):
    "Item -> function -> item, and item -> notebook -> item"
    home = pages["pages/map.html"]
    counted = 0
    for item in site.paper_map():
        for function in item.functions:
            module = ".".join(w for w in function.split(".")[:-1])
            entry = f"api/{module}.html"
            anchor = re.sub(r"[._]+", "-", site.label(function).lower())
            assert ("pages/map.html", entry, anchor) and any(
                resolve("pages/map.html", link) == (entry, anchor) for link in home.links
            ), (item.title, function, anchor)
            assert any(resolve(entry, link) == ("pages/map.html", item.id) for link in pages[entry].links)
            counted += 1
        for notebook in item.notebooks:
            book = notebook.replace(".ipynb", ".html")
            assert any(resolve("pages/map.html", link) == (book, "") for link in home.links)
            assert any(resolve(book, link) == ("pages/map.html", item.id) for link in pages[book].links)
            counted += 1
    assert counted >= 2 * len(ITEMS)
    kinds = [item.id.partition("-")[0] for item in site.paper_map()]
    assert (kinds.count("eq"), kinds.count("tab"), kinds.count("fig")) == (9, 5, 10)


@pytest.mark.thorough
def test_hidden_cells_are_not_shown_and_names_are_linked(built, pages):
    text = (built / "measurement" / "30_figures.html").read_text(encoding="utf-8")
    assert "mkdtemp" in text and "rmtree" not in text  # it stands in a hidden cell
    assert any("api/qebias.figures.html#" in link for link in pages["measurement/30_figures.html"].links)


@pytest.mark.thorough
def test_code_of_the_study_is_folded(built):
    text = (built / "study" / "01_fig1_teaser.html").read_text(encoding="utf-8")
    assert "tag_hide-input" in text and "<details" in text


def published():
    return [p for p in (ROOT / "nbs" / "study").glob("0[1-9]*.ipynb") if "image/png" in p.read_text("utf-8")]


@pytest.mark.thorough
def test_outputs_hold_tables_and_no_raw_markdown(built):
    for path in published():
        text = (built / "study" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert "| --- |" not in text and "| — |" not in text, path.name
        assert "<table" in text, path.name


@pytest.mark.thorough
def test_code_and_parameters_stand_below_the_first_picture(built):
    style = (built / "_static" / "site.css").read_text(encoding="utf-8")
    assert "details.hide { order: 2;" in style  # below what its cell shows
    for path in published():
        text = (built / "study" / f"{path.stem}.html").read_text(encoding="utf-8")
        article = text[text.rindex("<h1>") :]
        folds = article.index("<details")
        picture = article.index("<img")
        assert article.index("<strong>") < folds, f"{path.name}: the answer comes first"
        assert picture < article.index("Parameters</p>"), path.name
        assert article[:picture].count("<details") <= 1, path.name  # that of the picture's own cell


def test_a_page_that_is_not_computed_says_so(tmp_path):
    page = tmp_path / "20_x.ipynb"
    code = 'profile: str = "lab"  # whose'
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Why?"},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": code, "outputs": []},
        {"cell_type": "markdown", "metadata": {}, "source": "## Numbers"},
        {"cell_type": "code", "metadata": {}, "source": "1", "outputs": []},
    ]
    page.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    shown = json.loads(site.page_of_notebook(page, True, {}))["cells"]
    assert "Not computed yet: `qebias study lab`" in shown[1]["source"]
    assert all("## Numbers" not in cell["source"] for cell in shown)


@pytest.mark.thorough
def test_two_crops_lie_under_each_slider_and_work_without_a_network(built):
    text = (built / "pages" / "compare.html").read_text(encoding="utf-8")
    crops = site.published_crops(ROOT)
    assert site.SLIDERS not in text and text.count('type="range"') == len(crops)
    for address in re.findall(r'(?:value|src)="(\.\./_static/crops/[^"]+)"', text):
        assert (built / "pages" / address).resolve().is_file(), address
    assert text.count('<option value="') == 2 * sum(map(len, crops.values()))
    assert "http" not in (built / "_static" / "compare.js").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_search_knows_the_words_of_notebooks_and_functions(built):
    index = (built / "searchindex.js").read_text(encoding="utf-8").lower()
    assert '"hing' in index and "qebias.losses" in index
