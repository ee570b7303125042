"""Measures of whole edits, against numpy and the measures of metrics."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from csd_core.errors import UserError
from csd_core.evaluation import Borders, Captions, PanoramaPair, Reiterable, Tools
from csd_core.evaluation.measures import CAP_DB, Measured
from csd_core.evaluation.measuring import (
    cut,
    measure_panorama,
    measure_panoramas,
    measure_video,
    measure_views,
    squares,
)
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.evaluation.metrics.flow import warp_errors
from csd_core.evaluation.metrics.pixels import psnr, seam_score
from tests.csd_core.evaluation.drawn import CAPTIONS, darker, pictures, tensors

TWO = Captions(*CAPTIONS)
FROM_FEATURES = (
    "directional_similarity",
    "image_similarity",
    "image_consistency",
    "source_image_consistency",
    "text_similarity",
    "direction_consistency",
)


def by_key(several: list[Measured]) -> dict[str, Measured]:
    assert len({one.key for one in several}) == len(several)
    return {one.key: one for one in several}


def frames(count: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    before = pictures(count)
    return tensors(before), tensors(darker(before))


def unit(features: torch.Tensor) -> np.ndarray:
    found = features.double().numpy()
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / lengths


def by_hand(
    extractor: ClipExtractor, before: list[torch.Tensor], after: list[torch.Tensor]
) -> dict[str, np.ndarray]:
    """The measures of features in numpy."""
    s, e = unit(extractor.images(before)), unit(extractor.images(after))
    t, t2 = unit(extractor.texts(list(CAPTIONS)))
    return {
        "directional_similarity": cosines(e - s, (t2 - t)[None]),
        "image_similarity": cosines(e, s),
        "image_consistency": cosines(e[:-1], e[1:]),
        "source_image_consistency": cosines(s[:-1], s[1:]),
        "text_similarity": cosines(e, t2[None]),
        "direction_consistency": cosines((e - s)[:-1], (e - s)[1:]),
    }


def test_measures_of_features_are_those_of_numpy(extractor: ClipExtractor):
    before, after = frames()
    found = by_key(measure_video(before, after, TWO, Tools(extractor)))
    for key, expected in by_hand(extractor, before, after).items():
        np.testing.assert_allclose(found[key].values, expected, atol=1e-6)
        assert found[key].mean == pytest.approx(expected.mean())
        assert found[key].error == pytest.approx(expected.std(ddof=1) / math.sqrt(len(expected)))
        assert found[key].n == len(expected)
        assert np.ptp(expected) > 1e-5  # a model that sees no difference would prove nothing


def test_warp_errors_are_those_of_metrics_and_have_a_value_for_each_pair():
    before, after = frames()
    after[2] = after[2] + 0.1
    found = by_key(measure_video(before, after, TWO, Tools()))
    expected = list(zip(*warp_errors(after, before), strict=True))
    assert [found[key].values for key in ("warp_error", "source_warp_error")] == expected
    assert len(found["warp_error"].values) == 3
    assert found["warp_error"].values[0] < found["warp_error"].values[1]


def test_pairs_across_a_gap_do_not_count(extractor: ClipExtractor):
    before, after = frames(5)
    whole = by_key(measure_video(before, after, TWO, Tools(extractor)))
    kept = [0, 1, 3, 4]
    part = by_key(
        measure_video(
            [before[k] for k in kept], [after[k] for k in kept], TWO, Tools(extractor), positions=kept
        )
    )
    for key in ("image_consistency", "direction_consistency", "warp_error", "source_warp_error"):
        expected = [whole[key].values[k] for k in (0, 3)]
        np.testing.assert_allclose(part[key].values, expected, atol=1e-6)
    expected = [whole["image_similarity"].values[k] for k in kept]
    np.testing.assert_allclose(part["image_similarity"].values, expected, atol=1e-6)


def test_networks_that_are_missing_say_why():
    before, after = frames(2)
    tools = Tools(missing=["LPIPS: no alexnet.pth", "FID: no inception.pth"])
    found = by_key(measure_video(before, after, TWO, tools))
    assert found["lpips"].missing == "no alexnet.pth"
    assert found["fid"].missing == "no inception.pth"
    assert {key for key, one in found.items() if one.missing} == {
        *FROM_FEATURES,
        "lpips",
        "fid",
        "psnr_outside_mask",
    }
    assert all(one.n == 0 for one in found.values() if one.missing)


def test_one_frame_has_no_pairs_and_too_small_a_frame_no_flow(extractor: ClipExtractor):
    before, after = frames(1)
    found = by_key(measure_video(before, after, TWO, Tools(extractor)))
    assert found["image_similarity"].n == 1
    assert found["warp_error"].values == found["image_consistency"].values == ()
    small = [image[:, :6, :6] for image in frames(2)[0]]
    found = by_key(measure_video(small, small, TWO, Tools()))
    assert "8 and 12 pixels" in found["warp_error"].missing


@pytest.mark.parametrize("captions", [("", "b"), ("a", "  "), ("a", "a ")])
def test_captions_are_two_that_differ(captions: tuple[str, str]):
    before, after = frames(1)
    with pytest.raises(UserError, match="caption"):
        measure_views(before, after, Captions(*captions), Tools())


def test_pixels_outside_the_mask_are_compared():
    before, after = frames(2)
    mask = torch.zeros(64, 64)
    mask[:, :32] = 0.5  # edited in part: it is not outside
    found = by_key(measure_views(before, after, TWO, Tools(), mask=mask))["psnr_outside_mask"]
    expected = [psnr(b[..., 32:], a[..., 32:]) for b, a in zip(before, after, strict=True)]
    assert found.values == pytest.approx(expected)
    kept = [torch.where(mask > 0, a, b) for b, a in zip(before, after, strict=True)]
    found = by_key(measure_views(before, kept, TWO, Tools(), mask=[mask, torch.ones(64, 64)]))
    values = found["psnr_outside_mask"].values
    assert values[0] == CAP_DB
    assert math.isnan(values[1])


def test_two_images_are_in_memory_at_a_time():
    before, after = frames(6)
    alive = most = 0

    def stream(several: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        nonlocal alive, most
        for image in several:
            alive += 1
            most = max(most, alive)
            yield image.clone()
            alive -= 1

    found = measure_video(Reiterable(lambda: stream(before)), Reiterable(lambda: stream(after)), TWO, Tools())
    assert by_key(found)["warp_error"].n == 5
    assert most == 2  # one of each


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), [(0, 0, 64)]),
        ((64, 128), [(0, 0, 64), (0, 64, 64)]),
        ((64, 144), [(0, 0, 64), (0, 40, 64), (0, 80, 64)]),
        ((65, 64), [(0, 0, 64), (1, 0, 64)]),
    ],
)
def test_squares_cover_a_picture_evenly(size: tuple[int, int], expected: list[tuple[int, int, int]]):
    assert squares(size) == expected
    image = torch.arange(size[0] * size[1]).reshape(size)
    assert torch.cat([part.flatten() for part in cut(image)]).unique().numel() == image.numel()


def test_a_panorama_is_measured_by_its_parts(extractor: ClipExtractor):
    (before,), (after,) = tensors(pictures(1, size=(64, 160))), tensors(pictures(1, 1, size=(64, 160)))
    found = by_key(measure_panorama(before, after, TWO, Tools(extractor)))
    expected = by_hand(extractor, list(cut(before)), list(cut(after)))
    assert len(expected["image_similarity"]) == 3
    for key in expected:
        np.testing.assert_allclose(found[key].values, expected[key], atol=1e-6)
    assert found["seam_score"].missing == "the windows are not known; name them with --window and --stride"
    assert found["psnr_outside_mask"].missing == "no mask was given"
    assert not {"lpips", "warp_error"} & set(found)


def test_seams_and_pixels_outside_a_mask_have_a_value_for_each_panorama(extractor: ClipExtractor):
    befores = tensors(pictures(2, size=(64, 128)))
    afters = [image.clone() for image in befores]
    afters[0][..., 64:] = (afters[0][..., 64:] + 0.3).clamp(max=1)
    mask = torch.zeros(64, 128)
    mask[:, 64:] = 1
    borders = Borders((), (64,))
    pairs = [PanoramaPair(b, a, mask, borders) for b, a in zip(befores, afters, strict=True)]
    found = by_key(measure_panoramas(pairs, TWO, Tools(extractor)))
    seams = found["seam_score"].values
    assert seams == pytest.approx([seam_score(afters[0], befores[0], [], [64]), 1.0])
    assert seams[0] > 2
    assert found["psnr_outside_mask"].values == (CAP_DB, CAP_DB)
    assert found["psnr_outside_mask"].over == "whole"
    # two parts each: neighbours are those of one panorama
    assert [found[key].n for key in ("image_similarity", "image_consistency")] == [4, 2]


def test_a_flat_source_has_no_seam_score():
    flat = torch.full((3, 64, 64), 0.5)
    edited = tensors(pictures(1))[0]
    found = by_key(measure_panorama(flat, edited, TWO, Tools(), borders=Borders((), (32,))))
    assert math.isnan(found["seam_score"].mean)


def test_a_panorama_and_its_edit_are_of_one_size():
    with pytest.raises(UserError, match=r"^edited: expected the size"):
        measure_panorama(torch.zeros(3, 64, 64), torch.zeros(3, 64, 65), TWO, Tools())
