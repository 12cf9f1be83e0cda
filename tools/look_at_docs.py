"""Look at the built documentation in headless Chromium, as on a phone, a laptop and a wide screen.

    python tools/look_at_docs.py [HTML FOLDER] [-o FOLDER FOR PICTURES]

For each page and width it fails where the page is wider than the window, where something outside the folder is
requested (the pages are to be read without a network), where a picture is missing, or where TeX is left as text. Needs
the package playwright and a Chromium, which it looks for under its usual names; `make look` installs the former.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

WIDTHS = (390, 1300, 1900)
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Left-over TeX: a command with a backslash outside of code.
TEX = re.compile(r"\\(?:frac|odot|sigma|tanh|cdot|tfrac|text|quad|delta|hat|bar|max|sum|log|overline|tag)\b")
#: What is wider than its window though nothing scrolls it; and the text outside of code.
SCRIPT = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = e => { for (; e; e = e.parentElement) {
        const style = getComputedStyle(e);
        if (style.overflowX === 'auto' || style.overflowX === 'scroll' || style.overflowX === 'hidden') return true;
        if (style.position === 'fixed') return true;
    } return false; };
    const wide = [...document.querySelectorAll('article *')]
        .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement));
    const copy = document.querySelector('article')?.cloneNode(true);
    copy?.querySelectorAll('pre, code, annotation').forEach(e => e.remove());
    return {
        page: document.documentElement.scrollWidth, width,
        wide: wide.slice(0, 3).map(e => e.tagName + ': ' + e.textContent.trim().slice(0, 60)),
        broken: [...document.images].filter(e => !e.complete || !e.naturalWidth).map(e => e.src),
        text: copy ? copy.textContent : '',
    };
}"""


def problems_of(found: dict[str, Any], requested: list[str]) -> list[str]:
    """What is wrong with a page at one width."""
    problems = []
    if found["page"] > found["width"]:
        problems.append(f"{found['page']} px wide: {'; '.join(found['wide']) or 'nothing in the text'}")
    problems += [f"wider than the window: {text}" for text in found["wide"] if found["page"] <= found["width"]]
    problems += [f"picture is missing: {source}" for source in found["broken"]]
    problems += [f"requested from outside: {url}" for url in requested]
    if tex := TEX.search(found["text"]):
        problems.append(f"TeX as text: {tex[0]}")
    return problems


def look(folder: Path, pictures: Path | None) -> int:
    """How many pages have a problem at some width."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if chromium is None:
        raise SystemExit("there is no Chromium: apt install chromium, or the like")
    pages, bad = sorted(folder.rglob("*.html")), 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in WIDTHS:
            context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
            for path in pages:
                page, requested = context.new_page(), []
                page.on("request", lambda one, urls=requested: one.url.startswith("http") and urls.append(one.url))
                page.goto(path.as_uri(), wait_until="load")
                problems = problems_of(page.evaluate(SCRIPT), requested)
                for problem in problems:
                    print(f"{path.relative_to(folder)} at {width} px: {problem}")
                bad += bool(problems)
                if pictures is not None:
                    name = path.relative_to(folder).with_suffix("").as_posix().replace("/", "-")
                    page.screenshot(path=pictures / f"{name}-{width}.png", full_page=True)
                page.close()
            context.close()
        browser.close()
    print(f"{len(pages)} pages at {', '.join(map(str, WIDTHS))} px: {bad or 'no'} problem{'s' * (bad != 1)}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/_build/html"), help="the built pages")
    parser.add_argument("-o", "--output", type=Path, help="keep pictures of all pages there")
    arguments = parser.parse_args()
    if not (arguments.folder / "index.html").exists():
        raise SystemExit(f"{arguments.folder} must hold built pages: make docs")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    return 1 if look(arguments.folder, arguments.output) else 0


if __name__ == "__main__":
    sys.exit(main())
