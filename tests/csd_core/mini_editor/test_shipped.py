"""The editor that ships: an ordinary diffusers folder, small, that does what it is told."""

from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)

import csd_core
from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit
from csd_core.mini_editor.evaluate import (
    EvaluateConfig,
    held_out_images,
    nearest_outcome,
    psnr,
    sample,
    score,
)

WEIGHTS = Path(csd_core.__file__).parent / "mini_editor" / "weights"

# Floors, well under what was measured (mini_editor/README.md): they catch a broken editor, not a worse one.
VAE_FLOOR_DB = 23.0
GAIN_FLOOR_DB = {"night": 4.0, "snow": 3.0, "blueprint": 2.0}


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionInstructPix2PixPipeline.from_pretrained(WEIGHTS, torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EvaluateConfig:
    return EvaluateConfig(output=tmp_path_factory.mktemp("evaluation"), steps=10)


@pytest.fixture(scope="module")
def images(config) -> torch.Tensor:
    return held_out_images(config)


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}


def test_the_vae_reconstructs(pipeline, images):
    with torch.no_grad():
        latents = pipeline.vae.encode(images * 2 - 1).latent_dist.mode()
        decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    assert psnr(decoded, images) > VAE_FLOOR_DB


@pytest.mark.parametrize("name", list(GAIN_FLOOR_DB))
def test_an_edit_is_nearer_to_the_truth_than_its_source(name, pipeline, images, config):
    results = sample(pipeline, INSTRUCTIONS[name].wordings[0], images, config, seed=0)
    assert score(INSTRUCTIONS[name], images, results)["gain"] > GAIN_FLOOR_DB[name]


def test_a_choice_is_made_differently_by_different_seeds(pipeline, images, config):
    instruction = INSTRUCTIONS["single colour"]
    draws = sample(pipeline, instruction.wordings[0], images[:1].repeat(12, 1, 1, 1), config, seed=0)
    assert len({nearest_outcome(instruction, images[0], draw)[0] for draw in draws}) >= 2


def test_scores_are_worked_out_inside_the_affected_pixels():
    red = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(3, 8, 4)
    image = torch.cat([red, torch.full((3, 8, 4), 0.5)], dim=-1)
    truth = apply_edit("red to blue", image)
    spoiled = truth.clone()
    spoiled[..., 4:] = 1.0  # outside: does not count
    spoiled[..., :4] += 0.1
    result = score(INSTRUCTIONS["red to blue"], image[None], spoiled[None])
    assert result["result"] == pytest.approx(20, abs=1e-3)  # -10 log10(0.1 ** 2)
