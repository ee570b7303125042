import math
import string

import pytest

from csd_core.evaluation.measures import MEASURES, measured


def test_a_measure_has_mean_error_and_number_of_what_is_defined():
    found = measured("image_similarity", [0.25, math.nan, 0.75])
    assert (found.mean, found.n) == (0.5, 2)
    assert found.error == pytest.approx(math.sqrt(0.125) / math.sqrt(2))
    assert len(found.values) == 3
    assert (found.key, found.better, found.over, found.missing) == ("image_similarity", "higher", "item", "")


def test_nothing_measured_has_no_mean():
    found = measured("lpips", [], missing="no weights")
    assert math.isnan(found.mean)
    assert (found.n, found.values, found.missing) == (0, (), "no weights")


def test_numbers_of_the_scorer_are_never_called_those_of_clip():
    ours = {key: measured(key, [], label="scorer").title for key in MEASURES}
    assert not any("CLIP" in title for title in ours.values())
    theirs = {key: measured(key, []).title for key in MEASURES}
    differing = {key for key in MEASURES if theirs[key] != ours[key]}
    assert differing == {key for key in MEASURES if theirs[key].startswith("CLIP ")}
    assert {"directional_similarity", "image_similarity", "text_similarity", "image_consistency"} <= differing


def test_every_measure_has_formula_and_source():
    for key, measure in MEASURES.items():
        assert measure.key == key
        assert measure.formula
        assert measure.source
        fields = [name for _, name, _, _ in string.Formatter().parse(measure.title) if name]
        assert fields in ([], ["label"])
