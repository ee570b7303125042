"""Frames and panoramas in files: pairs, files that cannot be read, and errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.errors import UserError
from csd_core.evaluation.inputs import on_white, read_frame_pairs, read_pair, read_panorama_files
from csd_core.io.images import read_picture
from tests.csd_core.evaluation.drawn import darker, folder, image, pictures, tensors
from tests.csd_core.io.clips import clip


def same(found: object, expected: list[torch.Tensor]) -> bool:
    several = list(found)  # type: ignore[call-overload]
    return len(several) == len(expected) and all(map(torch.equal, several, expected))


def test_frames_of_folders_are_paired_in_the_order_of_their_names(tmp_path: Path):
    before = pictures(11)  # 10 comes after 9, not after 1
    pairs = read_frame_pairs(folder(tmp_path / "a", before), folder(tmp_path / "b", darker(before)))
    assert pairs.positions == tuple(range(11))
    assert pairs.names == [f"{k}.png" for k in range(11)]
    for _ in range(2):  # both can be iterated again
        assert same(pairs.sources, tensors(before))
        assert same(pairs.edited, tensors(darker(before)))


def test_frames_are_selected_of_the_source_and_of_a_whole_edit(tmp_path: Path):
    before = pictures(7)
    source = folder(tmp_path / "a", before)
    whole, part = folder(tmp_path / "b", darker(before)), folder(tmp_path / "c", darker(before)[1:6:2])
    for edited in (whole, part):
        pairs = read_frame_pairs(source, edited, selection=slice(1, 6, 2))
        assert same(pairs.sources, tensors(before[1:6:2]))
        assert same(pairs.edited, tensors(darker(before)[1:6:2]))
    with pytest.raises(UserError, match=r"c: expected 7 frames as .*a, got 3; "):
        read_frame_pairs(source, part)


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path):
    before = pictures(6)
    source, edited = folder(tmp_path / "a", before), folder(tmp_path / "b", darker(before))
    (source / "1.png").write_bytes(b"no picture")
    (edited / "4.png").write_bytes((edited / "4.png").read_bytes()[:200])
    pairs = read_frame_pairs(source, edited)
    assert pairs.positions == (0, 2, 3, 5)
    assert [line.split(":")[0] for line in pairs.broken] == [str(source / "1.png"), str(edited / "4.png")]
    assert same(pairs.edited, [tensors(darker(before))[k] for k in (0, 2, 3, 5)])
    part = read_frame_pairs(source, edited, selection=slice(3, None))
    assert (part.positions, len(part.broken)) == ((0, 2), 1)


def test_videos_are_paired_with_folders(tmp_path: Path):
    before = np.stack(pictures(5))
    video = clip(tmp_path / "a.mkv", list(before), codec="ffv1", pixels="bgr0")
    pairs = read_frame_pairs(video, folder(tmp_path / "b", darker(list(before))), selection=slice(1, None))
    assert pairs.names == ["frame 1", "frame 2", "frame 3", "frame 4"]
    assert same(pairs.sources, tensors(list(before[1:])))
    assert same(pairs.edited, tensors(darker(list(before))[1:]))


def test_frames_that_are_left_out_have_no_mask(tmp_path: Path):
    before = pictures(3)
    source, edited = folder(tmp_path / "a", before), folder(tmp_path / "b", before)
    (edited / "1.png").write_bytes(b"")
    levels = [np.full((64, 64, 3), level, np.uint8) for level in (0, 51, 255)]
    moving = read_frame_pairs(source, edited).masks(folder(tmp_path / "m", levels))
    assert [float(mask.max()) for mask in moving] == [0, 1]
    still = read_frame_pairs(source, edited).masks(image(tmp_path / "m.png", levels[2]))
    assert [mask.shape for mask in still] == [(64, 64), (64, 64)]
    with pytest.raises(UserError, match="64x64 as the"):
        read_frame_pairs(source, edited).masks(image(tmp_path / "n.png", levels[2][:32]))


def test_transparent_pixels_are_white(tmp_path: Path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert on_white(read_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 1]


def test_frames_that_do_not_fit_are_refused(tmp_path: Path):
    three = pictures(3)
    source = folder(tmp_path / "a", three)
    smaller = folder(tmp_path / "b", [picture[:48] for picture in three])
    with pytest.raises(UserError, match=r"b: expected 64x64 as .*a, got 64x48; "):
        read_frame_pairs(source, smaller)
    mixed = folder(tmp_path / "c", [three[0], three[1][:48], three[2]])
    with pytest.raises(
        UserError, match=r"c: expected frames of one size, got 64x64 in .* and 64x48 in 1.png"
    ):
        read_frame_pairs(source, mixed)
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="d: expected pictures"):
        read_frame_pairs(source, tmp_path / "d")
    with pytest.raises(UserError, match=r"e.mp4: .* no such file"):
        read_frame_pairs(source, tmp_path / "e.mp4")
    with pytest.raises(UserError, match=r"a: expected at most 2 frames, got 3; .*--max-frames"):
        read_frame_pairs(source, source, max_frames=2)
    with pytest.raises(UserError, match=r"a: expected a selection .*none of 3 frames"):
        read_frame_pairs(source, source, selection=slice(5, None))
    broken = folder(tmp_path / "f", three)
    for path in broken.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="f: expected images that can be read, got none"):
        read_frame_pairs(source, broken)


def test_panoramas_of_folders_are_paired_by_their_names(tmp_path: Path):
    wide = pictures(2, size=(64, 128))
    for name in ("a", "b", "m"):
        (tmp_path / name).mkdir()
    image(tmp_path / "a" / "x.png", wide[0])
    image(tmp_path / "a" / "y.png", wide[1])
    image(tmp_path / "b" / "y.tif", wide[1])
    image(tmp_path / "b" / "x.jpg", wide[0])
    found, broken = read_panorama_files(tmp_path / "a", tmp_path / "b")
    assert [(pair.name, pair.edited.name, pair.size) for pair in found] == [
        ("x.png", "x.jpg", (64, 128)),
        ("y.png", "y.tif", (64, 128)),
    ]
    assert broken == []
    assert same([read_pair(found[1], None).edited], tensors([wide[1]]))
    (tmp_path / "b" / "x.jpg").write_bytes(b"x")
    found, broken = read_panorama_files(tmp_path / "a", tmp_path / "b")
    assert [pair.name for pair in found] == ["y.png"]
    assert len(broken) == 1
    assert "x.jpg" in broken[0]
    with pytest.raises(UserError, match=r"m: expected pictures"):
        read_panorama_files(tmp_path / "a", tmp_path / "b", tmp_path / "m")
    image(tmp_path / "m" / "x.png", wide[0])
    with pytest.raises(UserError, match=r"m: expected a mask named as .*y.png"):
        read_panorama_files(tmp_path / "a", tmp_path / "b", tmp_path / "m")
    (tmp_path / "b" / "y.tif").rename(tmp_path / "b" / "z.tif")
    with pytest.raises(UserError, match=r"b: expected an image named as .*y.png"):
        read_panorama_files(tmp_path / "a", tmp_path / "b")


def test_panoramas_that_do_not_fit_are_refused(tmp_path: Path):
    wide = pictures(1, size=(64, 128))[0]
    one = image(tmp_path / "1.png", wide)
    for second, said in (
        (image(tmp_path / "2.png", wide[:, :64]), r"2.png: expected 128x64 as .*1.png, got 64x64"),
        (tmp_path, "both of one kind, got a folder and a file"),
        (tmp_path / "3.png", r"3.png: .*no such file"),
    ):
        with pytest.raises(UserError, match=said):
            read_panorama_files(one, second)
    (tmp_path / "4.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"4.png: expected an image"):
        read_panorama_files(one, tmp_path / "4.png")
    with pytest.raises(UserError, match=r"2.png: expected 128x64 as the image"):
        read_panorama_files(one, one, tmp_path / "2.png")
    folder(tmp_path / "c", [wide])
    image(tmp_path / "c" / "0.jpg", wide)
    with pytest.raises(UserError, match="differ in more than the suffix"):
        read_panorama_files(tmp_path / "c", tmp_path / "c")
