import pytest
import torch

from csd_core.image_ops import blend, editor_size, fit_to_editor, pad_to_multiple, resize


def ramp(height: int, width: int) -> torch.Tensor:
    """Smooth image (3, H, W) in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])


@pytest.mark.parametrize(
    ("size", "expected"), [((135, 240), (128, 228)), ((240, 135), (228, 128)), ((64, 64), (128, 128))]
)
def test_the_short_side_becomes_the_native_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert editor_size(*size, native_size=128) == expected
    assert fit_to_editor(ramp(*size), 128).shape == (3, *expected)


@pytest.mark.parametrize("size", [(135, 240), (97, 61)])
def test_there_and_back_is_the_image(size: tuple[int, int]) -> None:
    image = ramp(*size)
    back = resize(fit_to_editor(image, 64), size)
    torch.testing.assert_close(back, image, rtol=0, atol=0.02)


def test_the_right_size_is_left_alone() -> None:
    image = ramp(32, 40)
    assert fit_to_editor(image, 32) is image


def test_resizing_does_not_leave_the_range() -> None:
    checkers = (torch.arange(40)[:, None] // 4 + torch.arange(40) // 4).remainder(2).float().expand(3, 40, 40)
    for size in ((100, 100), (23, 17)):
        out = resize(checkers, size)
        assert out.min() >= 0
        assert out.max() <= 1


def test_fine_stripes_become_grey() -> None:
    stripes = torch.arange(64).remainder(2).float().expand(3, 64, 64)
    torch.testing.assert_close(resize(stripes, (16, 16)), torch.full((3, 16, 16), 0.5), rtol=0, atol=0.05)


def test_padding_mirrors_the_edge() -> None:
    padded = pad_to_multiple(torch.arange(5.0).expand(1, 3, 8, 5), 8)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(padded, 8) is padded


def test_padding_of_an_image_smaller_than_its_mirror_repeats() -> None:
    padded = pad_to_multiple(torch.arange(2.0).expand(1, 3, 2, 2), 8)
    assert padded[0, 0, 0].tolist() == [0, *[1] * 7]


def test_a_blend_keeps_the_source_to_the_bit_where_the_mask_is_zero() -> None:
    source, edited = ramp(6, 8)[None], 1 - ramp(6, 8)[None]
    mask = torch.zeros(6, 8)
    mask[1:3], mask[3:] = 0.25, 1
    mixed = blend(source, edited, mask)
    assert torch.equal(mixed[:, :, 0], source[:, :, 0])
    assert torch.equal(mixed[:, :, 3:], edited[:, :, 3:])
    torch.testing.assert_close(mixed[:, :, 1:3], (0.75 * source + 0.25 * edited)[:, :, 1:3])
    assert blend(source, edited, None) is edited
