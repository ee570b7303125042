import copy
from typing import Any

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods

from csd_nerf import csd_config

PRESETS: dict[str, Any] = {
    "csd-nerf2nerf": csd_config.csd_nerf2nerf,
    "csd-nerf2nerf-small": csd_config.csd_nerf2nerf_small,
    "csd-nerf2nerf-tiny": csd_config.csd_nerf2nerf_tiny,
}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_registered_and_survives_yaml(name: str) -> None:
    config = PRESETS[name].config
    assert config.method_name == name
    assert config.viewer.websocket_host == "127.0.0.1", "the viewer is not reachable from other machines"
    assert name in all_methods
    assert all_methods[name].pipeline.datamanager._target is config.pipeline.datamanager._target
    again = yaml.load(yaml.dump(copy.deepcopy(config)), Loader=yaml.Loader)
    assert again == config


def test_paper_settings() -> None:
    """Appendix B and B.3."""
    config = PRESETS["csd-nerf2nerf"].config
    manager = config.pipeline.datamanager
    assert config.base_steps == 30000
    assert (manager.edit_interval, manager.edit.batch_size, manager.start_from) == (2000, 16, "render")
    assert manager.edit.t_range == (0.2, 0.5)
    assert manager.edit.num_steps == 200
    assert manager.model == "timbrooks/instruct-pix2pix"
