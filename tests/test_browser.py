"The site in a real browser, where one is at hand: what `docs/browser.py` finds, and that it would find it"

import importlib.util

import pytest
from conftest import ROOT

from qebias import site

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


def test_every_page_fits_the_screen_and_can_be_read(opened, built):
    names = look_at.html_pages(built)
    assert len(names) > 80
    with look_at.served(built) as address:
        assert look_at.look(opened, address, names) == {}


def test_triangle_sliders_menu_and_search_answer_to_mouse_finger_and_keyboard(opened, built):
    with look_at.served(built) as address:
        assert look_at.try_out(opened, address) == []
