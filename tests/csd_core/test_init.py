import subprocess
import sys

import csd_core

LIGHT = """
import sys
import csd_core, csd_core.method.csd, csd_core.engine.loop, csd_core.denoisers.instruct_pix2pix
heavy = {"diffusers", "transformers", "nerfstudio", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_the_engine_loads_no_diffusers_and_no_nerfstudio() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_public_names_exist() -> None:
    assert set(csd_core.__all__) <= set(dir(csd_core))
    assert all(getattr(csd_core, name) is not None for name in csd_core.__all__)
