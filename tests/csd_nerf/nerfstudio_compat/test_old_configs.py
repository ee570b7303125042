import pytest
import yaml

from csd_core.engine.config import EditConfig
from csd_nerf import csd_config  # registers what reads older runs

OLD = """
!!python/object:csd_nerf.csd_datamanager.CSDDataManagerConfig
prompt: make it snowy
edit: !!python/object:{place}
  guidance_scale: 2.0
  max_batch: 4
  t_range: !!python/tuple
  - 0.1
  - 0.4
  former_setting: 3
"""


@pytest.mark.parametrize("place", ["csd_core.config.EditConfig", "csd_core.engine.config.EditConfig"])
def test_config_of_an_older_run_opens(place: str) -> None:
    assert csd_config.csd_nerf2nerf
    config = yaml.load(OLD.format(place=place), Loader=yaml.Loader)
    assert config.edit == EditConfig(guidance_scale=2.0, chunk_size=4, t_range=(0.1, 0.4))
    assert (config.prompt, config.schedule) == ("make it snowy", "rounds")


def test_config_of_a_new_run_opens_as_it_was() -> None:
    edit = EditConfig(num_steps=7, chunk_size="auto")
    assert yaml.load(yaml.dump(edit), Loader=yaml.Loader) == edit
