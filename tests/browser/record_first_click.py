"""Records a newcomer's first click for the README: python tests/browser/record_first_click.py ADDRESS OUT.webp

ADDRESS is a ComfyUI with the pack and a new --user-directory. The steps are those of the test in tests/host/,
with the demo's rocket in the place of an own picture.
"""

import io
import runpy
import sys
import urllib.request
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

PACK = Path(__file__).resolve().parents[2]
load_package = runpy.run_path(str(PACK / "host" / "load_package.py"))["load_package"]
load_package("kit", PACK / "tests" / "kit")
load_package("pentimento_host", PACK / "host")

from kit import first_click  # noqa: E402
from pentimento_host import system  # noqa: E402

PICTURE = PACK / "host" / "photographs" / "rocket.jpg"
SIZE = (640, 427)  # of the picture
BODY, NOSE = (320, 260), (328, 150)  # places in it
SCREEN = (1120, 700)
ANSWERED = 1500  # ms: the mask under the pointer is the last one
WIDTH, STRIP = 800, 34  # of the recording, and the height of its caption
ARROW = ((0, 0), (0, 21), (5, 16), (9, 24), (13, 22), (9, 15), (16, 15))

LOOK = """([types, scale, share]) => {
    const { ds, graph, canvas } = window.app.canvas;
    const nodes = graph.nodes.filter(({ type }) => types.includes(type));
    const ends = [0, 1].map((axis) => [
        Math.min(...nodes.map(({ pos }) => pos[axis])),
        Math.max(...nodes.map(({ pos, size }) => pos[axis] + size[axis])),
    ]);
    const area = canvas.getBoundingClientRect();
    const goal = ends.map(([low, high], axis) => [area.width, area.height + 40][axis] / 2 / scale - (low + high) / 2);
    const mix = (from, to) => from + (to - from) * share;
    const start = [...ds.offset, ds.scale];
    ds.scale = mix(start[2], scale);
    [0, 1].forEach((axis) => { ds.offset[axis] = mix(start[axis], goal[axis]); });
    window.app.canvas.setDirty(true, true);
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Hand:
    """A mouse whose moves are filmed, with the arrow that a screenshot lacks."""

    def __init__(self, page):
        self.page = page
        self.at = (SCREEN[0] * 0.6, SCREEN[1] * 0.6)
        self.caption = ""
        self.held = False
        self.frames, self.times = [], []

    def film(self, ms):
        self.page.evaluate(DRAWN)
        shot = Image.open(io.BytesIO(self.page.screenshot(type="jpeg", quality=95))).convert("RGB")
        draw = ImageDraw.Draw(shot)
        x, y = self.at
        if self.held:
            draw.ellipse((x - 16, y - 16, x + 16, y + 16), outline=(255, 210, 60), width=4)
        draw.polygon([(x + dx, y + dy) for dx, dy in ARROW], fill=(255, 255, 255), outline=(0, 0, 0))
        height = round(WIDTH * SCREEN[1] / SCREEN[0])
        frame = Image.new("RGB", (WIDTH, height + STRIP), (30, 30, 34))
        frame.paste(shot.resize((WIDTH, height), Image.LANCZOS))
        font = ImageFont.load_default(18)
        ImageDraw.Draw(frame).text((14, height + STRIP / 2), self.caption, (235, 235, 235), font, anchor="lm")
        self.frames.append(frame)
        self.times.append(ms)

    def move(self, x, y, steps=5):
        start = self.at
        for step in range(1, steps + 1):
            share = step / steps
            share = share * share * (3 - 2 * share)
            self.at = tuple(a + (b - a) * share for a, b in zip(start, (x, y), strict=True)) if step < steps else (x, y)
            self.page.mouse.move(*self.at)
            self.film(70)

    def down(self):
        self.page.mouse.down()
        self.held = True

    def up(self):
        self.page.mouse.up()
        self.held = False

    def click(self, x, y):
        if self.at != (x, y):
            self.move(x, y)
        self.held = True
        self.film(350)
        self.held = False
        self.page.mouse.click(x, y)

    def look(self, *types, scale):
        """Brings nodes to the middle of the screen."""
        for left in (4, 3, 2, 1):
            self.page.evaluate(LOOK, [types, scale, 1 / left])
            self.film(90)
        self.page.evaluate(first_click.STILL)


def play(page, hand, address):
    hand.caption = "1   Templates: choose Pentimento, then remove_without_models"
    first_click.open_gallery(page, address)
    hand.film(900)
    first_click.choose_category(page, hand)
    hand.film(900)
    first_click.choose_template(page, hand)
    hand.film(1200)

    hand.caption = "2   Photograph: upload your own picture"
    hand.look("LoadImage", "PentimentoPickPoints", scale=0.95)
    hand.film(500)
    first_click.upload(page, hand, PICTURE)
    hand.film(900)

    hand.caption = "3   Pick Points: hovering shows what a click selects; click"
    hand.move(*first_click.place_in_picture(page, *BODY, *SIZE))
    page.locator(".pentimento-hover").wait_for()
    page.wait_for_timeout(ANSWERED)
    hand.film(1200)
    pick(page, hand, BODY, "1 point \u00b7")
    pick(page, hand, NOSE, "2 points \u00b7")

    hand.caption = "4   Run"
    first_click.run(page, hand)
    hand.film(500)
    frame = first_click.compared(page)
    hand.caption = "5   Compare: move the slider"
    hand.look("PentimentoCompare", scale=1.05)
    hand.film(700)
    first_click.drag(hand, frame, 0.5, 0.95, steps=7)
    first_click.drag(hand, frame, 0.95, 0.08, steps=12)
    hand.film(2500)


def pick(page, hand, place, text):
    hand.move(*first_click.place_in_picture(page, *place, *SIZE))
    page.wait_for_timeout(ANSWERED)
    hand.click(*hand.at)
    first_click.status(page, text).filter(has_text="selected").wait_for()
    page.locator(".pentimento-mask").wait_for()
    hand.film(1300)


def main(address, out):
    nodes2 = urllib.request.Request(f"{address}/settings/Comfy.VueNodes.Enabled", b"true", method="POST")
    urllib.request.urlopen(nodes2)
    minimap = urllib.request.Request(f"{address}/settings/Comfy.Minimap.Visible", b"false", method="POST")
    urllib.request.urlopen(minimap)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system.browser(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=dict(zip(("width", "height"), SCREEN, strict=True)), locale="en-US")
        hand = Hand(page)
        play(page, hand, address)
    first, *rest = hand.frames
    first.save(out, save_all=True, append_images=rest, duration=hand.times, loop=0, quality=60, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
