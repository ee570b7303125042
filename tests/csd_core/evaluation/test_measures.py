import math

import pytest

from csd_core.evaluation.measures import MEASURES, measured


def test_a_measure_has_mean_error_and_number_of_what_is_defined():
    found = measured("image_similarity", [0.25, math.nan, 0.75])
    assert (found.mean, found.n, len(found.values)) == (0.5, 2, 3)
    assert found.error == pytest.approx(math.sqrt(0.125) / math.sqrt(2))
    assert (found.key, found.better, found.over, found.missing) == ("image_similarity", "higher", "item", "")
    nothing = measured("lpips", [], missing="no weights")
    assert math.isnan(nothing.mean)
    assert (nothing.n, nothing.values, nothing.missing) == (0, (), "no weights")


def test_numbers_of_the_scorer_are_never_called_those_of_clip():
    ours = {key: measured(key, [], label="scorer").title for key in MEASURES}
    assert not any("CLIP" in title for title in ours.values())
    theirs = {key: measured(key, []).title for key in MEASURES}
    differing = {key for key in MEASURES if theirs[key] != ours[key]}
    assert differing == {key for key in MEASURES if theirs[key].startswith("CLIP ")}
    assert {"directional_similarity", "image_similarity", "text_similarity", "image_consistency"} <= differing
