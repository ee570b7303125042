"""Train the mini editor from scratch: `python -m csd_core.mini_editor.training.train --output FOLDER`.

Two stages, each resumed from FOLDER after a kill: the VAE's decoder on crops, then UNet and text encoder
together on encoded pairs, most steps on a quarter of the latents, the last on whole ones. FOLDER/*.csv are
the curves, FOLDER/sheet.png shows current edits, FOLDER/pipeline is the result. Runs on CPU and CUDA.
"""

import copy
import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from rich.progress import track
from torch import Tensor, nn
from torchvision.utils import save_image
from transformers import CLIPTokenizer

from csd_core.io.files import written_beside
from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.mini_editor.training import build
from csd_core.mini_editor.training.data import (
    encode,
    encoded_pairs,
    rng_for,
    source_pool,
    unet_batch,
    vae_batch,
)
from csd_core.mini_editor.training.measures import nearest_outcome
from csd_core.mini_editor.training.sources import random_source


@dataclass
class StageConfig:
    """How one network is optimised: AdamW, short warm-up, constant rate, then a linear decay to zero."""

    steps: int
    """Steps of optimisation."""
    batch: int
    """Images a step."""
    learning_rate: float
    """Rate between warm-up and decay."""
    decay_share: float = 0.3
    """Share of the steps, the last ones, over which the rate falls to zero."""
    ema: float = 0.999
    """Decay of the moving average of the weights; the average is what ships."""

    def rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / 100)
        left = (self.steps - step) / max(self.decay_share * self.steps, 1)
        return self.learning_rate * min(warm, left, 1.0)


@dataclass
class TrainConfig:
    """How the mini editor is trained."""

    output: Path
    """Folder for checkpoints, curves and the finished pipeline."""
    vae: StageConfig = field(default_factory=lambda: StageConfig(steps=3000, batch=12, learning_rate=1e-3))
    unet: StageConfig = field(default_factory=lambda: StageConfig(steps=7000, batch=16, learning_rate=1.5e-3))
    whole_steps: int = 300
    """The last steps of the UNet, which see whole latents (batch / 4 of them) in place of quarters."""
    sources: int = 2400
    """Number of source images."""
    edits_per_source: int = 6
    """Edits made of each source."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    sheet_every: int = 1000
    """Steps of the UNet between contact sheets; a multiple of checkpoint_every."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda."""
    seed: int = 0
    """Seed of all random choices."""


class Run(Protocol):
    """Where a training saves its state, and how often."""

    output: Path
    checkpoint_every: int
    device: str


