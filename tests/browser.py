"""Pages in a real Chromium: what is wrong with one, and its picture: python -m tests.browser FILE.html OUT.png [HEIGHT]

playwright's Python package drives it; the browser is the system's, or the one of `playwright install chromium`.
"""

import io
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

HEIGHT = 900  # of a window, pixels
_GAP = 24  # pixels between two views
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOUD = ("error", "warning")  # messages on the console

# Runs in the page; returns a list of sentences about what is wrong.
CHECK = r"""
async () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  const faults = [], say = (text, element) => faults.push(`${text}: ${describe(element)}`);
  const describe = (element) =>
    `${element.outerHTML.slice(0, 70)} ${element.textContent.slice(0, 50)}`.replace(/\s+/g, " ");
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) faults.push(`the page is ${root.scrollWidth} px wide, the window ${innerWidth}`);

  const isShown = (element) => element.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true});
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of new Set(ids.filter((one, place) => ids.indexOf(one) !== place)))
    faults.push(`id ${id} is used twice`);
  for (const link of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(link.getAttribute("href").slice(1))) say("leads nowhere", link);

  for (const image of document.images) {
    if (!(image.complete && image.naturalWidth > 0)) say("the image is not loaded", image);
    if (!image.alt && !image.classList.contains("overlay")) say("no alt text", image);
  }
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((one) => Number(one.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1 || levels[0] !== 1) faults.push(`headings: ${levels}`);
  levels.forEach((level, place) => {
    if (place && level > levels[place - 1] + 1) faults.push(`h${level} after h${levels[place - 1]}`);
  });

  // relative luminance and contrast ratio: WCAG 2.1, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const colours = new Map();
  const parse = (colour) => {
    if (!colours.has(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      colours.set(colour, [r, g, b, a / 255]);
    }
    return colours.get(colour);
  };
  const over = (top, below) => [0, 1, 2].map((one) => top[one] * top[3] + below[one] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const toLinear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.map((one) => toLinear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const canvasColour = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const backgrounds = (element) => {  // all that may lie behind it: the colour, and those of a gradient upon it
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one), stops = style.backgroundImage.match(/rgba?\([^)]*\)|#[0-9a-f]+/gi) ?? [];
      layers.unshift([style.backgroundColor, ...stops].map(parse));
    }
    let found = [canvasColour];
    for (const [colour, ...stops] of layers) {
      found = found.map((below) => over(colour, below));
      found = found.concat(stops.flatMap((stop) => found.map((below) => over(stop, below))));
    }
    return found;
  };
  const behind = (text) => {  // filled shapes of the SVG beneath the middle of a text
    const box = text.getBoundingClientRect(), svg = text.ownerSVGElement, found = [];
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    for (const shape of svg.querySelectorAll("rect, path, circle, polygon, use")) {
      if (!(text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_PRECEDING)) continue;
      if (!shape.isPointInFill || shape.closest("defs, clipPath, symbol")) continue;
      const place = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
      const style = getComputedStyle(shape);
      if (style.fill === "none" || style.clipPath !== "none" || !shape.isPointInFill(place)) continue;
      const [r, g, b, a] = parse(style.fill);
      found.push([r, g, b, a * style.fillOpacity * style.opacity]);
    }
    return found;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(element) || !isShown(element)) continue;
    seen.add(element);
    if (element.closest("script, style, title, desc, defs")) continue;
    const style = getComputedStyle(element), svg = element.closest("svg");
    let colour = parse(svg ? style.fill : style.color), below = backgrounds(svg ?? element);
    if (svg) for (const shape of behind(element)) below = below.map((one) => over(shape, one));
    let opacity = svg ? Number(style.fillOpacity) : 1;
    for (let one = element; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
    colour = [...colour.slice(0, 3), colour[3] * opacity];
    const turn = svg ? element.getScreenCTM() : {a: 1, b: 0};
    const scale = Math.hypot(turn.a, turn.b), size = parseFloat(style.fontSize) * scale;
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const least = Math.min(...below.map((one) => contrast(over(colour, one), one)));
    if (least < (isLarge ? 3 : 4.5)) say(`contrast ${least.toFixed(2)}`, element);
    if (svg && size < 6) say(`letters of ${size.toFixed(1)} px`, element);
    if (svg) {
      const box = element.getBoundingClientRect(), frame = svg.getBoundingClientRect();
      const isCut = box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
        || box.bottom > frame.bottom + 1;
      if (isCut && getComputedStyle(svg).overflow !== "visible") say("cut by its SVG's frame", element);
      continue;
    }
    for (let one = element; one && one !== document.body; one = one.parentElement) {
      const {overflowX, overflowY} = getComputedStyle(one);  // auto and scroll are scrolled, hidden and clip cut
      if (["hidden", "clip"].includes(overflowX) && one.scrollWidth > one.clientWidth + 1) say("cut at its side", one);
      if (["hidden", "clip"].includes(overflowY) && one.scrollHeight > one.clientHeight + 1) say("cut below", one);
    }
    const range = document.createRange();
    range.selectNodeContents(element);
    const box = range.getBoundingClientRect();
    if (box.right > innerWidth + 1 && !scrolls(element)) say("text leaves the window", element);
  }
  function scrolls(element) {
    for (let one = element; one && one !== document.body; one = one.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(one).overflowX)) return true;
    return false;
  }
  return faults;
}
"""


def find_browser():
    """Return the path of a Chromium, or None where playwright or the browser is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if found := next(filter(None, map(shutil.which, _NAMES)), None):
        return found
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


@contextmanager
def open_browser():
    """Give a browser of playwright's, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, path, width=1280, scheme="light"):
    """Return (page, complaints): a file in a window, and a list of errors, warnings and requests, which grows.

    Args:
        width: of the window in pixels.
        scheme: light or dark.
    """
    complaints = []
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    page.on("console", lambda one: complaints.append(f"{one.type}: {one.text}") if one.type in _LOUD else None)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    url = Path(path).resolve().as_uri()
    page.on("request", lambda one: complaints.append(f"asks for {one.url}") if one.url[:5] != "data:" else None)
    page.goto(url)
    complaints.remove(f"asks for {url}")
    return page, complaints


def find_faults(browser, path):
    """Return {(width, scheme): what is wrong} of a page at 1280 and 400 px, light and dark, with all details open."""
    found = {}
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            page, complaints = open_page(browser, path, width, scheme)
            found[width, scheme] = [*page.evaluate(CHECK), *complaints]
            page.close()
    return {key: faults for key, faults in found.items() if faults}


def draw_page(browser, path, output, height=1250):
    """Write the top of a page as a PNG of 256 colours: light in a wide window, and beside it dark on a phone."""
    from PIL import Image

    views = [take_screenshot(browser, path, 1080, "light", height), take_screenshot(browser, path, 400, "dark", height)]
    picture = Image.new("RGB", (sum(one.width for one in views) + _GAP, height), "white")
    picture.paste(views[0], (0, 0))
    picture.paste(views[1], (views[0].width + _GAP, 0))
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(output, optimize=True)


def take_screenshot(browser, path, width, scheme, height):
    """Return the first `height` pixels of a page, a PIL image."""
    from PIL import Image

    page, _ = open_page(browser, path, width, scheme)
    data = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    page.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


def main(words):
    """Run the command line `words`."""
    file, output, *height = words
    with open_browser() as browser:
        draw_page(browser, file, output, *map(int, height))


if __name__ == "__main__":
    main(sys.argv[1:])
