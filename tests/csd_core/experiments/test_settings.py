import json
from pathlib import Path

import pytest

from csd_core.engine.config import EditConfig
from csd_core.errors import UserError
from csd_core.experiments.settings import Model, Prompt, Variant, kernel_share, optimised, read_prompts


def test_kernel_share_is_that_of_the_median_bandwidth_and_of_one_for_all() -> None:
    assert kernel_share(5, 1.0) == pytest.approx(2 / 6)
    assert kernel_share(1, 3.0) == 1
    assert kernel_share(8, 1e9) == pytest.approx(1)


def test_learning_rates_move_particles_as_far_as_those_of_csd() -> None:
    edit = EditConfig(learning_rate=6.0, batch_size=4)
    assert optimised(edit, Variant("csd"), 8).learning_rate == 6.0
    unmixed = optimised(edit, Variant("no-svgd"), 8)
    assert not unmixed.mixing
    assert unmixed.learning_rate == pytest.approx(6.0 * 2 / 5)
    wide = optimised(EditConfig(learning_rate=6.0, batch_size=4, bandwidth_factor=2.0), Variant("csd"), 8)
    assert wide.learning_rate == pytest.approx(6.0 * (2 / 5) / ((1 + 3 * 5**-0.5) / 4))
    assert optimised(edit, Variant("sds"), 8).baseline == "noise"
    assert optimised(edit, Variant("csd", "", {"lr_factor": 1.5}), 8).learning_rate == 9.0
    assert optimised(edit, Variant("no-svgd", "", {"scaled": False}), 8).learning_rate == 6.0


def test_the_identity_of_a_model_is_that_of_its_weights(tiny_epsilon: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in tiny_epsilon.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(tiny_epsilon)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    known = Model.find(str(tiny_epsilon)).identity
    assert Model.find(str(copy)).identity == known
    weights = next(copy.glob("unet/*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert Model.find(str(copy)).identity != known
    assert not Model.find(str(copy)).is_mini
    assert Model.find("mini").is_mini


def test_instructions_of_the_mini_editor_have_captions() -> None:
    tint = Prompt.mini("tint")
    assert (tint.text, tint.source, tint.target) == ("give it a tint", "a photo", "a photo with a tint")
    with pytest.raises(UserError, match=r"prompts: expected some of night, .* got rain"):
        Prompt.mini("rain")


def test_instructions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps([{"name": "cap", "text": "give him a cap", "source": "a man", "target": "b"}]))
    assert read_prompts(path) == [Prompt("cap", "give him a cap", "a man", "b")]
    for wrong in ("{", '[{"name": "cap"}]', "[]"):
        path.write_text(wrong)
        with pytest.raises(UserError, match="expected"):
            read_prompts(path)
