import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from csd_core.canvas.regions import Region, mask_files, read_regions, share_out
from csd_core.canvas.windows import Windows
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import UserError
from tests.csd_core.canvas.quick import panorama
from tests.csd_core.io.clips import one_line

SIZE = (40, 80)


def read(folder: Path, *entries: Any, wrap: bool = False, size: tuple[int, int] = SIZE) -> list[Region]:
    path = folder / "regions.json"
    path.write_text(json.dumps(entries))
    return read_regions(path, size, wrap=wrap, max_pixels=10_000)


def area(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Tensor:
    """1 in the boxes (left, top, right, bottom), pixel by pixel."""
    rows, columns = (torch.arange(side) for side in size)
    inside = torch.zeros(size)
    for left, top, right, bottom in boxes:
        inside[((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)] = 1
    return inside


# Reading.


@pytest.mark.parametrize(
    ("place", "boxes"),
    [
        ({"box": [10, 5, 30, 25]}, [(10, 5, 30, 25)]),
        ({"box": ["25%", "10%", "50%", "100%"]}, [(20, 4, 40, 40)]),
        ({"box": [0, 0, "12.5%", 7.4]}, [(0, 0, 10, 7)]),
        ({"strip": [0, "50%"]}, [(0, 0, 40, 40)]),
        ({"strip": [79, 80]}, [(79, 0, 80, 40)]),
    ],
)
@pytest.mark.parametrize("wrap", [False, True])
def test_places(
    tmp_path: Path, place: dict[str, Any], boxes: list[tuple[int, int, int, int]], wrap: bool
) -> None:
    (region,) = read(tmp_path, {"prompt": "red", **place}, wrap=wrap)
    assert torch.equal(region.area, area(*boxes))
    assert region.area.dtype == torch.float32
    assert (region.prompt, region.guidance_scale) == ("red", None)


def test_around_the_seam(tmp_path: Path) -> None:
    entries = {"prompt": "a", "strip": [70, 10]}, {"prompt": "b", "box": ["75%", 5, 5, 9]}
    first, second = read(tmp_path, *entries, wrap=True)
    assert torch.equal(first.area, area((70, 0, 80, 40), (0, 0, 10, 40)))
    assert torch.equal(second.area, area((60, 5, 80, 9), (0, 5, 5, 9)))


def test_a_mask_may_be_soft_and_lies_beside_the_file(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    (tmp_path / "areas").mkdir()
    cv2.imwrite(str(tmp_path / "areas" / "left.png"), levels)
    entries = {"prompt": "a", "mask": "areas/left.png", "guidance_scale": 3}, {"prompt": "b", "strip": [0, 5]}
    soft, _ = read(tmp_path, *entries)
    np.testing.assert_allclose(soft.area.numpy(), levels / 255, atol=1e-6)
    assert soft.guidance_scale == 3
    assert mask_files(tmp_path / "regions.json") == [tmp_path / "areas" / "left.png"]


STRIP = {"prompt": "red", "strip": [0, 9]}


@pytest.mark.parametrize(
    ("entry", "reported"),
    [
        (3, "an object"),
        ({}, "a prompt"),
        ({**STRIP, "prompt": "\udc80"}, "text in UTF-8"),
        ({**STRIP, "colour": "red"}, "colour"),
        ({**STRIP, "box": [0, 0, 9, 9]}, "one of box, strip and mask"),
        ({**STRIP, "guidance_scale": "3"}, "guidance_scale"),
        ({**STRIP, "guidance_scale": 10**400}, "guidance_scale"),
        ({**STRIP, "guidance_scale": float("nan")}, "guidance_scale"),
        ({**STRIP, "strip": [0, 9, 20]}, "2 numbers"),
        ({"prompt": "red", "box": [0, 0, 9]}, "4 numbers"),
        ({**STRIP, "strip": [0, "9"]}, "coordinates"),
        ({**STRIP, "strip": [0, "x%"]}, "coordinates"),
        ({**STRIP, "strip": [0, 10**400]}, "coordinates"),
        ({**STRIP, "strip": [False, True]}, "coordinates"),
        ({**STRIP, "strip": [0, 81]}, "inside the image of 80 x 40"),
        ({**STRIP, "strip": [-1, 9]}, "inside the image"),
        ({**STRIP, "strip": [9, 9]}, "inside the image"),
        ({**STRIP, "strip": [70, 9]}, "inside the image"),
        ({"prompt": "red", "box": [0, 9, 9, 9]}, "inside the image"),
        ({"prompt": "red", "mask": 3}, "a file name"),
        ({"prompt": "red", "mask": "none.png"}, "none.png"),
        ({"prompt": "red", "mask": "black.png"}, "an empty one"),
    ],
)
def test_what_is_no_region_is_one_line(tmp_path: Path, entry: Any, reported: str) -> None:
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros(SIZE, np.uint8))
    message = one_line(read, tmp_path, STRIP, entry)
    assert reported in message
    if isinstance(entry, dict) and not isinstance(entry.get("mask"), str):
        assert message.startswith(f"{tmp_path / 'regions.json'}: region 2: expected ")
    assert "; " in message  # what to do


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"[{]", "expected JSON, got a mistake: .* line 1 column 3 .*; correct it"),
        (b"", "expected JSON, got a mistake"),
        (b"[\xff]", "expected JSON in UTF-8, got .*; save it as UTF-8"),
        (b"\xff\xfe[", "expected JSON in UTF-8"),
        (b"{}", "expected a list of at least one region, got an object; write "),
        (b"[]", "expected a list of at least one region, got an empty list; write "),
        (b"[" * 100_000, "expected a list of regions, got brackets in brackets"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path: Path, content: bytes, reported: str) -> None:
    path = tmp_path / "regions.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path}: {reported}") as raised:
        read_regions(path, SIZE, wrap=False, max_pixels=10_000)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / ("a" * 300)):
        message = one_line(read_regions, path, SIZE, wrap=False, max_pixels=10_000)
        assert message.startswith(f"{path}: expected a file of regions, got ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_editors_write(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "regions.json"
    cv2.imwrite(str(tmp_path / "a.png"), np.full(SIZE, 255, np.uint8))
    entries = [{"prompt": "rendre l'été", "strip": [0, 9]}, {"prompt": "red", "mask": "a.png"}]
    path.write_text(json.dumps(entries, ensure_ascii=False), encoding=encoding)
    regions = read_regions(path, SIZE, wrap=False, max_pixels=10_000)
    assert [region.prompt for region in regions] == ["rendre l'été", "red"]
    assert mask_files(path) == [tmp_path / "a.png"]


def test_a_region_is_checked() -> None:
    assert "a prompt in every region" in one_line(Region(" ", torch.ones(SIZE)).check, SIZE)
    assert "an area of" in one_line(Region("red", torch.ones(40, 79)).check, SIZE)
    assert "pixels in it" in one_line(Region("red", torch.zeros(SIZE)).check, SIZE)


# Shares.


def slow_shares(
    areas: list[tuple[str, Tensor, float]], windows: Windows, factor: int, fade: int
) -> dict[tuple[str, int], Tensor]:
    """(prompt, window) -> shares (h, w), counted pixel by pixel."""
    height, width = windows.height, windows.width

    def near(area: Tensor, y: int, x: int) -> float:
        rows = [v for v in range(y - fade // 2, y + fade // 2 + 1) if 0 <= v < height]
        columns = [u for u in range(x - fade // 2, x + fade // 2 + 1) if windows.wrap or 0 <= u < width]
        blocks = [
            area[0, 0, v * factor : (v + 1) * factor, u % width * factor : (u % width + 1) * factor].mean()
            for v in rows
            for u in columns
        ]
        return float(torch.stack(blocks).mean())

    shares: dict[tuple[str, int], Tensor] = {}
    for p, (top, left) in enumerate(windows.corners):
        for y in range(windows.window):
            for x in range(windows.window):
                parts = [near(area, top + y, (left + x) % width) for _, area, _ in areas]
                for (prompt, _, guidance), part in zip(areas, parts, strict=True):
                    share = shares.setdefault((prompt, p), torch.zeros(windows.window, windows.window))
                    share[y, x] += guidance * part / sum(parts)
    return shares


@pytest.mark.parametrize(
    ("wrap", "factor", "fade"), [(False, 1, 3), (True, 4, 3), (True, 1, 1), (False, 4, 5)]
)
def test_shares_are_those_of_the_area_around_each_pixel(wrap: bool, factor: int, fade: int) -> None:
    windows = Windows(10, 22, 8, 5, batch_size=3, wrap=wrap, origin=15 if wrap else 0)
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(1, 1, 10 * factor, 22 * factor, generator=generator)
    left = torch.zeros_like(soft)
    left[..., : 9 * factor + factor // 2] = 1
    areas = [("left", left, 1.0), ("soft", soft, 2.5), ("rest", 1 - left, 1.0), ("left", soft, 0.5)]
    shares = share_out(areas, windows, factor, fade)
    assert list(shares) == ["left", "soft", "rest"]
    for (prompt, p), slow in slow_shares(areas, windows, factor, fade).items():
        found = torch.as_tensor(shares[prompt][p]).expand(8, 8)
        torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)


def test_inside_a_region_a_share_is_a_number() -> None:
    windows = Windows(8, 40, 8, 8, batch_size=1)
    left = torch.zeros(1, 1, 8, 40)
    left[..., :20] = 1
    shares = share_out([("left", left, 1.0), ("right", 1 - left, 2.0)], windows, 1, fade=3)
    assert [shares["left"][p] for p in (0, 1, 3, 4)] == [1, 1, 0, 0]
    assert [shares["right"][p] for p in (0, 1, 3, 4)] == [0, 0, 2, 2]


GREY = torch.full((1, 3, *SIZE), 0.5)
SOFT = torch.rand(SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("area", [area((0, 10, 40, 40)), area((70, 0, 80, 40), (0, 0, 10, 40)), SOFT])
@pytest.mark.parametrize("prompt", [None, "blue"])
def test_shares_of_a_panorama_add_up_to_one(
    denoiser: InstructPix2Pix, wrap: bool, area: Tensor, prompt: str | None
) -> None:
    job = panorama(denoiser, GREY, prompt, regions=[Region("red", area)], wrap=wrap)
    assert list(job.prompts) == ["red"] + ([prompt] if prompt else [])
    for p in range(job.windows.num_particles):
        total = torch.as_tensor(sum(shares[p] for shares in job.prompts.values()))
        torch.testing.assert_close(total, torch.ones_like(total))


def test_a_guidance_of_its_own_multiplies(denoiser: InstructPix2Pix) -> None:
    left, right = area((0, 0, 30, 40)), area((30, 0, 80, 40))
    plain = panorama(denoiser, GREY, "unused", regions=[Region("a", left), Region("b", right)])
    assert set(plain.prompts) == {"a", "b"}  # nothing is left for the rest
    own = panorama(denoiser, GREY, None, regions=[Region("a", left, 7.5), Region("b", right)])
    torch.testing.assert_close(own.prompts["a"], [7.5 / 3.0 * share for share in plain.prompts["a"]])
    torch.testing.assert_close(own.prompts["b"], plain.prompts["b"])


def test_windows_beside_all_regions_are_left_out(denoiser: InstructPix2Pix) -> None:
    wide = torch.full((1, 3, 40, 160), 0.5)
    job = panorama(denoiser, wide, None, regions=[Region("a", area((0, 0, 8, 40), size=(40, 160)))])
    assert 0 < job.windows.num_particles < panorama(denoiser, wide, "a").windows.num_particles / 2
    assert all(share == 1 for share in job.prompts["a"])
