"""Measures of whole edits, against the measures of metrics."""

import math

import numpy as np
import pytest
import torch

from csd_core.errors import UserError
from csd_core.evaluation import Borders, Captions, PanoramaPair, Tools
from csd_core.evaluation.measures import CAP_DB, Measured
from csd_core.evaluation.measuring import (
    cut,
    measure_panorama,
    measure_panoramas,
    measure_video,
    measure_views,
    squares,
)
from csd_core.evaluation.metrics import clip
from csd_core.evaluation.metrics.extractors import ClipExtractor
from csd_core.evaluation.metrics.flow import warp_errors
from csd_core.evaluation.metrics.pixels import psnr, seam_score
from tests.csd_core.evaluation.drawn import CAPTIONS, darker, pictures, tensors

TWO = Captions(*CAPTIONS)


def by_key(several: list[Measured]) -> dict[str, Measured]:
    assert len({one.key for one in several}) == len(several)
    return {one.key: one for one in several}


def frames(count: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    before = pictures(count)
    return tensors(before), tensors(darker(before))


def by_metrics(
    extractor: ClipExtractor, before: list[torch.Tensor], after: list[torch.Tensor]
) -> dict[str, np.ndarray]:
    """Each measure by the function of metrics."""
    s, e = extractor.images(before), extractor.images(after)
    t, t2 = extractor.texts(list(CAPTIONS))
    values = {
        "directional_similarity": clip.directional_similarity(s, e, t, t2),
        "image_similarity": clip.image_similarity(s, e),
        "image_consistency": clip.consistency(e),
        "source_image_consistency": clip.consistency(s),
        "text_similarity": clip.text_similarity(e, t2),
        "direction_consistency": clip.direction_consistency(s, e),
    }
    return {key: found.numpy() for key, found in values.items()}


def test_measures_of_features_are_those_of_metrics(extractor: ClipExtractor):
    before, after = frames()
    found = by_key(measure_video(before, after, TWO, Tools(extractor)))
    for key, expected in by_metrics(extractor, before, after).items():
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
    some = [before[k] for k in kept], [after[k] for k in kept]
    part = by_key(measure_video(*some, TWO, Tools(extractor), positions=kept))
    for key in ("image_consistency", "direction_consistency", "warp_error", "source_warp_error"):
        expected = [whole[key].values[k] for k in (0, 3)]
        np.testing.assert_allclose(part[key].values, expected, atol=1e-6)
    expected = [whole["image_similarity"].values[k] for k in kept]
    np.testing.assert_allclose(part["image_similarity"].values, expected, atol=1e-6)


def test_networks_that_are_missing_say_why(extractor: ClipExtractor):
    before, after = frames(2)
    tools = Tools(missing=["LPIPS: no alexnet.pth", "FID: no inception.pth"])
    found = by_key(measure_video(before, after, TWO, tools))
    assert found["lpips"].missing == "no alexnet.pth"
    assert found["fid"].missing == "no inception.pth"
    missing = {key for key, one in found.items() if one.missing}
    assert missing == {*by_metrics(extractor, before, after), "lpips", "fid", "psnr_outside_mask"}
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
    before, after = tensors([*pictures(1, size=(64, 160)), *pictures(1, 1, size=(64, 160))])
    found = by_key(measure_panorama(before, after, TWO, Tools(extractor)))
    expected = by_metrics(extractor, list(cut(before)), list(cut(after)))
    assert len(expected["image_similarity"]) == 3
    for key in expected:
        np.testing.assert_allclose(found[key].values, expected[key], atol=1e-6)
    assert found["seam_score"].missing == "the windows are not known; name them with --window and --stride"
    assert found["psnr_outside_mask"].missing == "no mask was given"
    assert not {"lpips", "warp_error"} & set(found)
    with pytest.raises(UserError, match=r"^edited: expected the size"):
        measure_panorama(before, after[..., 1:], TWO, Tools())


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
