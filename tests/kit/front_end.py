"""ComfyUI's front end in Chromium: tabs, workflows and the widget of Pick Points on the screen."""

import contextlib
import json
import urllib.request
import uuid

LOAD = """async ({graph, nodes2}) => {
    await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', nodes2);
    await window.app.loadGraphData(graph);
}"""
LOOK = """(scale) => {
    const graph = window.app.canvas.graph;
    window.app.canvas.ds.scale = scale;
    window.app.canvas.centerOnNode(graph.nodes.find(({ type }) => type === 'PentimentoPickPoints'));
    window.app.canvas.setDirty(true, true);
}"""
READY = "() => document.querySelector('.pentimento-frame > img')?.naturalWidth > 0"
PATIENCE = 120_000  # ms: the server computes, and other tests keep the processor busy
SETTLE = 300  # ms: the canvas draws, and moves the widget, on its next frames


def ready(page):
    """Waits until ComfyUI and the pack are there."""
    page.wait_for_function("window.app?.graph && window.app.extensionManager?.command")
    page.wait_for_function(
        "['PentimentoCompare', 'PentimentoPickPoints'].every((type) => type in LiteGraph.registered_node_types)"
    )


@contextlib.contextmanager
def open_tab(browser, server, width=1600, height=1000, **screen):
    """A tab with ComfyUI, past the templates that greet a new user; it leaves the classic canvas to the next."""
    setting = urllib.request.Request(f"{server}/settings/Comfy.TutorialCompleted", b"true", method="POST")
    urllib.request.urlopen(setting)
    page = browser.new_page(viewport={"width": width, "height": height}, **screen)
    page.set_default_timeout(PATIENCE)
    page.goto(server)
    ready(page)
    yield page
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    page.close()


def speak(server, language):
    """Sets the front end's language; a tab speaks it after a reload."""
    request = urllib.request.Request(f"{server}/settings/Comfy.Locale", json.dumps(language).encode(), method="POST")
    urllib.request.urlopen(request)


def show(page, scale):
    """Brings Pick Points to the middle of the screen, with its picture."""
    page.wait_for_function(READY)
    page.evaluate(LOOK, scale)
    page.locator(".pentimento-keys").wait_for()
    page.wait_for_timeout(SETTLE)


def upload(server, name, content):
    """Puts a picture in the server's temp folder; the name that Load Image takes."""
    mark = uuid.uuid4().hex
    parts = [b'Content-Disposition: form-data; name="type"\r\n\r\ntemp\r\n']
    parts += [
        f'Content-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: image/*\r\n\r\n'.encode()
        + content
        + b"\r\n"
    ]
    body = b"".join(f"--{mark}\r\n".encode() + part for part in parts) + f"--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    urllib.request.urlopen(urllib.request.Request(f"{server}/upload/image", body, headers))
    return f"{name} [temp]"
