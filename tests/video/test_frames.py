"""Frames of clips against ComfyUI's Get Video Components, and the synthetic clips against themselves."""

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_video import CreateVideo, GetVideoComponents

from kit.clips import clip, psnr, write_video
from pentimento.model_patchers.video import frames as video_frames
from pentimento.model_patchers.video.frames import of_video

FORMS = {  # file name: what PyAV writes
    "h264.mp4": {"codec": "libx264", "format": "yuv420p", "options": {"g": "8", "bf": "2"}},
    "narrow.mp4": {"codec": "libx264", "format": "yuv420p", "width": 50, "height": 38},
    "odd.mkv": {"codec": "ffv1", "format": "yuv444p", "width": 51, "height": 37},
    "ten_bits.mp4": {"codec": "libx264", "format": "yuv420p10le"},
    "full_range.avi": {"codec": "mjpeg", "format": "yuvj420p", "width": 50, "height": 38},
    "palette.mov": {"codec": "png", "format": "pal8", "width": 51, "height": 37},
    "alpha.mov": {"codec": "png", "format": "rgba", "width": 51, "height": 37},
    "alpha_ten_bits.mov": {"codec": "prores_ks", "format": "yuva444p10le"},
    "bottom_up.avi": {"codec": "rawvideo", "format": "bgr24"},
    "stream.ts": {"codec": "mpeg2video", "format": "yuv420p", "options": {"bf": "2"}},
    "refresh.ts": {"codec": "libx264", "format": "yuv420p", "options": {"x264-params": "intra-refresh=1:keyint=8"}},
    "open_gop.mkv": {
        "codec": "libx264",
        "format": "yuv420p",
        "options": {"x264-params": "open-gop=1:keyint=8:bframes=3"},
    },
    "turned.mp4": {"codec": "libx264", "format": "yuv420p", "rotation": 90, "width": 50},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, form in FORMS.items():
        write_video(folder / name, **form)
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_frames_of_a_file_equal_get_video_components_in_any_order(files, name):
    video = InputImpl.VideoFromFile(str(files / name))
    images = GetVideoComponents.execute(video).result[0]
    frames = of_video(video)
    assert isinstance(frames, video_frames.VideoFrames)
    assert (len(frames), frames.height, frames.width) == images.shape[:3]
    for first in [*range(0, len(images), 7), *range(len(images) - 3, -1, -5), 20, 4, 12, 13]:
        assert torch.equal(frames[first : first + 7], images[first : first + 7]), first


@pytest.mark.parametrize(
    ("name", "window"),
    [
        *itertools.product(["h264.mp4", "open_gop.mkv"], [(0.3, 0.4), (0.31, 0), (-0.5, 0.2), (0.0, 0.5)]),
        ("stream.ts", (0.3, 0.4)),
        ("turned.mp4", (0.3, 0.4)),
    ],
    ids=str,
)
def test_trim_video_keeps_its_window(files, name, window):
    video = InputImpl.VideoFromFile(str(files / name), start_time=window[0], duration=window[1])
    images, frames = video.get_components().images, of_video(video)
    assert 0 < len(images) < 30
    assert len(frames) == len(images)
    for first in (0, len(images) - 2, 3, 1):
        assert torch.equal(frames[first : first + 4], images[first : first + 4])


def test_seeking_decodes_from_the_key_frame_before(files):
    """Key frames are 0, 8, 16, 24: of the frames before 20 only those from 16 on are decoded."""
    frames = of_video(InputImpl.VideoFromFile(str(files / "h264.mp4")))
    decoded = []
    decode = frames._decode
    frames._decode = lambda first: (decoded.append(frame.pts) or frame for frame in decode(first))
    frames[20:21]
    assert len(decoded) == 5
    frames[21:24]
    assert len(decoded) == 8  # goes on
    frames[2:3]
    assert len(decoded) == 11  # from the start


def test_where_a_key_frame_gives_other_pixels_decoding_starts_at_the_first(files):
    video = InputImpl.VideoFromFile(str(files / "h264.mp4"))
    images, frames = video.get_components().images, of_video(video)
    frames._entries[21] = video_frames.Entry(frames._entries[21].time, sum=-1)  # as if all before had given others
    assert torch.equal(frames[19:24], images[19:24])
    assert not frames._seeks
    assert torch.equal(frames[17:24], images[17:24])


def test_a_video_in_memory(files):
    stored = io.BytesIO((files / "h264.mp4").read_bytes())
    frames = [of_video(InputImpl.VideoFromFile(stored)) for _ in range(2)]
    images = InputImpl.VideoFromFile(stored).get_components().images
    for first in (0, 9, 5):  # the two do not move each other's place in the file
        assert all(torch.equal(each[first : first + 3], images[first : first + 3]) for each in frames)


def test_a_video_of_create_video_gives_its_pictures_themselves():
    images = clip(frames=4, height=40, width=52, side=8).frames
    frames = of_video(CreateVideo.execute(images, 24.0).result[0])
    assert torch.equal(frames[0:4], images)
    assert frames[1:3].data_ptr() == images[1:3].data_ptr()


def test_a_video_that_a_newer_comfyui_crops_is_read_whole(files):
    class Cropped(InputImpl.VideoFromFile):
        def get_dimensions(self):
            return 20, 10

        def get_components(self):
            components = super().get_components()
            return Types.VideoComponents(components.images[:, 5:15, 5:25], components.frame_rate)

    video = Cropped(str(files / "h264.mp4"))
    frames = of_video(video)
    assert torch.equal(frames[3:5], video.get_components().images[3:5])


def test_damaged_packets_are_left_out_as_in_comfyui(files, tmp_path):
    levels = bytearray((files / "open_gop.mkv").read_bytes())
    middle = len(levels) // 2
    levels[middle : middle + 400] = bytes(400)
    (tmp_path / "damaged.mkv").write_bytes(levels)
    video = InputImpl.VideoFromFile(str(tmp_path / "damaged.mkv"))
    images, frames = video.get_components().images, of_video(video)
    assert len(frames) == len(images)
    for first in (0, len(images) - 2, 10):
        assert torch.equal(frames[first : first + 5], images[first : first + 5])


def no_video(folder):
    write_video(folder / "x.mkv", audio=np.zeros((1, 800)))
    with av.open(str(folder / "x.mkv")) as source, av.open(str(folder / "sound.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return InputImpl.VideoFromFile(str(folder / "sound.mkv"))


def no_film(folder):
    (folder / "text.mp4").write_text("no film")
    return InputImpl.VideoFromFile(str(folder / "text.mp4"))


def changing_size(folder):
    """Two pieces of an MPEG stream."""
    write_video(folder / "a.ts", codec="mpeg2video", frames=4)
    write_video(folder / "b.ts", codec="mpeg2video", frames=4, width=96)
    (folder / "both.ts").write_bytes((folder / "a.ts").read_bytes() + (folder / "b.ts").read_bytes())
    return InputImpl.VideoFromFile(str(folder / "both.ts"))


def nothing_left(folder):
    write_video(folder / "short.mp4", frames=4)
    return InputImpl.VideoFromFile(str(folder / "short.mp4"), start_time=5)


def no_pictures(folder):
    return InputImpl.VideoFromComponents(Types.VideoComponents(torch.zeros(0, 8, 8, 3), Fraction(24)))


@pytest.mark.parametrize(
    ("video", "sentence"),
    [
        (no_film, r"video: the file 'text\.mp4' cannot be read \(.+\): it is damaged, or no video\. Connect another"),
        (no_video, r"video: the file 'sound\.mkv' has no pictures, sound at most\."),
        (changing_size, r"changes its size: frame 0 is 64 x 48, and frame \d is 96 x 48\. Choose a part"),
        (nothing_left, r"'short\.mp4' has no frames in the part that Trim Video leaves of it\."),
        (no_pictures, r"video has no frames\. Connect a video that has at least one\."),
    ],
)
def test_a_video_that_cannot_be_read_is_refused(video, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        of_video(video(tmp_path))


@pytest.mark.parametrize("motion", ["pan", "turn", "perspective"])
def test_the_clips_motion_is_that_of_their_pictures(motion):
    """The background of one frame, read where the true motion says, is the background of another."""
    scene = clip("gravel", motion, frames=6, height=90, width=120, side=20)
    x, y = np.meshgrid(np.arange(120.0), np.arange(90.0))
    moved = np.tensordot(scene.motion(0, 4), np.stack((x, y, np.ones_like(x))), 1)
    grid = torch.from_numpy(np.stack((moved[0] / moved[2] / 119, moved[1] / moved[2] / 89), -1) * 2 - 1).float()
    warped = torch.nn.functional.grid_sample(
        scene.background[4:5].movedim(-1, 1), grid[None], mode="bicubic", align_corners=True
    )[0].movedim(0, -1)
    inside = (grid.abs() < 0.95).all(-1)
    assert psnr(warped, scene.background[0], inside) > 33
    assert psnr(scene.background[4], scene.background[0], inside) < 20
