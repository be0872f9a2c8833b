"""A VIDEO that was written frame by frame: read by PyAV and ComfyUI, saved by Save Video, and gone on failure."""

import gc
import secrets
from fractions import Fraction
from pathlib import Path

import av
import folder_paths
import numpy as np
import pytest
import torch
from comfy.cli_args import args
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_video import SaveVideo

from kit.clips import clip, write_video
from pentimento.model_patchers.video.video_out import LosslessVideo, bit_depth, writing


@pytest.fixture(autouse=True)
def temp(tmp_path, monkeypatch):
    folder = tmp_path / "temp"
    monkeypatch.setattr(folder_paths, "temp_directory", str(folder))
    return folder


@pytest.fixture(scope="module")
def frames():
    return clip(frames=20, height=38, width=50, side=8).frames


def of_pictures(frames, rate=24, audio=None, bits=8):
    return InputImpl.VideoFromComponents(Types.VideoComponents(frames, Fraction(rate), audio), bit_depth=bits)


def written(like, frames):
    with writing(like, *frames.shape[1:3]) as writer:
        for window in frames.split(7):
            writer.write(window)
    return writer.video


def decoded(video, form):
    with av.open(video.get_stream_source()) as container:
        return np.stack([frame.to_ndarray(format=form) for frame in container.decode(video=0)])


def test_eight_bits_come_back_exactly(frames):
    video = written(of_pictures(frames), frames)
    assert (decoded(video, "rgb24") == (frames.numpy() * 255).round()).all()
    assert video.get_bit_depth() == 8
    assert torch.equal(video.get_components().images, frames)  # FFV1's bgr0 comes back up to a level darker


@pytest.mark.parametrize(("bits", "form"), [(10, "gbrp10le"), (12, "gbrp12le"), (16, "gbrp16le")])
def test_more_bits_come_back_exactly(frames, bits, form):
    fine = (frames * 0.7 + 0.1).sqrt()
    video = written(of_pictures(fine, bits=bits), fine)
    assert (decoded(video, form) == (fine * (2**bits - 1)).round().numpy()).all()
    assert video.get_bit_depth() == bits
    assert (video.get_components().images - fine).abs().max() < 0.6 / 255


def test_values_beyond_0_and_1_are_clamped(frames):
    beyond = frames * 4 - 1.5
    for bits in (8, 10):
        video = written(of_pictures(frames, bits=bits), beyond)
        clamped = written(of_pictures(frames, bits=bits), beyond.clamp(0, 1))
        assert (decoded(video, "rgb24") == decoded(clamped, "rgb24")).all()


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(25, 2), Fraction(24), Fraction(60)], ids=str)
def test_the_rate_and_the_number_of_frames(frames, rate):
    video = written(of_pictures(frames, rate), frames)
    assert video.get_frame_rate() == video.get_components().frame_rate == rate
    assert video.get_frame_count() == 20
    assert video.get_duration() == pytest.approx(20 / rate, abs=1e-3)


class Older(InputImpl.VideoFromFile):
    """A VIDEO of ComfyUI 0.24, which cannot say how many bits it has."""

    @property
    def get_bit_depth(self):
        raise AttributeError


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_the_bits_of_a_file_are_read_where_comfyui_does_not_say_them(frames, bits):
    video = written(of_pictures(frames, bits=bits), frames)
    assert bit_depth(Older(str(video.get_stream_source()))) == bit_depth(video) == bits


@pytest.mark.parametrize("window", [(0, 0), (0.3, 0.5), (0.31, 0), (-0.4, 0.2)], ids=str)
@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv"])
def test_the_sound_of_a_file_stays_to_the_bit(tmp_path, name, window):
    wave = np.sin(np.arange(9000) / 7) * np.linspace(0, 1, 9000)
    write_video(tmp_path / name, audio=np.stack((wave, wave[::-1])))
    source = InputImpl.VideoFromFile(str(tmp_path / name), start_time=window[0], duration=window[1])
    before = source.get_components()
    after = written(source, before.images).get_components()
    assert after.audio["sample_rate"] == before.audio["sample_rate"] == 8000
    assert torch.equal(after.audio["waveform"], before.audio["waveform"])
    assert len(after.images) == len(before.images)
    assert after.frame_rate == before.frame_rate


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_the_sound_of_create_video(frames, channels):
    waveform = torch.rand(1, channels, 5000) * 2 - 1
    video = written(of_pictures(frames, audio={"waveform": waveform, "sample_rate": 22050}), frames)
    audio = video.get_components().audio
    assert audio["sample_rate"] == 22050
    assert torch.equal(audio["waveform"], waveform)


def test_without_sound(frames, tmp_path):
    assert written(of_pictures(frames), frames).get_components().audio is None
    write_video(tmp_path / "silent.mp4", frames=20)
    silent = InputImpl.VideoFromFile(str(tmp_path / "silent.mp4"))
    assert written(silent, frames).get_components().audio is None


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("choice", ["auto", "h264"])
def test_save_video_encodes_it_anew(frames, bits, choice, tmp_path, monkeypatch):
    """As it is without LosslessVideo.save_to, it would copy a stream that no browser shows."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setattr(args, "disable_metadata", True)
    audio = {"waveform": torch.rand(1, 2, 40000), "sample_rate": 44100}
    video = written(of_pictures(frames, Fraction(30000, 1001), audio, bits), frames)
    SaveVideo.execute(video, "x", "auto", {"codec": choice})
    with av.open(str(tmp_path / "x_00001_.mp4")) as saved:
        stream = saved.streams.video[0]
        assert stream.codec.name == "h264"
        assert stream.format.name == {8: "yuv420p", 10: "yuv420p10le"}[bits]
        assert stream.average_rate == Fraction(30000, 1001)
        assert [len(saved.streams.audio), stream.frames] == [1, 20]
    video.as_trimmed(0.1, 0.4).save_to(str(tmp_path / "part.mp4"))
    with av.open(str(tmp_path / "part.mp4")) as part:
        assert part.streams.video[0].codec.name == "h264"


def test_the_file_goes_away_with_the_last_video_that_reads_it(frames, temp):
    video = written(of_pictures(frames), frames)
    part = video.as_trimmed(0.2, 0.3)
    assert isinstance(video, LosslessVideo)
    assert len(list(temp.iterdir())) == 1
    del video
    gc.collect()
    assert len(part.get_components().images) == 7
    del part
    gc.collect()
    assert not list(temp.iterdir())


@pytest.mark.parametrize("error", [RuntimeError, InterruptProcessingException, KeyboardInterrupt])
def test_nothing_is_left_of_a_run_that_fails(frames, temp, error):
    with pytest.raises(error), writing(of_pictures(frames), 38, 50) as writer:
        writer.write(frames[:7])
        raise error
    assert not list(temp.iterdir())


def test_no_room_on_the_disk(temp, monkeypatch):
    """/dev/full is a disk without room."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    temp.mkdir()
    monkeypatch.setattr(secrets, "token_hex", lambda count: "full")
    (temp / "pentimento_full.mp4").symlink_to("/dev/full")
    noise = torch.rand(9, 200, 200, 3)
    with pytest.raises(ValueError, match=r"no room for the result in ComfyUI's temp folder '.+': it was full after \d"):
        written(of_pictures(noise), noise)
    assert not list(temp.iterdir())
