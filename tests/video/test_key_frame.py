"""Key frames: how they are chained, what they give to SAM 2, and what is refused."""

import json
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from comfy_api.latest import InputImpl, Types

from pentimento.model_patchers.video import track
from pentimento.model_patchers.video.frames import ImageFrames
from pentimento.nodes.segment.mask_boxes import BoxesToMask
from pentimento.nodes.video.key_frame import KeyFrame
from pentimento.nodes.video.track import TrackToMask, TrackWithoutModel

CLIP = ImageFrames(torch.zeros(6, 90, 120, 3))
SIDE = 256
BOX = {"x": 30, "y": 20, "width": 60, "height": 50}


def points(*pairs):
    return json.dumps([{"x": x, "y": y} for x, y in pairs])


def key(frame=0, number=1, before=None, **prompt):
    prompt = prompt or {"positive_coords": points((70, 40))}
    return KeyFrame.execute(frame, number, before=before, **prompt).result[0]


def prompts(keys, clip=CLIP):
    return track.prompts(keys, clip, SIDE)


def drawn(height=90, width=120):
    mask = torch.zeros(1, height, width)
    mask[:, height // 3 : height // 2, width // 4 : width // 2] = 1
    return mask


def test_key_frames_are_chained_and_never_changed():
    first = key()
    second = key(-1, 3, bboxes=BOX, before=first)
    third = key(2, 3, mask=drawn(), before=second)
    assert [len(keys) for keys in (first, second, third)] == [1, 2, 3]
    assert third[:2] == second and second[:1] == first
    assert {number: list(own) for number, own in prompts(third).items()} == {1: [0], 3: [2, 5]}


def test_a_box_is_two_points_before_the_others_in_pixels_of_sam_2():
    keys = key(4, positive_coords=points((60, 45)), negative_coords=points((0, 0), (119, 89.5)), bboxes=BOX)
    prompt = prompts(keys)[1][4]
    assert prompt.labels.tolist() == [[2, 3, 1, 0, 0]] and prompt.mask is None
    expected = torch.tensor([[30, 20], [90, 70], [60, 45], [0, 0], [119, 89.5]]) / torch.tensor([120, 90]) * SIDE
    assert torch.allclose(prompt.coords, expected[None])


def test_a_mask_is_resized_as_the_original_does():
    (prompt,) = prompts(key(1, mask=drawn()))[1].values()
    expected = F.interpolate(drawn()[:, None], (SIDE, SIDE), mode="bilinear", antialias=True) >= 0.5
    assert torch.equal(prompt.mask, expected.float()) and prompt.coords is None
    for same in (0.6 * drawn(), drawn()[0], drawn()[None], drawn(180, 240)):
        (other,) = prompts(key(1, mask=same))[1].values()
        assert (other.mask != prompt.mask).float().mean() < 0.01


def test_of_masks_and_boxes_for_each_frame_those_of_the_frame_count():
    masks = torch.zeros(6, 90, 120)
    masks[3] = drawn()[0]
    assert torch.equal(prompts(key(-3, mask=masks))[1][3].mask, prompts(key(3, mask=drawn()))[1][3].mask)
    boxes = [[], [], [], [BOX], [], []]
    assert torch.equal(prompts(key(3, bboxes=boxes))[1][3].coords, prompts(key(3, bboxes=BOX))[1][3].coords)
    with pytest.raises(ValueError, match="^mask of the Key Frame of object 1 on frame 2 selects nothing there"):
        prompts(key(2, mask=masks))
    with pytest.raises(ValueError, match="^bboxes of the Key Frame of object 1 on frame 2 has no box for this frame"):
        prompts(key(2, bboxes=boxes))


def test_a_blank_mask_beside_points_is_ignored():
    assert key(mask=torch.zeros(1, 64, 64), positive_coords=points((1, 2)))[0].mask is None


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"negative_coords": points((1, 2))}, "^Object 2 has no prompt on frame 5: positive_coords, bboxes and mask"),
        ({"bboxes": [[]]}, "^Object 2 has no prompt on frame 5"),
        ({"mask": torch.zeros(1, 64, 64)}, "^mask selects nothing, so object 2 has no prompt on frame 5"),
        ({"mask": drawn(), "bboxes": BOX}, "^Object 2 has a mask and also points or a box on frame 5"),
        ({"mask": drawn(), "negative_coords": points((1, 2))}, "^Object 2 has a mask and also points"),
        ({"positive_coords": "here"}, "^positive_coords is not a list of points: got 'here'"),
        ({"mask": torch.zeros(0, 9, 9)}, "^mask is an empty batch"),
    ],
)
def test_what_is_refused_without_the_clip(prompt, message):
    with pytest.raises(ValueError, match=message):
        key(5, 2, **prompt)


