"""A newcomer's way in the browser: the template, an own picture, one click, Run, the slider.

`hand` is a page's mouse, or something with its methods that moves slower.
"""

import json

import numpy as np
from PIL import Image, ImageDraw

from .front_end import READY
from .paths import PACK

WIDTH, HEIGHT = 300, 200  # of the user's own picture: a red disc on a grey gradient
DISC = (200, 100, 30)  # its middle and radius
RED = (200, 40, 40)
LANGUAGES = {  # of the browser: what it makes of the pack's texts
    "en-US": {},
    "zh-CN": json.loads((PACK / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["pentimento"],
}

STILL = """() => new Promise((done) => {
    let last, same = 0;
    const look = () => {
        const parts = document.querySelectorAll('.pentimento-frame, .pentimento-compare-frame, [data-node-id]');
        const places = [...parts].map((part) => Object.values(part.getBoundingClientRect().toJSON()));
        const now = String([places, window.app.canvas.ds.scale, window.app.canvas.ds.offset]);
        same = now === last ? same + 1 : 0;
        last = now;
        same < 5 ? requestAnimationFrame(look) : done();
    };
    look();
})"""
UPLOAD_BUTTON = """() => {
    const { canvas, graph } = window.app;
    const loader = graph.nodes.find(({ type }) => type === 'LoadImage');
    const button = loader.widgets.find(({ name }) => name === 'upload');
    const middle = [loader.pos[0] + loader.size[0] / 2, loader.pos[1] + button.last_y + 10];
    const [x, y] = canvas.convertOffsetToCanvas(middle);
    const area = canvas.canvas.getBoundingClientRect();
    return [area.x + x, area.y + y];
}"""


def own_picture():
    ramp = np.linspace(90, 110, WIDTH).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(ramp[None, :, None], (HEIGHT, WIDTH, 3)).copy())
    x, y, radius = DISC
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=RED)
    return picture


def disc():
    """Where the own picture is red: bool (H, W)."""
    return np.asarray(own_picture())[..., 0] == RED[0]


def open_gallery(page, address):
    """ComfyUI as it greets a new user: with its templates."""
    page.goto(address)
    page.get_by_test_id("template-workflows-content").wait_for()


def choose_category(page, hand):
    press(page.get_by_role("dialog").get_by_role("button", name="Pentimento"), hand)


def template(page, name):
    """The card of a template. The gallery makes more of them as it is scrolled."""
    card = page.get_by_test_id(f"template-workflow-{name}")
    page.locator("[data-testid^=template-workflow-]").first.wait_for()
    for _ in range(40):
        if card.count():
            break
        page.locator("[data-testid^=template-workflow-]").last.scroll_into_view_if_needed()
        page.wait_for_timeout(250)
    card.scroll_into_view_if_needed()
    return card


def choose_template(page, hand):
    press(template(page, "remove_without_models"), hand)
    page.wait_for_function(READY)
    page.get_by_role("dialog").wait_for(state="hidden")
    page.evaluate(STILL)


def upload(page, hand, file):
    """Chooses a picture with Load Image's button and waits until Pick Points shows it."""
    in_nodes2 = page.locator("label").filter(has=page.locator("input[type=file]"))
    with page.expect_file_chooser() as chooser:
        if in_nodes2.count():
            press(in_nodes2, hand)
        else:
            hand.click(*page.evaluate(UPLOAD_BUTTON))
    chooser.value.set_files(file)
    page.wait_for_function(f"() => document.querySelector('.pentimento-frame > img').src.includes('{file.stem}')")
    page.wait_for_function(READY)
    page.evaluate(STILL)


def press(target, hand):
    """Clicks the middle of an element when it stands still and nothing covers it."""
    target.click(trial=True)
    hand.click(*inside(target))


def inside(target, x=0.5, y=0.5):
    """Where on the screen a place of an element is; (x, y) from 0 to 1."""
    box = target.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def place_in_picture(page, x, y, width, height):
    """Where on the screen the middle of a pixel is."""
    return inside(page.locator(".pentimento-frame > img"), (x + 0.5) / width, (y + 0.5) / height)


def status(page, text):
    return page.get_by_role("status").filter(has_text=text)


def run(page, hand):
    press(page.get_by_test_id("queue-button"), hand)


def compared(page):
    """The pictures in Compare, after a run."""
    frame = page.locator(".pentimento-compare-frame")
    frame.wait_for(timeout=60_000)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.pentimento-compare-frame img')].every((image) => image.naturalWidth > 0)"
    )
    page.evaluate(STILL)
    return frame


def drag(hand, frame, start, end, steps=4):
    """Moves the slider from one place of the width to another, from 0 to 1."""
    hand.move(*inside(frame, start, 0.8))
    hand.down()
    hand.move(*inside(frame, end, 0.8), steps=steps)
    hand.up()


def slider(frame):
    """The percentage of the width that shows the first picture."""
    return float(frame.locator(".pentimento-compare-keys").input_value())
