"""The training command in miniature: it writes a diffusers folder; a resumed run equals a whole one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from safetensors.torch import load_file

from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training import build, train
from csd_core.mini_editor.training.train import StageConfig, TrainConfig


def small_config(output: Path) -> TrainConfig:
    return TrainConfig(
        output=output,
        vae=StageConfig(steps=2, batch=2, learning_rate=1e-3),
        unet=StageConfig(steps=4, batch=4, learning_rate=1e-3),
        whole_steps=1,
        sources=2,
        edits_per_source=2,
        checkpoint_every=2,
        sheet_every=4,
        device="cpu",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    train.main(small_config(output))
    return output


def test_the_result_is_a_diffusers_folder(trained):
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        trained / "pipeline", torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    output: Any = pipeline("make it night", image=image, num_inference_steps=2, output_type="np")
    edited = output.images
    assert edited.shape == (1, 64, 96, 3)
    assert pipeline.scheduler.config["prediction_type"] == "v_prediction"
    assert not [p for p in (trained / "pipeline").rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_the_latents_are_scaled_to_unit_deviation(trained):
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        trained / "pipeline", torch_dtype=torch.float32
    )
    pairs = torch.load(trained / "pairs.pt", weights_only=True)
    scaled = pairs[0].float() * pipeline.vae.config["scaling_factor"]
    assert abs(float(scaled.std()) - 1) < 0.02


def test_the_encoder_is_the_linear_code_with_the_least_squared_error():
    pool = (torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).byte()
    directions, offset = train.principal_directions(pool)
    patches = torch.nn.functional.unfold(pool.float() / 255, 4, stride=4).transpose(1, 2).flatten(0, 1)
    latents = patches @ directions + offset
    torch.testing.assert_close(latents.mean(0), torch.zeros(build.LATENT_CHANNELS), rtol=0, atol=1e-4)
    assert float(latents.square().mean()) == pytest.approx(0.25, rel=1e-3)
    centred = patches - patches.mean(0)
    error = (centred - latents @ torch.linalg.lstsq(latents, centred).solution).square().sum()
    best = torch.linalg.svdvals(centred)[build.LATENT_CHANNELS :].square().sum()
    assert float(error) == pytest.approx(float(best), rel=1e-4)


def test_progress_is_written(trained):
    assert (trained / "sheet.png").stat().st_size > 1000
    rows = (trained / "psnr.csv").read_text().split()
    assert [row.split(",")[0] for row in rows] == ["4"]
    assert all(len(row.split(",")) == 1 + len(INSTRUCTIONS) for row in rows)


def test_a_resumed_run_has_the_weights_of_a_whole_one(trained, tmp_path, monkeypatch):
    save = train.Stage._save

    def save_and_die(self, step):
        save(self, step)
        if (self.name, step) == ("unet", 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Stage, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.main(small_config(tmp_path))
    monkeypatch.setattr(train.Stage, "_save", save)
    assert not (tmp_path / "pipeline").exists()
    train.main(small_config(tmp_path))
    for part in ("unet", "vae"):
        whole, resumed = (
            load_file(folder / "pipeline" / part / "diffusion_pytorch_model.safetensors")
            for folder in (trained, tmp_path)
        )
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_rate_warms_up_stays_and_falls_to_zero():
    stage = StageConfig(steps=1000, batch=1, learning_rate=2.0, decay_share=0.5)
    assert [stage.rate(step) for step in (0, 49, 99, 500, 750)] == pytest.approx([0.02, 1.0, 2.0, 2.0, 1.0])
    assert stage.rate(999) < 0.01
