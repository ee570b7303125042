from dataclasses import replace

import pytest

from csd_core.engine.config import MethodConfig
from csd_core.engine.methods import VARIANTS, fit_learning_rate, with_method
from csd_core.errors import UserError
from csd_core.presets import INSTRUCT_PIX2PIX


def test_the_methods_differ_as_in_table_3() -> None:
    config = MethodConfig()
    made = {name: with_method(config, name, "a film") for name in VARIANTS}
    assert made["csd"] == replace(config, source_prompt="a film")
    assert made["sds"] == replace(made["csd"], baseline="noise")
    assert made["dds"] == replace(made["csd"], baseline="prompt")
    assert made["no-svgd"] == replace(made["csd"], mixing=False)
    with pytest.raises(UserError, match="method: expected one of csd"):
        with_method(config, "ip2p-frame")


@pytest.mark.parametrize(("num_particles", "together"), [(8, 4), (6, 3), (1, 1), (9, 3)])
def test_the_learning_rate_is_fitted_where_particles_do_not_exchange_gradients(
    num_particles: int, together: int
) -> None:
    """To the particles of a step: four at most; batches of a round differ by one at most."""
    mixing = MethodConfig(batch_size=4, learning_rate=0.5).in_steps(10)
    assert fit_learning_rate(mixing, num_particles) == mixing
    fitted = fit_learning_rate(replace(mixing, mixing=False), num_particles)
    assert fitted.learning_rate == pytest.approx(0.5 * 2 / (together + 1))


def test_settings_that_are_given_replace_those_of_the_preset() -> None:
    config = MethodConfig.from_preset(INSTRUCT_PIX2PIX["video"], guidance_scale=3.0, seed=None)
    assert (config.guidance_scale, config.seed) == (3.0, 0)
    assert (config.learning_rate, config.batch_size) == (0.5, 8)
