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

SIZE = (40, 80)


def read(folder: Path, *entries: Any, wrap: bool = False, size: tuple[int, int] = SIZE) -> list[Region]:
    path = folder / "regions.json"
    path.write_text(json.dumps(entries))
    return read_regions(path, size, wrap=wrap, max_pixels=10_000)


def area(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Tensor:
    """1 in the boxes (left, top, right, bottom), pixel by pixel."""
    return torch.tensor(
        [
            [
                float(any(box[0] <= x < box[2] and box[1] <= y < box[3] for box in boxes))
                for x in range(size[1])
            ]
            for y in range(size[0])
        ]
    )


# Reading.


@pytest.mark.parametrize(
    ("place", "boxes"),
    [
        ({"box": [10, 5, 30, 25]}, [(10, 5, 30, 25)]),
        ({"box": [0, 0, 80, 40]}, [(0, 0, 80, 40)]),
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
        ({**STRIP, "prompt": ""}, "a prompt"),
        ({**STRIP, "prompt": 3}, "a prompt"),
        ({**STRIP, "colour": "red"}, "colour"),
        ({**STRIP, "box": [0, 0, 9, 9]}, "one of box, strip and mask"),
        ({"prompt": "red"}, "one of box, strip and mask"),
        ({**STRIP, "guidance_scale": "3"}, "guidance_scale"),
        ({**STRIP, "guidance_scale": True}, "guidance_scale"),
        ({**STRIP, "guidance_scale": float("nan")}, "guidance_scale"),
        ({**STRIP, "guidance_scale": 10**400}, "guidance_scale"),
        ({**STRIP, "strip": [0, 9, 20]}, "2 numbers"),
        ({**STRIP, "strip": 9}, "2 numbers"),
        ({"prompt": "red", "box": [0, 0, 9]}, "4 numbers"),
        ({**STRIP, "strip": [0, "9"]}, "coordinates"),
        ({**STRIP, "strip": [0, "x%"]}, "coordinates"),
        ({**STRIP, "strip": [0, "nan%"]}, "coordinates"),
        ({**STRIP, "strip": [0, "inf%"]}, "coordinates"),
        ({**STRIP, "strip": [0, float("inf")]}, "coordinates"),
        ({**STRIP, "strip": [0, 10**400]}, "coordinates"),
        ({**STRIP, "strip": [False, True]}, "coordinates"),
        ({**STRIP, "strip": [0, 81]}, "inside the image of 80 x 40"),
        ({**STRIP, "strip": [0, "101%"]}, "inside the image"),
        ({**STRIP, "strip": [-1, 9]}, "inside the image"),
        ({**STRIP, "strip": [9, 9]}, "inside the image"),
        ({**STRIP, "strip": [70, 9]}, "inside the image"),
        ({"prompt": "red", "box": [0, 9, 9, 9]}, "inside the image"),
        ({"prompt": "red", "mask": 3}, "a file name"),
        ({"prompt": "red", "mask": ""}, "a folder"),
        ({"prompt": "red", "mask": "none.png"}, "none.png"),
        ({"prompt": "red", "mask": "small.png"}, "80x40"),
        ({"prompt": "red", "mask": "black.png"}, "an empty one"),
    ],
)
def test_what_is_no_region_is_one_line(tmp_path: Path, entry: Any, reported: str) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.full((40, 79), 255, np.uint8))
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError) as raised:
        read(tmp_path, STRIP, entry)
    assert reported in str(raised.value)
    assert "\n" not in str(raised.value)
    if isinstance(entry, dict) and not isinstance(entry.get("mask"), str):
        assert "regions: number 2: expected " in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "not valid JSON"),
        (b"[{]", "not valid JSON"),
        (b"\xff\xfe", "cannot read"),
        (b"{}", "a list of at least one region"),
        (b"[]", "a list of at least one region"),
        (b"null", "a list of at least one region"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path: Path, content: bytes, reported: str) -> None:
    path = tmp_path / "regions.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^regions: .*{reported}") as raised:
        read_regions(path, SIZE, wrap=False, max_pixels=10_000)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["none.json", "folder"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="regions: cannot read "):
        read_regions(tmp_path / name, SIZE, wrap=False, max_pixels=10_000)


