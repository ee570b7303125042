"""What csd-edit-video alone does: containers, sound, frames, moving masks. The rest is in test_both."""

import errno
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from PIL import Image

from csd_core.io import video_writer
from csd_core.io.images import Picture, write_picture
from csd_core.io.video_sound import CopiedSound
from csd_core.io.video_writer import VideoWriter
from tests.csd_core.cli.commands import SIZE, VideoCommand, contents, moving, noise, soft_mask
from tests.csd_core.io.clips import NTSC, heard, save_animation
from tests.csd_core.io.odd_clips import damage, textured

# Any video, in and out.


def test_a_video_keeps_its_rate_and_its_sound(video: VideoCommand) -> None:
    source = video.use(moving(8, (44, 60)), "in.mp4", sound=["aac"])
    video.output = video.folder / "edited.mp4"
    assert video.edited(steps=1).shape == source.shape
    with av.open(video.output) as container:
        assert container.streams.video[0].average_rate == NTSC
        assert container.streams.video[0].codec_context.name == "h264"
    assert heard(video.output) == heard(video.input) != []
    assert "note" not in video.err
    video.edited("--no-sound", steps=1)
    with av.open(video.output) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("output", ["out.gif", "out.mkv", "out.webp", "out"])
def test_other_outputs_are_written(video: VideoCommand, output: str) -> None:
    video.use(moving(size=(20, 28)), "in.mp4")
    video.output = video.folder / output
    assert video(steps=1) == 0
    if output.endswith("webp"):
        with Image.open(video.output) as image:
            assert (getattr(image, "n_frames", 1), image.size) == (4, (28, 20))
    else:
        assert video.read(video.output).shape == (4, 20, 28, 3)


def test_a_gif_becomes_a_video(video: VideoCommand) -> None:
    video.input, video.output = video.folder / "in.gif", video.folder / "out.mp4"
    save_animation(video.input, [Image.fromarray(frame) for frame in moving(size=(20, 28))], [40] * 4)
    assert video.edited(steps=1).shape == (4, 20, 28, 3)
    with av.open(video.output) as container:
        assert container.streams.video[0].average_rate == 25


def test_codec_and_quality_reach_the_encoder(video: VideoCommand) -> None:
    expected = video.edited(steps=1)
    video.output = video.folder / "edited.mkv"
    np.testing.assert_array_equal(video.edited("--codec", "ffv1", steps=1), expected)
    sizes = []
    for crf in (5, 45):
        video.edited("--crf", crf, steps=1)
        sizes.append(video.output.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]
    assert "--codec" in video.refused("--codec", "nothing")
    assert "--crf" in video.refused("--crf", 99)
    assert "--crf" in video.refused("--output", video.folder / "pngs", "--crf", 20)


@pytest.mark.parametrize(("method", "total"), [("csd", "3/3"), ("ip2p-frame", "4/4")])
def test_progress_is_shown(video: VideoCommand, method: str, total: str) -> None:
    video.edited("--method", method)
    assert f"edit: 100%|██████████| {total} [" in video.err
    assert "write: 100%|██████████| 4/4 [" in video.err


def test_an_edit_to_a_container_is_resumed_to_the_same_frames(video: VideoCommand) -> None:
    video.output, options = video.output.with_name("edited.mp4"), ("--crf", 0, "--batch-size", 2)
    whole = video.edited(*options)
    video.output.write_bytes(b"before")
    video.stop(*options)
    assert video.output.read_bytes() == b"before"
    assert len(video.read(video.output.with_name("edited.step-2.mp4"))) == 4
    np.testing.assert_array_equal(video.edited("--resume", *options), whole)


# Writing that fails, damage, rates.