class Stage:
    """A training loop: optimise, average, log, checkpoint, resume."""

    def __init__(self, name: str, module: nn.Module, config: StageConfig, run: Run):
        self.name, self.config, self.run = name, config, run
        self.module: Any = module.to(run.device)
        self.module.to(memory_format=torch.channels_last)  # convolutions are 1.7 times faster on CPU
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=config.learning_rate, weight_decay=1e-3
        )
        self.checkpoint = run.output / f"{name}.pt"

    def train(self, loss_at: Callable[[int], Tensor], look: Callable[[int], None] | None = None) -> Any:
        """Take the remaining steps; call `look` at each checkpoint. Returns the averaged module."""
        start = self._restore()
        steps = track(
            range(start, self.config.steps), description=self.name, completed=start, total=self.config.steps
        )
        losses: list[float] = []
        for step in steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.rate(step)
            loss = loss_at(step)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self._update_average(step)
            losses.append(float(loss.detach()))
            if (step + 1) % self.run.checkpoint_every == 0 or step + 1 == self.config.steps:
                append_row(self.run.output / f"{self.name}.csv", step + 1, f"{sum(losses) / len(losses):.5f}")
                losses.clear()
                self._save(step + 1)
                if look:
                    look(step + 1)
        return self.average.eval()

    def _update_average(self, step: int) -> None:
        decay = min(self.config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.module.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
            for mean, value in zip(self.average.buffers(), self.module.buffers(), strict=True):
                mean.copy_(value)

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with written_beside(self.checkpoint) as beside:
            torch.save(state, beside)

    def _restore(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location=self.run.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]


def append_row(path: Path, *values: object) -> None:
    """Add a line to a CSV file."""
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(values)


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def principal_directions(pool: Tensor) -> tuple[Tensor, Tensor]:
    """The linear code of 4 x 4 pixel patches with the least squared error: principal components.

    The deviation of a latent is proportional to the square root of that of its component (mean square 1/4),
    so that neither large areas nor fine grain dominate the UNet's loss; 1/4 keeps latents where the decoder's
    first tanh is nearly linear.

    Args:
        pool: (n, 3, H, W) uint8.

    Returns:
        directions (48, C) and offset (C,) for patches in [0, 1], see `build.set_encoder`.
    """
    patches = F.unfold(pool[:300].float() / 255, build.DOWNSCALE, stride=build.DOWNSCALE)
    patches = patches.transpose(1, 2).flatten(0, 1).double()
    centred = patches - patches.mean(0)
    variances, components = torch.linalg.eigh(centred.T @ centred / len(patches))
    spread = variances[-build.LATENT_CHANNELS :].sqrt()
    deviations = 0.5 * spread.sqrt() / spread.mean().sqrt()
    # the sign of an eigenvector depends on the library; make the weight of the first pixel positive
    directions = components[:, -build.LATENT_CHANNELS :] * deviations / spread
    directions = directions * directions[0].sign()
    return directions.float(), -(patches.mean(0) @ directions).float()


def decoder_loss(decoder: nn.Module, images: Tensor, latents: Tensor) -> Tensor:
    """Squared error for PSNR, L1 on pixels and on their differences for sharp edges.

    images: (n, 3, H, W) in [0, 1]; latents: (n, C, H / 4, W / 4), unscaled.
    """
    pixels = images * 2 - 1
    decoded = decoder(latents)
    loss = 5 * F.mse_loss(decoded, pixels) + 0.3 * F.l1_loss(decoded, pixels)
    for ours, theirs in zip(_gradients(decoded), _gradients(pixels), strict=True):
        loss = loss + 0.3 * F.l1_loss(ours, theirs)
    return loss


class Editor(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.unet = build.build_unet()
        self.text_encoder = build.build_text_encoder(tokenizer)


class Preview:
    """Contact sheet and PSNR of an unfinished editor on four generated images that it does not train on."""

    def __init__(self, config: TrainConfig, vae: AutoencoderTiny, stage: Stage, tokenizer: CLIPTokenizer):
        self.config, self.stage = config, stage
        images = [random_source(rng_for(config.seed, 4, k), build.NATIVE_SIZE) for k in range(4)]
        self.images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        self.pipeline = build.assemble(vae, stage.average.unet, stage.average.text_encoder, tokenizer)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, step: int) -> None:
        if step % self.config.sheet_every and step != self.stage.config.steps:
            return
        rows, scores = [self.images], []
        for instruction in INSTRUCTIONS.values():
            edited = self._edit(instruction.wordings[0])
            rows.append(edited)
            pairs = zip(self.images, edited, strict=True)
            scores.append(np.mean([nearest_outcome(instruction, *pair)[1] for pair in pairs]))
        save_image(torch.cat(rows), self.config.output / "sheet.png", nrow=len(self.images))
        append_row(self.config.output / "psnr.csv", step, *(f"{score:.2f}" for score in scores))

    def _edit(self, prompt: str) -> Tensor:
        output: Any = self.pipeline(
            [prompt] * len(self.images),
            image=self.images,
            num_inference_steps=10,
            guidance_scale=1.0,  # no guidance: this measures the training
            generator=[torch.Generator().manual_seed(k) for k in range(len(self.images))],
            output_type="np",
        )
        return torch.from_numpy(output.images).permute(0, 3, 1, 2)


def train_vae(config: TrainConfig, pool: Tensor) -> AutoencoderTiny:
    """The VAE: its encoder is computed, its decoder trained on crops of half the native size."""
    torch.manual_seed(config.seed)
    vae = build.build_vae()
    build.set_encoder(vae, *principal_directions(pool))
    cast(nn.Module, vae.requires_grad_(False)).to(config.device)
    set_scale(vae, pool)
    stage = Stage("vae", vae.decoder.requires_grad_(True), config.vae, config)

    def loss_at(step: int) -> Tensor:
        images = vae_batch(pool, config.vae.batch, build.NATIVE_SIZE // 2, config.seed, step)
        images = images.to(config.device)
        with torch.no_grad():
            latents = encode(vae, images)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
        return decoder_loss(stage.module, images, latents + 0.01 * noise.to(config.device))

    vae.decoder = stage.train(loss_at)
    return vae


def train_editor(config: TrainConfig, pool: Tensor, vae: AutoencoderTiny) -> tuple[Editor, CLIPTokenizer]:
    """UNet and text encoder on pairs encoded by the finished VAE; the target is the velocity."""
    pairs = encoded_pairs(config.output / "pairs.pt", pool, vae, config.edits_per_source, config.seed)
    torch.manual_seed(config.seed + 1)
    tokenizer = build.build_tokenizer()
    stage = Stage("unet", Editor(tokenizer), config.unet, config)
    scheduler: Any = build.build_scheduler()
    scale = vae.config["scaling_factor"]
    whole = pairs.source.shape[-1]

    def loss_at(step: int) -> Tensor:
        last = step >= config.unet.steps - config.whole_steps
        count, crop = (config.unet.batch // 4, whole) if last else (config.unet.batch, whole // 2)
        batch = unet_batch(pairs, count, crop, len(scheduler.alphas_cumprod), config.seed, step)
        tokens = tokenizer(
            batch.prompts,
            padding="max_length",
            max_length=build.TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(config.device)
        edited, noise, times = (
            x.to(config.device) for x in (batch.edited * scale, batch.noise, batch.timesteps)
        )
        image = (batch.source * batch.keep_image[:, None, None, None]).to(config.device)
        noisy = scheduler.add_noise(edited, noise, times)
        text = stage.module.text_encoder(tokens).last_hidden_state
        predicted = stage.module.unet(torch.cat([noisy, image], dim=1), times, text).sample
        return F.mse_loss(predicted, scheduler.get_velocity(edited, noise, times))

    return stage.train(loss_at, Preview(config, vae, stage, tokenizer)), tokenizer


@torch.no_grad()
def set_scale(vae: AutoencoderTiny, pool: Tensor) -> None:
    """Set the factor that gives latents unit deviation, as Stable Diffusion's 0.18215 does."""
    latents = encode(vae, pool[:200].to(vae.device).float() / 255)
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))


def main(config: TrainConfig) -> None:
    """Train, or continue, and save the pipeline."""
    config.output.mkdir(parents=True, exist_ok=True)
    pool = source_pool(config.output / "sources.npy", config.sources, build.NATIVE_SIZE, config.seed)
    vae = train_vae(config, pool)
    editor, tokenizer = train_editor(config, pool, vae)
    pipeline = build.assemble(vae.cpu(), editor.unet.cpu(), editor.text_encoder.cpu(), tokenizer)
    build.save_pipeline(config.output / "pipeline", pipeline)


if __name__ == "__main__":
    main(tyro.cli(TrainConfig))