@pytest.mark.parametrize(
    ("region", "reported"),
    [
        (Region(" ", torch.ones(SIZE)), "a prompt in every region"),
        (Region("red", torch.ones(40, 79)), "an area of"),
        (Region("red", torch.zeros(SIZE)), "pixels in it"),
    ],
)
def test_a_region_is_checked(region: Region, reported: str) -> None:
    with pytest.raises(UserError, match=reported):
        region.check(SIZE)


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
    # 16 to 23: one third of the square of 3 around a pixel next to the border is beyond it
    columns = torch.tensor([1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0])
    torch.testing.assert_close(shares["left"][2], columns.expand(8, 8))
    torch.testing.assert_close(shares["right"][2], 2 * (1 - columns).expand(8, 8))


GREY = torch.full((1, 3, *SIZE), 0.5)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("entry", [{"strip": [70, 10]}, {"box": [0, 10, 40, 40]}, {"mask": "m.png"}])
@pytest.mark.parametrize("prompt", [None, "blue"])
def test_shares_of_a_panorama_add_up_to_one(
    denoiser: InstructPix2Pix, tmp_path: Path, wrap: bool, entry: dict[str, Any], prompt: str | None
) -> None:
    if "strip" in entry and not wrap:
        entry = {"strip": ["50%", 80]}
    cv2.imwrite(str(tmp_path / "m.png"), np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8))
    regions = read(tmp_path, {"prompt": "red", **entry}, wrap=wrap)
    job = panorama(denoiser, GREY, prompt, regions=regions, wrap=wrap)
    assert list(job.prompts) == ["red"] + ([prompt] if prompt else [])
    for p in range(job.windows.num_particles):
        total = torch.as_tensor(sum(shares[p] for shares in job.prompts.values()))
        torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("borders", ["none", "margin"])
def test_shares_of_halves(denoiser: InstructPix2Pix, borders: str) -> None:
    halves = [Region("a", area((0, 0, 40, 40))), Region("b", area((40, 0, 80, 40)))]
    job = panorama(denoiser, GREY, "unused", regions=halves, borders=borders)
    assert set(job.prompts) == {"a", "b"}  # nothing is left for the rest
    shift = job.frame.margin[0] // 4
    for p, (_, left) in enumerate(job.windows.corners):
        columns = [abs(x - shift) for x in range(left, left + 8)]  # mirrored on the left
        columns = [2 * 20 - 1 - x if x >= 20 else x for x in columns]  # and on the right
        part = torch.tensor([{9: 2 / 3, 10: 1 / 3}.get(x, float(x < 10)) for x in columns])
        a, b = (torch.as_tensor(job.prompts[name][p]).expand(8, 8) for name in "ab")
        torch.testing.assert_close(a, part.expand(8, 8), rtol=0, atol=1e-5)
        torch.testing.assert_close(b, 1 - a)


def test_a_guidance_of_its_own_multiplies(denoiser: InstructPix2Pix) -> None:
    left, right = area((0, 0, 30, 40)), area((30, 0, 80, 40))
    plain = panorama(denoiser, GREY, None, regions=[Region("a", left), Region("b", right)])
    own = panorama(denoiser, GREY, None, regions=[Region("a", left, 7.5), Region("b", right)])
    torch.testing.assert_close(own.prompts["a"], [7.5 / 3.0 * share for share in plain.prompts["a"]])
    torch.testing.assert_close(own.prompts["b"], plain.prompts["b"])


def test_windows_beside_all_regions_are_left_out(denoiser: InstructPix2Pix) -> None:
    wide = torch.full((1, 3, 40, 160), 0.5)
    job = panorama(denoiser, wide, None, regions=[Region("a", area((0, 0, 8, 40), size=(40, 160)))])
    assert 0 < job.windows.num_particles < panorama(denoiser, wide, "a").windows.num_particles / 2
    assert all(share == 1 for share in job.prompts["a"])
