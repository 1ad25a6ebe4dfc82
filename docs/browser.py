"""Look at the built site in a real browser, on a desk and on a phone, in the light and in the dark

`python docs/browser.py` opens every page of `_docs/html` in an installed Chromium and names what is wrong:
a page wider than the screen, a table or picture cut off, a formula that was not drawn, words that cannot be
read, a file that is missing, an error of a script, a request that leaves the machine. Then it drags the
triangle and the sliders by mouse, finger and keyboard, opens the menu, and searches. `--shots DIR` keeps a
picture of each page. It needs `playwright` (`pip install playwright`) and a Chromium, found by name or given
by `QEBIAS_CHROMIUM`.
"""

import argparse
import functools
import http.server
import os
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent / "_docs" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK = {"viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 375, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
SCREENS = {"desk": DESK, "phone": PHONE}
CONTRAST = 3.0  # WCAG asks 4.5 of small words and 3 of large ones; below 3 nobody reads with ease

# What a page says of itself. What stands out of the screen is cut off where nothing around it scrolls.
FAULTS = """(least) => {
  const wide = document.documentElement.clientWidth, found = [];
  // Not innerWidth: a phone zooms out until a page that is too wide fits, and innerWidth grows with it.
  if (document.documentElement.scrollWidth > wide)
    found.push(`wider than the screen: ${document.documentElement.scrollWidth} > ${wide}`);
  const scrolls = (e) => {
    for (let up = e; up && up !== document.body; up = up.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(up).overflowX) && up.clientWidth <= wide) return true;
    return false;
  };
  const article = document.querySelector("article, main") || document.body;
  for (const e of article.querySelectorAll("table, img, svg, pre, p, li, h1, h2, h3, dt, mjx-container")) {
    const box = e.getBoundingClientRect();
    if (box.width && (box.right > wide + 1 || box.left < -1) && !scrolls(e))
      found.push(`cut off: ${e.tagName.toLowerCase()} ${(e.innerText || e.alt || "").slice(0, 60)}`);
  }
  for (const e of article.querySelectorAll("img"))
    if (e.complete && !e.naturalWidth) found.push(`no picture: ${e.getAttribute("src")}`.slice(0, 120));
  const tall = article.querySelectorAll("img");
  for (const e of tall) {
    const box = e.getBoundingClientRect();
    if (box.width > 8 && Math.abs(box.width / box.height / (e.naturalWidth / e.naturalHeight) - 1) > 0.03)
      found.push(`squeezed: ${e.getAttribute("src")}`.slice(0, 120));
  }
  for (const e of article.querySelectorAll(".math"))
    if (!e.querySelector("mjx-container")) found.push(`formula as text: ${e.textContent.slice(0, 60)}`);
  for (const e of article.querySelectorAll("mjx-merror, [data-mjx-error]"))
    found.push(`formula with an error: ${e.getAttribute("data-mjx-error") || e.textContent}`);
  const numbers = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = (c) => [0, 1, 2].map((k) => c[k] / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (e) => {
    for (let up = e; up; up = up.parentElement) {
      const c = numbers(getComputedStyle(up).backgroundColor);
      if (c.length && (c.length < 4 || c[3] > 0.5)) return c;
    }
    return numbers(getComputedStyle(bare).color);
  };
  const bare = document.body.appendChild(document.createElement("i"));
  bare.style.color = "Canvas";  // the screen itself, light or dark as the page's scheme has it
  const dim = new Set();
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const words = walk.currentNode.textContent.trim(), e = walk.currentNode.parentElement;
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    if (words.length < 2 || !box.width || style.visibility === "hidden" || style.opacity === "0") continue;
    if (e.closest("svg, script, style, mjx-container, button, select")) continue;
    const a = light(numbers(style.color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const where = `${e.tagName.toLowerCase()}.${e.className} ${words.slice(0, 40)}`;
    if (ratio < least) dim.add(`${ratio.toFixed(1)} ${where}`);
  }
  bare.remove();
  for (const words of [...dim].slice(0, 5)) found.push(`hard to read: ${words}`);
  return [...new Set(found)];
}"""


def chromium() -> str | None:  # its path
    "An installed Chromium, or None"
    given = os.environ.get("QEBIAS_CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves the site and says nothing"

    def log_message(self, *words):
        pass


@contextmanager
def served(
    folder: Path,  # the built site
):  # its address
    "The site at an address of this machine, for as long as the block lasts"
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def browser():
    "A Chromium without a window; the sandbox needs rights that a container seldom has"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def html_pages(
    folder: Path,  # the built site
) -> list:  # of names
    "Every page of the site, without the theme's templates"
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.html"))]
    return [name for name in names if not name.startswith("_static/")]


def listen(
    page,  # of playwright
    address: str,  # of the site
) -> list:  # filled while pages load
    "Collect what goes wrong while pages load: errors of scripts, missing files, requests to elsewhere"
    heard: list = []
    page.on("console", lambda m: heard.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda e: heard.append(f"script: {e}"))
    page.on("response", lambda r: heard.append(f"{r.status}: {r.url}") if r.status >= 400 else None)

    def ask(route):
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
            return
        heard.append(f"leaves the machine: {url}")
        route.abort()

    page.route("**/*", ask)
    return heard


def settle(page) -> None:
    "Wait until formulas are drawn and pictures are there"
    page.evaluate("""async () => {
      if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
      for (const e of document.images) { e.loading = "eager"; }
      await Promise.all([...document.images].map((e) => e.decode().catch(() => {})));
    }""")


def look(
    opened,  # the browser
    address: str,  # of the site
    names: list,  # pages
    shots: Path | None = None,  # folder for pictures of the pages
    say=lambda name: None,  # called with each page
) -> dict:  # (page, screen, scheme) -> what is wrong
    "Open every page on each screen and in each scheme"
    wrong: dict = {}
    for screen, device in SCREENS.items():
        context = opened.new_context(**device)
        page = context.new_page()
        heard = listen(page, address)
        for name in names:
            say(f"{screen} {name}")
            page.emulate_media(color_scheme="light")
            page.goto(f"{address}/{name}", wait_until="load")
            settle(page)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                faults = heard + page.evaluate(FAULTS, CONTRAST)
                heard.clear()
                if faults:
                    wrong[name, screen, scheme] = faults
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    stem = name.removesuffix(".html").replace("/", ".")
                    page.screenshot(path=shots / f"{stem}.{screen}.{scheme}.png", full_page=True)
        context.close()
    return wrong


def drag(
    page,  # of playwright
    screen: str,  # "desk": by mouse; "phone": by finger
    start: tuple,  # x, y on the screen
    end: tuple,  # x, y on the screen
) -> None:
    "Pull from one place to another by mouse or by finger"
    if screen == "desk":
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(*end, steps=8)
        page.mouse.up()
        return
    hand = page.context.new_cdp_session(page)

    def touch(kind, *points):
        at = [{"x": x, "y": y} for x, y in points]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", start)
    for k in range(1, 9):
        touch("touchMove", tuple(a + (b - a) * k / 8 for a, b in zip(start, end)))
    touch("touchEnd")


def place(handle, across: float = 0.5, down: float = 0.5) -> tuple:  # x, y on the screen
    "A place within an element, in parts of its width and height"
    box = handle.bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def triangle(page, screen: str, address: str) -> list:  # what does not work
    "Drag E of the triangle, then move it by the arrow keys: the words below it must follow"
    page.goto(f"{address}/pages/triangle.html")
    words, point = page.locator("#eq1-words"), page.locator("#e")
    point.scroll_into_view_if_needed()
    wrong, before = [], words.inner_text()
    start = place(point)
    drag(page, screen, start, (start[0] + 60, start[1] + 20))
    after = words.inner_text()
    if after == before:
        wrong.append(f"triangle, {screen}: dragging E changes nothing")
    point.focus()
    page.keyboard.press("ArrowRight")
    if words.inner_text() == after:
        wrong.append(f"triangle, {screen}: the arrow keys change nothing")
    return wrong


def sliders(page, screen: str, address: str) -> list:  # what does not work
    "Drag the line between two pictures, move it by key, choose another picture"
    page.goto(f"{address}/pages/compare.html")
    pair = page.locator(".pair").first
    frame, line = pair.locator(".compare"), pair.locator("input[type=range]")
    frame.scroll_into_view_if_needed()
    wrong = []
    drag(page, screen, place(frame, 0.5), place(frame, 0.2))
    at = float(line.input_value())
    shown = frame.evaluate("e => parseFloat(e.style.getPropertyValue('--at'))")
    if not (10 <= at <= 30 and shown == at):
        wrong.append(f"slider, {screen}: dragged to 20 %, it stands at {at} and shows {shown}")
    line.focus()
    page.keyboard.press("ArrowRight")
    if float(line.input_value()) == at:
        wrong.append(f"slider, {screen}: the arrow keys change nothing")
    first = pair.locator("img.after").get_attribute("src")
    pair.locator("select[data-side=after]").select_option(index=0)
    settle(page)
    if pair.locator("img.after").get_attribute("src") == first:
        wrong.append(f"slider, {screen}: another choice shows the same picture")
    if not pair.locator("img.after").evaluate("e => e.naturalWidth"):
        wrong.append(f"slider, {screen}: the chosen picture does not load")
    return wrong


def cards(page, screen: str, address: str) -> list:  # what does not work
    "On a phone, the verdict of a statement stands on the screen, without scrolling aside"
    page.goto(f"{address}/study/06_tab3_quality.html")
    row = page.locator("table.statements tbody tr").first
    statement, verdict = row.locator("td").first, row.locator("td").last
    box, wide = verdict.bounding_box(), page.viewport_size["width"]
    if not box or box["x"] + box["width"] > wide:
        return [f"statements, {screen}: the verdict lies beyond the edge"]
    below = box["y"] > statement.bounding_box()["y"]
    return [] if below == (screen == "phone") else [f"statements, {screen}: a row is no card, or all are"]


def menu(page, screen: str, address: str) -> list:  # what does not work
    "The contents of the site: beside the page on a desk, behind a button on a phone"
    page.goto(f"{address}/index.html")
    contents = page.locator(".bd-sidebar-primary a", has_text="Before and after")
    if screen == "phone":
        page.locator("button.primary-toggle:visible").first.tap()
        page.wait_for_timeout(500)
    if not (contents.count() and contents.first.is_visible()):
        return [f"menu, {screen}: the contents of the site cannot be reached"]
    contents.first.click()
    page.wait_for_url("**/pages/compare.html")
    return []


def search(page, screen: str, address: str, words: str, expected: str) -> list:  # what does not work
    "Type words into the search field: a page must be found whose address holds what is expected"
    page.goto(f"{address}/index.html")
    if screen == "phone":
        page.locator(".search-button:visible, .search-button-field:visible").first.tap()
    else:
        page.keyboard.press("Control+k")
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    found = page.locator("#search-results li a")
    try:
        found.first.wait_for(timeout=10_000)
        page.wait_for_timeout(1500)  # results come one by one
    except Exception:  # noqa: BLE001  playwright's own timeout, whatever its name
        return [f"search, {screen}: {words!r} finds nothing"]
    leads = [a.get_attribute("href") or "" for a in found.all()]
    wrong = [fault for fault in page.evaluate(FAULTS, CONTRAST) if screen == "phone"]
    if not any(expected in lead for lead in leads):
        wrong.append(f"search, {screen}: {words!r} leads to {leads[:5]}, none of which holds {expected!r}")
    return wrong


def try_out(
    opened,  # the browser
    address: str,  # of the site
) -> list:  # what does not work
    "Everything on the site that answers to a hand"
    wrong = []
    for screen, device in SCREENS.items():
        context = opened.new_context(**device)
        page = context.new_page()
        heard = listen(page, address)
        for part in (triangle, sliders, cards, menu):
            wrong += part(page, screen, address)
        wrong += search(page, screen, address, "hinge", "method/00_losses")
        wrong += search(page, screen, address, "domain_divergence", "qebias.losses")
        wrong += heard
        context.close()
    return wrong


def main() -> int:
    "The command; ends with 1 where something is wrong"
    command = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    command.add_argument("--site", type=Path, default=SITE, help="the built site")
    command.add_argument("--only", nargs="*", help="pages, such as pages/map.html; all if left out")
    command.add_argument("--shots", type=Path, help="folder for pictures of the pages")
    given = command.parse_args()
    if not chromium():
        sys.exit("no Chromium is installed here; QEBIAS_CHROMIUM may name one")
    if not (given.site / "index.html").is_file():
        sys.exit(f"{given.site} holds no site: `make docs` builds it")
    names = given.only or html_pages(given.site)
    with served(given.site) as address, browser() as opened:
        wrong = look(opened, address, names, given.shots)
        tried = try_out(opened, address)
    for (name, screen, scheme), faults in wrong.items():
        for fault in faults:
            print(f"{name} ({screen}, {scheme}): {fault}")
    print("\n".join(tried))
    print(f"{len(names)} pages, {len(wrong)} views with faults, {len(tried)} things that do not work")
    return int(bool(wrong or tried))


if __name__ == "__main__":
    sys.exit(main())
