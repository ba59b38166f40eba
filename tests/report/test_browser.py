"""The pages in a real browser: headless Chromium (Debian's package `chromium`)."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.page import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")

# Into a copy of the page: how wide things are, what was fetched, and what text lies over other text of a plot.
PROBE = """<script>
const found = {errors: []};
window.addEventListener("error", event => found.errors.push(String(event.message)));
window.addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  found.width = width;
  found.scroll = document.documentElement.scrollWidth;
  found.wide = [...document.querySelectorAll("main *")].filter(one => {
    if (one.closest("svg, .scroll")) return false;
    return one.getBoundingClientRect().right > width + 0.5;
  }).map(one => one.tagName);
  found.fetched = performance.getEntriesByType("resource").map(one => one.name);
  found.fonts = [...document.fonts].length;
  found.scrollers = [...document.querySelectorAll(".scroll")]
    .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 60));
  found.plots = [...document.querySelectorAll("figure > svg")].map(svg => {
    const frame = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll("text")].map(one => [one.textContent, one.getBoundingClientRect()]);
    const outside = words.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1).map(([word]) => word);
    const over = [];
    for (let i = 0; i < words.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [words[i][1], words[j][1]];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1.5 && y > 0.3 * Math.min(a.height, b.height)) over.push([words[i][0], words[j][0]]);
    }
    return {width: frame.width, outside, over, size: Math.min(...words.map(([, box]) => box.height))};
  });
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""


def browse(folder: Path, *options: str) -> tuple[str, str]:
    """Run Chromium with no host reachable; return what it printed and what it logged."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr", *options, (folder / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def probe(folder: Path, text: str, width: int) -> dict:
    (folder / "page.html").write_text(text.replace("</head>", PROBE + "</head>", 1), encoding="utf-8")
    dom, log = browse(folder, f"--window-size={width},1600", "--virtual-time-budget=5000", "--dump-dom")
    assert "CONSOLE" not in log, re.findall(r".*CONSOLE.*", log)
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL).group(1)))


@pytest.fixture(scope="module", params=["study", "run"])
def page(request) -> Page:
    return request.getfixturevalue(f"{request.param}_page")


@pytest.mark.parametrize("width", [1240, 800])
def test_a_page_fits_and_fetches_nothing(page: Page, tmp_path: Path, width: int):
    found = probe(tmp_path, page.source, width)
    assert found["errors"] == []
    assert found["width"] == width
    assert found["scroll"] <= width, "the page must not scroll sideways"
    assert found["wide"] == []
    assert found["fetched"] == []
    assert found["fonts"] == 0
    assert len(found["plots"]) == page.source.count('<svg role="img"')
    for plot in found["plots"]:
        assert plot["outside"] == []
        assert plot["over"] == [], "words of a plot lie over one another"
        assert plot["width"] > 0.8 * width
    if width == 1240:
        assert found["scrollers"] == [], "at this width every table is seen whole"


def test_a_phone_gets_the_page_without_sideways_scrolling(page: Page, tmp_path: Path):
    # Chromium's window is at least 500 pixels wide.
    found = probe(tmp_path, page.source, 500)
    assert found["scroll"] <= found["width"]
    assert all(plot["size"] >= 8 for plot in found["plots"]), "labels of a plot must stay legible"


def pages(folder: Path, text: str) -> int:
    """Print a page, and count what comes out."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    browse(folder, f"--print-to-pdf={folder / 'page.pdf'}", "--no-pdf-header-footer")
    printed = (folder / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    return len(re.findall(rb"/Type\s*/Page\b", printed))


def test_a_page_prints(page: Page, tmp_path: Path):
    assert 5 <= pages(tmp_path, page.source) <= 20


def test_what_is_folded_on_screen_is_printed(study_page: Page, tmp_path: Path):
    head = study_page.source.partition("<main>")[0]
    lines = "<p>line</p>" * 200
    body = "<main><details><summary>folded</summary>{}</details></main></body></html>"
    assert pages(tmp_path, head + body.format("")) == 1
    assert pages(tmp_path, head + body.format(lines)) > 3


def test_a_screenshot_is_not_blank(page: Page, tmp_path: Path):
    from PIL import Image

    (tmp_path / "page.html").write_text(page.source, encoding="utf-8")
    browse(tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1240,1600")
    with Image.open(tmp_path / "page.png") as image:
        assert image.size == (1240, 1600)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
