"""Frames and panoramas in files: pairs, files that cannot be read, and errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from csd_core.errors import UserError
from csd_core.evaluation.inputs import on_white, read_frame_pairs, read_pair, read_panorama_files
from csd_core.io.images import read_picture
from tests.csd_core.evaluation.drawn import darker, folder, image, pictures, tensors
from tests.csd_core.io.clips import clip, one_line


def same(found: object, expected: list[np.ndarray]) -> bool:
    several = list(found)  # type: ignore[call-overload]
    return len(several) == len(expected) and all(map(torch.equal, several, tensors(expected)))


def test_frames_of_folders_are_paired_in_the_order_of_their_names(tmp_path: Path):
    before = pictures(11)  # 10 comes after 9, not after 1
    pairs = read_frame_pairs(folder(tmp_path / "a", before), folder(tmp_path / "b", darker(before)))
    assert pairs.positions == tuple(range(11))
    assert pairs.names == [f"{k}.png" for k in range(11)]
    for _ in range(2):  # both can be iterated again
        assert same(pairs.sources, before)
        assert same(pairs.edited, darker(before))


def test_frames_are_selected_of_the_source_and_of_a_whole_edit(tmp_path: Path):
    before = pictures(7)
    source = folder(tmp_path / "a", before)
    whole, part = folder(tmp_path / "b", darker(before)), folder(tmp_path / "c", darker(before)[1:6:2])
    for edited in (whole, part):
        pairs = read_frame_pairs(source, edited, selection=slice(1, 6, 2))
        assert same(pairs.sources, before[1:6:2])
        assert same(pairs.edited, darker(before)[1:6:2])
    assert f"c: expected 7 frames as {source}, got 3; " in one_line(read_frame_pairs, source, part)
    video = clip(tmp_path / "a.mkv", before, codec="ffv1", pixels="bgr0")
    pairs = read_frame_pairs(video, whole, selection=slice(1, None))
    assert pairs.names == [f"frame {k}" for k in range(1, 7)]
    assert same(pairs.sources, before[1:])
    assert same(pairs.edited, darker(before)[1:])


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path):
    before = pictures(6)
    source, edited = folder(tmp_path / "a", before), folder(tmp_path / "b", darker(before))
    (source / "1.png").write_bytes(b"no picture")
    (edited / "4.png").write_bytes((edited / "4.png").read_bytes()[:200])
    pairs = read_frame_pairs(source, edited)
    assert pairs.positions == (0, 2, 3, 5)
    assert [line.split(":")[0] for line in pairs.broken] == [str(source / "1.png"), str(edited / "4.png")]
    assert same(pairs.edited, [darker(before)[k] for k in (0, 2, 3, 5)])
    part = read_frame_pairs(source, edited, selection=slice(3, None))
    assert (part.positions, len(part.broken)) == ((0, 2), 1)


def test_frames_that_are_left_out_have_no_mask(tmp_path: Path):
    before = pictures(3)
    source, edited = folder(tmp_path / "a", before), folder(tmp_path / "b", before)
    (edited / "1.png").write_bytes(b"")
    levels = [np.full((64, 64, 3), level, np.uint8) for level in (0, 51, 255)]
    pairs = read_frame_pairs(source, edited)
    assert [float(mask.max()) for mask in pairs.masks(folder(tmp_path / "m", levels))] == [0, 1]
    still = pairs.masks(image(tmp_path / "m.png", levels[2]))
    assert [mask.shape for mask in still] == [(64, 64), (64, 64)]
    assert "64x64 as the" in one_line(pairs.masks, image(tmp_path / "n.png", levels[2][:32]))


def test_transparent_pixels_are_white(tmp_path: Path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert on_white(read_picture(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 0, 1, 1]


def test_frames_that_do_not_fit_are_refused(tmp_path: Path):
    three = pictures(3)
    source = folder(tmp_path / "a", three)
    smaller = folder(tmp_path / "b", [picture[:48] for picture in three])
    mixed = folder(tmp_path / "c", [three[0], three[1][:48], three[2]])
    (tmp_path / "d").mkdir()
    broken = folder(tmp_path / "f", three)
    for path in broken.iterdir():
        path.write_bytes(b"x")
    wrong: list[tuple[Path, dict[str, Any], str]] = [
        (smaller, {}, r"b: expected 64x64 as .*a, got 64x48; "),
        (mixed, {}, r"c: expected frames of one size, got 64x64 in .* and 64x48 in 1.png"),
        (tmp_path / "d", {}, "d: expected pictures"),
        (tmp_path / "e.mp4", {}, r"e.mp4: .* no such file"),
        (source, {"max_frames": 2}, r"a: expected at most 2 frames, got 3; .*--max-frames"),
        (source, {"selection": slice(5, None)}, r"a: expected a selection .*none of 3 frames"),
        (broken, {}, "f: expected images that can be read, got none"),
    ]
    for edited, settings, message in wrong:
        with pytest.raises(UserError, match=message):
            read_frame_pairs(source, edited, **settings)


def test_panoramas_of_folders_are_paired_by_their_names(tmp_path: Path):
    a, b, m = (tmp_path / name for name in "abm")
    x, y = pictures(2, size=(64, 128))
    for path in (a, b, m):
        path.mkdir()
    for path, picture in ((a / "x.png", x), (a / "y.png", y), (b / "y.tif", y), (b / "x.jpg", x)):
        image(path, picture)
    found, broken = read_panorama_files(a, b)
    assert [(pair.name, pair.edited.name, pair.size) for pair in found] == [
        ("x.png", "x.jpg", (64, 128)),
        ("y.png", "y.tif", (64, 128)),
    ]
    assert broken == []
    assert same([read_pair(found[1], None).edited], [y])
    (b / "x.jpg").write_bytes(b"x")
    found, (line,) = read_panorama_files(a, b)
    assert [pair.name for pair in found] == ["y.png"]
    assert "x.jpg" in line
    assert "m: expected pictures" in one_line(read_panorama_files, a, b, m)
    image(m / "x.png", x)
    assert f"m: expected a mask named as {a / 'y.png'}" in one_line(read_panorama_files, a, b, m)
    (b / "y.tif").rename(b / "z.tif")
    assert f"b: expected an image named as {a / 'y.png'}" in one_line(read_panorama_files, a, b)


def test_panoramas_that_do_not_fit_are_refused(tmp_path: Path):
    wide = pictures(1, size=(64, 128))[0]
    one, narrow = image(tmp_path / "1.png", wide), image(tmp_path / "2.png", wide[:, :64])
    (tmp_path / "4.png").write_bytes(b"x")
    several = folder(tmp_path / "c", [wide])
    image(several / "0.jpg", wide)
    for files, message in (
        ((one, narrow), r"2.png: expected 128x64 as .*1.png, got 64x64"),
        ((one, tmp_path), "both of one kind, got a folder and a file"),
        ((one, tmp_path / "3.png"), r"3.png: .*no such file"),
        ((one, tmp_path / "4.png"), r"4.png: expected an image"),
        ((one, one, narrow), r"2.png: expected 128x64 as the image"),
        ((several, several), "differ in more than the suffix"),
    ):
        with pytest.raises(UserError, match=message):
            read_panorama_files(*files)
