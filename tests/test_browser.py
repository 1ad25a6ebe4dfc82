"The site in a real browser, where one is at hand: what `docs/browser.py` finds, and that it would find it"

import importlib.util
import json

import jinja2
import pytest
from conftest import ROOT

from qebias import site
from qebias.study.report import TEMPLATE

pytest.importorskip("playwright")
made = importlib.util.spec_from_file_location("site_browser", ROOT / "docs" / "browser.py")
look_at = importlib.util.module_from_spec(made)
made.loader.exec_module(look_at)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not look_at.chromium(), reason="no Chromium is installed; QEBIAS_CHROMIUM names one"),
]
BAD = """<!DOCTYPE html><html><body><article>
<p style="color: #ddd; background: #fff">pale words</p>
<div style="width: 2000px; overflow: hidden">
<table><tr><td style="min-width: 1900px">wide</td></tr></table></div>
<span class="math">x^2</span> <img src="no.png"><script>throw new Error("broken")</script>
<script src="http://elsewhere.example/x.js"></script>
</article></body></html>"""


@pytest.fixture(scope="module")
def opened():
    with look_at.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("sphinx_book_theme")
    pytest.importorskip("myst_nb")
    pytest.importorskip("mathjax")
    return site.build_site(tmp_path_factory.mktemp("site")).parent


def test_what_is_wrong_would_be_found(opened, tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    with look_at.served(tmp_path) as address:
        wrong = look_at.look(opened, address, ["bad.html"])
    assert set(wrong) >= {("bad.html", "desk", "light"), ("bad.html", "phone", "light")}
    said = "\n".join(wrong["bad.html", "phone", "light"])
    for words in ("wider than the screen", "formula as text: x^2", "no picture: no.png", "script: broken"):
        assert words in said
    for words in ("hard to read", "pale words", "404", "leaves the machine", "cut off: table"):
        assert words in said


def report_page():
    "The report's first page with the verdicts of the published study; its triangles are one grey pixel"
    rows = json.loads((ROOT / "nbs/study/results/photos/verdicts.json").read_text(encoding="utf-8"))
    made = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    said = [("fig1", "Is it nearer?", "<strong>Yes.</strong> By +17.6 [+11.8, +23.5] points.")]
    tally = "<table><tr><th>verdict</th><th>reproduced</th></tr><tr><td>paper</td><td>3</td></tr></table>"
    words = {"name": "photos", "summary": "", "words": said, "pages": [], "tally": tally, "scale": "small"}
    return made.render(measured=rows, missing=rows[:3], **words)


def test_the_report_of_a_study_fits_a_phone(opened, tmp_path):
    (tmp_path / "index.html").write_text(report_page(), encoding="utf-8")
    with look_at.served(tmp_path) as address:
        assert look_at.look(opened, address, ["index.html"]) == {}
        page = opened.new_context(**look_at.PHONE).new_page()
        page.goto(f"{address}/index.html")
        verdict = page.locator(".claims td.reproduced, .claims td.inconclusive").first
        assert verdict.evaluate("e => e.getClientRects()[0].height < 40")  # one line: the word is whole
        assert page.locator(".claims th").first.is_hidden()


def test_every_page_fits_the_screen_and_can_be_read(opened, built):
    names = look_at.html_pages(built)
    assert len(names) > 80
    with look_at.served(built) as address:
        assert look_at.look(opened, address, names) == {}


def test_triangle_sliders_menu_and_search_answer_to_mouse_finger_and_keyboard(opened, built):
    with look_at.served(built) as address:
        assert look_at.try_out(opened, address) == []