def test_sound_that_fails_after_the_edit_does_not_lose_it(
    video: VideoCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    video.use(moving(4, (44, 60)), "in.mp4", sound=["aac"])
    video.output = video.folder / "edited.mp4"

    def fail(*_: object) -> None:
        raise av.error.InvalidDataError(1, "Invalid data")

    with monkeypatch.context() as patch:
        patch.setattr(video_writer, "rehearse", lambda *_: [])
        patch.setattr(CopiedSound, "mux_to", fail)
        assert video() == 2
    assert video.err.splitlines()[-1] == (
        f"error: {video.input}: expected sound that .mp4 holds, got Invalid data; "
        "leave it out with --no-sound; the edit is kept: add --resume to write it without computing it again"
    )
    assert not video.output.exists()
    resumed = video.edited("--no-sound", "--resume")
    assert "edited.mp4: 0 evaluations" in video.out
    video.output = video.folder / "again.mp4"
    np.testing.assert_array_equal(resumed, video.edited("--no-sound"))


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_what_can_fail_in_writing_is_tried_before_the_edit(
    video: VideoCommand, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    video.use(moving(4, (44, 60)), "in.mp4", sound=["aac"])
    video.output = video.folder / "edited.mp4"
    real, copied = CopiedSound.mux_to, list[object]()

    def fail_late(self: CopiedSound, time: Fraction | None) -> None:
        copied.append(time)
        real(self, time)
        if time is None:
            raise av.error.InvalidDataError(1, "Invalid data")

    monkeypatch.setattr(CopiedSound, "mux_to", fail_late)
    assert "leave the sound out with --no-sound" in video.refused("--method", method)
    assert len(copied) == 5


def test_a_full_disk_after_the_edit_does_not_lose_it(
    video: VideoCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    video.use(moving(4, (44, 60)), "in.mp4")
    video.output = video.folder / "edited.mp4"

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", fail)
        assert video() == 2
    assert "note: the edit is kept: add --resume" in video.err
    assert "free some" in video.err.splitlines()[-1]
    assert video("--resume") == 0
    assert "edited.mp4: 0 evaluations" in video.out


def test_a_damaged_video_is_edited_if_asked(video: VideoCommand) -> None:
    frames = np.stack(textured(12))
    video.use(frames, "in.mp4", options={"bf": "0"})
    damage(video.input, 6)
    assert "--allow-corrupt" in video.refused()
    assert video("--allow-corrupt", steps=1) == 0
    assert "note: damaged frames are edited as they are: 1, the first at 0.20 s (frame 6)" in video.err


def test_the_rate_of_a_folder_is_chosen(video: VideoCommand) -> None:
    video.output = video.folder / "edited.mp4"
    for given, rate in (("30000/1001", NTSC), ("12.5", Fraction(25, 2))):
        video.edited("--frame-rate", given, steps=1)
        assert "note: a folder" not in video.err
        with av.open(video.output) as container:
            assert container.streams.video[0].average_rate == rate
    for wrong in ("0", "-3", "fast", "1/0", "nan", "1001"):
        assert f"got {wrong}" in video.refused(f"--frame-rate={wrong}")
    video.use(moving(4, (44, 60)), "in.mp4")
    assert "--frame-rate: expected none" in video.refused("--frame-rate", 25)


# Which frames, and at which size.


@pytest.mark.parametrize(("selection", "chosen"), [("1:4:2", [1, 3]), (":2", [0, 1])])
def test_a_part_of_the_frames(video: VideoCommand, selection: str, chosen: list[int]) -> None:
    source, part = video.source, video.edited("--frames", selection)
    assert video.manifest()["frames"] == len(chosen)
    video.use(source[chosen], "part")
    np.testing.assert_array_equal(part, video.edited())


@pytest.mark.parametrize("selection", ["a:b", "", "3", "3:2", "4:", "::0", "-3:", "::-1", "1:2:3:4"])
def test_a_bad_selection_is_one_line(video: VideoCommand, selection: str) -> None:
    refused = video.refused(f"--frames={selection}")
    assert "frames" in refused
    assert selection in refused


def test_too_much_is_refused(video: VideoCommand) -> None:
    refused = video.refused("--max-frames", 3)
    assert "at most 3 frames" in refused
    assert "--frames" in refused
    assert "max_frames" in video.refused("--max-frames", 0)
    assert "--max-pixels" in video.refused("--max-pixels", 45 * 61 - 1)
    assert video("--max-frames", 2, "--frames", "1:3", "--max-pixels", 45 * 61, steps=1) == 0


def test_the_resolution_is_that_of_the_short_side(video: VideoCommand) -> None:
    for given, size in (([], [32, 43]), (["--resolution", 20], [20, 27]), (["--resolution", 45], [45, 61])):
        assert video.edited(*given, steps=1).shape == (4, *SIZE, 3)
        assert video.manifest()["size_of_the_edit"] == size
    for resolution in (0, 3):
        assert "resolution: expected" in video.refused("--resolution", resolution)


def test_one_frame_is_edited_by_plain_score_distillation(video: VideoCommand) -> None:
    video.use(moving(1), "one")
    alone = video.edited("--learning-rate", 0.5)
    assert "note: this is one frame: there is none to agree with" in video.err
    np.testing.assert_array_equal(video.edited("--learning-rate", 0.5, "--method", "no-svgd"), alone)
    video.input = video.input / "f0.png"  # a still picture is a video of one frame
    np.testing.assert_array_equal(video.edited("--learning-rate", 0.5), alone)
    video.use(moving(2), "two")
    video.edited(steps=1)
    assert "one frame" not in video.err


def test_frames_exchange_gradients_unless_the_method_is_no_svgd(video: VideoCommand) -> None:
    for method, others in (("no-svgd", False), ("csd", True)):
        video.use()
        before = video.edited("--method", method)
        video.use(np.concatenate([moving()[:2], moving(seed=1)[2:3], moving()[3:]]))
        changed = (video.edited("--method", method) != before).any(axis=(1, 2, 3))
        assert changed.tolist() == [k == 2 or others for k in range(4)]


# Masks.


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_a_grey_mask_mixes(video: VideoCommand, method: str) -> None:
    source, mask = video.source.astype(int), soft_mask()
    free = video.edited("--method", method).astype(int)
    edited = video.edited("--method", method, *video.mask(mask)).astype(int)
    mixed = source + mask[..., None] / 255 * (free - source)
    np.testing.assert_allclose(edited, mixed, atol=0.8)


@pytest.mark.parametrize(
    ("name", "codec", "noted"), [("a.mp4", [], True), ("b", [], False), ("c.mkv", ["--codec", "ffv1"], False)]
)
def test_a_mask_and_a_lossy_encoder_get_a_note(
    video: VideoCommand, name: str, codec: list[str], noted: bool
) -> None:
    video.output = video.folder / name
    assert video(*codec, *video.mask(soft_mask()), steps=1) == 0
    assert ("lossy: outside the mask" in video.err) == noted


@pytest.mark.parametrize("chosen", [(), ("--frames", "1:4:2")])
def test_each_frame_has_its_mask(video: VideoCommand, chosen: Sequence[object]) -> None:
    masks = np.stack([np.roll(soft_mask(), 3 * k, axis=0) for k in range(4)])
    path = video.frames(np.stack([masks] * 3, axis=-1), "masks")
    edited = video.edited("--mask", path, *chosen)
    free = video.edited(*chosen)
    source, masks = (x[1:4:2] if chosen else x for x in (video.source, masks))
    np.testing.assert_array_equal(edited[masks == 0], source[masks == 0])
    np.testing.assert_array_equal(edited[masks == 255], free[masks == 255])
    assert (free[masks == 255] != source[masks == 255]).mean() > 0.5


def test_masks_that_do_not_fit_are_one_line(video: VideoCommand) -> None:
    masks = video.frames(np.full((3, *SIZE, 3), 255, np.uint8), "masks")
    assert "4 masks" in video.refused("--mask", masks)
    (masks / "f2.png").write_bytes(b"no picture")
    assert "f2.png" in video.refused("--mask", masks)


# Bad input and output.


def test_a_bad_folder_is_one_line(video: VideoCommand) -> None:
    empty = video.folder / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("none")
    assert str(empty) in video.refused("--video", empty)
    Image.fromarray(noise(20, 20, 3)).save(video.input / "f4.png")
    refused = video.refused()
    assert all(part in refused for part in ("61x45", "20x20", "f4.png"))
    (video.input / "f4.png").write_bytes((video.input / "f3.png").read_bytes()[:500])
    assert "f4.png" in video.refused()


def test_a_clip_that_is_cut_off_is_one_line(video: VideoCommand) -> None:
    video.use(moving(8, (44, 60)), "in.mp4")
    video.input.write_bytes(video.input.read_bytes()[:-3000])
    assert str(video.input) in video.refused()


@pytest.mark.parametrize("name", ["in", "in/edited", "in/edited.mp4", "in/f0.png"])
def test_nothing_is_written_among_the_frames(video: VideoCommand, name: str) -> None:
    assert str(video.folder / name) in video.refused("--output", video.folder / name)


@pytest.mark.parametrize("name", [".", "..", "/", ".mp4", ".png"])
def test_an_output_without_a_name_is_one_line(
    video: VideoCommand, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (video.folder / "here").mkdir()
    monkeypatch.chdir(video.folder / "here")
    assert f"{name}: expected a name" in video.refused("--output", name)


def test_a_folder_is_replaced_if_it_holds_frames_alone(video: VideoCommand) -> None:
    video.edited(steps=1)
    (video.output / "notes.txt").write_text("mine")
    assert "notes.txt" in video.refused()
    (video.output / "notes.txt").unlink()
    mask: Path = video.output / "0.png"
    write_picture(mask, Picture(np.full((*SIZE, 3), 255, np.uint8)))
    assert "a folder around an input" in video.refused("--mask", mask)
    mask.unlink()
    video.use(moving(2), "fewer")
    assert len(video.edited(steps=1)) == 2
    assert len(contents(video.output)) == 2
