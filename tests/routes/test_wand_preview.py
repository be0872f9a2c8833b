"""The live mask's route for Magic Wand: against a real server, and bit by bit against the node."""

import io
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from pentimento.model_patchers.segment import magic_wand
from pentimento.routes import live
from pentimento.routes.live import LastPicture, Turn
from pentimento.routes.refused import Refused
from pentimento.routes.wand_preview import REGIONS, Preview, Request, remember

ASTRONAUT = {"filename": "pentimento_astronaut.png", "subfolder": "", "type": "input"}
SIDE = 512  # of the astronaut
PICKS = {"positive": [{"x": 170, "y": 390}, {"x": 305, "y": 355}], "negative": [{"x": 300, "y": 373}]}


@pytest.fixture
def ask(server):
    """Posts a request; the status and what came back: a mask (H, W) and the selected share, or a sentence."""

    def ask(body=None, **changes):
        whole = {"image": ASTRONAUT, "picks": json.dumps(PICKS), **changes}
        body = json.dumps(whole).encode() if body is None else body
        request = urllib.request.Request(
            f"{server}/pentimento/wand/preview", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                mask = np.array(Image.open(io.BytesIO(response.read())).convert("L")) > 0
                return response.status, mask, float(response.headers["X-Pentimento-Selected"])
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]

    return ask


@pytest.fixture
def from_node(host, node_classes, monkeypatch):
    """The mask (H, W) that Load Image, Pick Points and Magic Wand give for a text of picks."""
    import folder_paths

    from nodes import LoadImage

    monkeypatch.setattr(folder_paths, "input_directory", str(host.input))
    monkeypatch.setattr(folder_paths, "temp_directory", str(host.output))

    def from_node(picks, tolerance, contiguous, negative_coords=None):
        image, _ = LoadImage().load_image(ASTRONAUT["filename"])
        positive, negative, _ = node_classes["PentimentoPickPoints"].execute(image, picks).args
        negative = negative if negative_coords is None else negative_coords
        wand = node_classes["PentimentoMagicWand"]
        return wand.execute(image, positive, tolerance, contiguous, negative).args[0][0].numpy() > 0

    return from_node


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("tolerance", [0, 0.1, 0.25, 1])
def test_the_mask_is_the_nodes_bit_by_bit(ask, from_node, tolerance, contiguous):
    status, mask, share = ask(tolerance=tolerance, contiguous=contiguous)
    expected = from_node(json.dumps(PICKS), tolerance, contiguous)
    assert status == 200
    assert np.array_equal(mask, expected)
    assert share == pytest.approx(expected.mean(), abs=1e-6)


def test_picks_of_another_size_and_negative_points_of_the_wand_are_heeded(ask, from_node):
    double = {"width": 2 * SIDE, "height": 2 * SIDE, "positive": [{"x": 341, "y": 781}]}
    negative = '[{"x": 172, "y": 392}]'
    _, mask, _ = ask(picks=json.dumps(double), tolerance=0.2, negative_coords=negative)
    assert np.array_equal(mask, from_node(json.dumps(double), 0.2, True, negative))
    assert np.any(mask != ask(picks=json.dumps(double), tolerance=0.2, negative_coords="")[1])


@pytest.mark.parametrize(
    ("changes", "status", "part"),
    [
        ({"picks": ""}, 400, "There is no positive point."),
        ({"picks": "{"}, 400, "need JSON such as"),
        ({"picks": '{"positive": [{"x": 512, "y": 0}]}'}, 400, "does not lie in the 512 x 512 picture"),
        ({"negative_coords": '[{"x": 512, "y": 0}]'}, 400, "lies outside the 512 x 512 picture"),
        ({"negative_coords": 7}, 400, "not JSON with image and picks"),
        ({"tolerance": "0.1"}, 400, "not JSON with image and picks"),
        ({"tolerance": 1.5}, 400, "tolerance is 1.5; need a number from 0 to 1."),
        ({"tolerance": float("nan")}, 400, "tolerance is nan; need a number from 0 to 1."),
        ({"contiguous": 1}, 400, "not JSON with image and picks"),
        ({"image": {"filename": "../main.py", "type": "input"}}, 403, "outside the input"),
        ({"image": {"filename": "missing.png", "type": "input"}}, 404, "There is no picture"),
        ({"body": b"[]"}, 400, "not JSON with image and picks"),
        ({"body": b" " * (live.LIMIT + 1)}, 413, "longer than"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(ask, changes, status, part):
    code, sentence = ask(**changes)
    assert code == status
    assert part in sentence
    assert sentence.endswith(".")


def computed(monkeypatch):
    """The points of which regions are computed from now on."""
    points, region = [], magic_wand.region

    def counted(shown, point, tolerance, contiguous):
        points.append(point)
        return region(shown, point, tolerance, contiguous)

    monkeypatch.setattr(magic_wand, "region", counted)
    return points


def test_one_more_point_costs_one_more_region(host, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(host.input))
    points, preview = computed(monkeypatch), Preview()

    def mask(*positive, tolerance=0.1):
        picks = json.dumps({"positive": [{"x": x, "y": y} for x, y in positive]})
        request = Request(f"{ASTRONAUT['filename']} [input]", picks, tolerance, True)
        return preview.mask(request, Turn())

    mask((1, 2), (3, 4))
    assert points == [(1, 2), (3, 4)]
    both = mask((1, 2), (3, 4), (5, 6))
    assert points == [(1, 2), (3, 4), (5, 6)]
    preview.last.forget()
    assert mask((1, 2), (3, 4), (5, 6)) == both
    assert len(points) == 6
    mask((1, 2), tolerance=0.2)
    assert len(points) == 7


def test_the_kept_regions_are_bounded(monkeypatch):
    points, shown, memory = computed(monkeypatch), torch.zeros(1024, 1024, 3), {}
    most = REGIONS // 1024**2
    for x in range(most + 1):
        remember(memory, shown, (x, 0), 0.1, False)
    assert len(memory) == most
    remember(memory, shown, (most, 0), 0.1, False)
    assert len(points) == most + 1
    remember(memory, shown, (0, 0), 0.1, False)
    assert len(points) == most + 2


def test_a_picture_is_read_once_until_its_file_changes_or_a_while_has_passed(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    reads, last = [], LastPicture()
    monkeypatch.setattr(live, "read_picture", lambda name: reads.append(name) or len(reads))
    (tmp_path / "a.png").write_bytes(b"1")
    assert [last.read("a.png").image for _ in range(2)] == [1, 1]
    (tmp_path / "a.png").write_bytes(b"22")
    assert last.read("a.png").image == 2
    monkeypatch.setattr(live, "IDLE", 0.01)
    last.read("a.png")
    last.timer.join()
    assert last.picture is None


def test_a_request_that_was_replaced_stops_before_the_next_region(host, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(host.input))
    points, turn = computed(monkeypatch), Turn("a")
    region = magic_wand.region
    monkeypatch.setattr(magic_wand, "region", lambda *point: (setattr(turn, "replaced", True), region(*point))[1])
    request = Request(f"{ASTRONAUT['filename']} [input]", json.dumps(PICKS), 0.1, True)
    with pytest.raises(Refused) as refused:
        Preview().mask(request, turn)
    assert refused.value.status == 429
    assert len(points) == 1