def test_wrong_texts_are_told_before_the_run():
    assert "positive_coords is not a list" in KeyFrame.validate_inputs("here", "")
    assert "negative_coords is not a list" in KeyFrame.validate_inputs("", "there")
    assert KeyFrame.validate_inputs(points((1, 2)), None) is True


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (key(6), r"^Key Frame is for frame 6 of object 1, but the clip has 6 frames: 0 to 5, or -1 to -6"),
        (key(-7), r"^Key Frame is for frame -7 of object 1, but the clip has 6"),
        (key(5, before=key(-1)), "^Object 1 has two key frames on frame 5. "),
        (key(bboxes=[BOX, BOX]), "^bboxes of the Key Frame of object 1 on frame 0 has 2 boxes, and an object has one"),
        (key(bboxes=[[BOX]] * 4), "^bboxes of the Key Frame of object 1 on frame 0 has boxes for 4 pictures"),
        (
            key(positive_coords=points((120, 3))),
            r"^positive_coords of the Key Frame .* has the point \(120, 3\), ",
        ),
        (
            key(mask=drawn().repeat(4, 1, 1)),
            "^mask of the Key Frame of object 1 on frame 0 is a batch of 4, but ",
        ),
        (key(mask=drawn(90, 90)), "^mask of the Key Frame of object 1 on frame 0 is 90 x 90 but the clip is 120 x 90"),
    ],
)
def test_what_does_not_match_the_clip_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        prompts(keys)


def test_two_prompts_for_one_object_and_frame_are_refused():
    with pytest.raises(ValueError, match="^Object 2 has two key frames on frame 3. Put all points into one Key Frame"):
        key(3, 2, before=key(3, 2))
    assert len(key(3, 1, before=key(3, 2))) == 2


def test_a_mask_too_thin_for_sam_2_is_refused():
    line = torch.zeros(1, 900, 1200)
    line[:, 450] = 1
    with pytest.raises(ValueError, match="is too thin for SAM 2, which sees a frame as 256 x 256 pixels. Grow"):
        prompts(key(mask=line), ImageFrames(torch.zeros(1, 900, 1200, 3)))


def moved(keys, clip=CLIP, **inputs):
    result = TrackWithoutModel.execute(keys, images=clip.images, **inputs).result[0]
    return TrackToMask.execute(result, "", 0, 0).result[0]


def test_without_a_model_a_box_moves_from_key_frame_to_key_frame():
    masks = moved(key(-1, bboxes=BOX | {"x": 40}, before=key(1, bboxes=BOX)))
    for mask, x in zip(masks, (30, 30, 32, 35, 38, 40), strict=True):
        box = torch.zeros(90, 120)
        box[20:70, x : x + 60] = 1
        assert x in (32, 38) or torch.equal(mask, box)
        assert (mask != box).sum() <= 2 * 50


@pytest.mark.parametrize(("x", "width", "pixels"), [(30.6, 20.3, slice(30, 50)), (30.2, 0.2, slice(30, 31))])
def test_without_a_model_a_box_with_fractions_has_the_pixels_of_boxes_to_mask(x, width, pixels):
    """Also where the box lies inside one pixel."""
    box = BOX | {"x": x, "width": width}
    mask = moved(key(bboxes=box))
    assert mask[0, 20:70, pixels].all() and mask[0].sum() == 50 * (pixels.stop - pixels.start)
    assert torch.equal(mask[:1], BoxesToMask.execute(box, CLIP.images[:1], "one mask").result[0])


def test_without_a_model_several_objects_share_pixels_or_not():
    keys = key(0, 2, mask=drawn(), before=key(0, 1, bboxes=BOX))
    together = moved(keys)
    assert torch.equal(together[0], torch.maximum(moved(key(bboxes=BOX))[0], drawn()[0]))
    track = TrackWithoutModel.execute(keys, images=CLIP.images, overlap=False).result[0]
    one, two = (TrackToMask.execute(track, number, 0, 1).result[0] for number in "12")
    assert not (one * two).any() and torch.equal(one + two, together[:1])


def test_without_a_model_a_video_gives_what_its_pictures_give():
    keys = key(-1, bboxes=BOX | {"x": 40}, before=key(1, mask=drawn()))
    video = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=CLIP.images, audio=None, frame_rate=Fraction(25))
    )
    track = TrackWithoutModel.execute(keys, video).result[0]
    assert torch.equal(TrackToMask.execute(track, "", 0, 0).result[0], moved(keys))


@pytest.mark.parametrize(
    ("keys", "inputs", "sentence"),
    [
        (key(3), {}, "^The Key Frame of object 1 on frame 3 needs a mask or a box, and has points. Paint a mask"),
        (key(3, bboxes=BOX, positive_coords=points((60, 45))), {}, "has points"),
        (key(2, bboxes=[[BOX], [], [], [], [], []]), {}, "has no box for this frame"),
        (key(6, bboxes=BOX), {}, "frame 6 of object 1, but the clip has 6 frames"),
        (key(mask=drawn().repeat(2, 1, 1)), {}, "is a batch of 2, but the clip has 6 frames"),
        (key(bboxes=BOX), {"images": None}, "video or from images. None is connected"),
        (key(bboxes=BOX), {"video": object()}, "Both are connected: disconnect one"),
    ],
)
def test_without_a_model_sentences(keys, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrackWithoutModel.execute(keys, **{"images": CLIP.images} | inputs)
