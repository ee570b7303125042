"""Train the mini editor from nothing: `python -m csd_core.mini_editor.train --output FOLDER`.

Two stages, each resumed from FOLDER after a kill: the VAE on crops, then UNet and text encoder together on
encoded pairs, most steps on a quarter of the latents, the last on whole ones. The finished pipeline is
FOLDER/pipeline. The same config runs on CPU and CUDA.
"""

import copy
import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from rich.progress import track
from torch import Tensor, nn
from transformers import CLIPTokenizer

from csd_core.mini_editor import build
from csd_core.mini_editor.data import encoded_pairs, source_pool, unet_batch, vae_batch


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
    output: Path
    """Folder for checkpoints, curves and the finished pipeline."""
    vae: StageConfig = field(default_factory=lambda: StageConfig(steps=1800, batch=12, learning_rate=2e-3))
    unet: StageConfig = field(default_factory=lambda: StageConfig(steps=5000, batch=16, learning_rate=1e-3))
    whole_steps: int = 300
    """The last steps of the UNet, which see whole latents (batch / 4 of them) in place of quarters."""
    sources: int = 1200
    """Source images drawn."""
    edits_per_source: int = 6
    """Edits made of each source."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""
    seed: int = 0
    """Seed of everything that is drawn."""


class Stage:
    """The loop that both stages share: optimise, average, log, checkpoint, resume."""

    def __init__(self, name: str, module: nn.Module, config: StageConfig, run: TrainConfig):
        self.name, self.config, self.run = name, config, run
        self.module: Any = module.to(run.device)
        self.module.to(memory_format=torch.channels_last)  # convolutions are 1.7 times faster on CPU
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=config.learning_rate, weight_decay=1e-3
        )
        self.checkpoint = run.output / f"{name}.pt"

    def train(self, loss_at: Callable[[int], Tensor]) -> Any:
        """Take every step that is left; the averaged module."""
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
                self._log(step + 1, sum(losses) / len(losses))
                losses.clear()
                self._save(step + 1)
        return self.average.eval()

    def _update_average(self, step: int) -> None:
        decay = min(self.config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.module.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def _log(self, step: int, loss: float) -> None:
        with (self.run.output / f"{self.name}.csv").open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.5f}"])

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def _restore(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, map_location=self.run.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


class PatchBasis:
    """Principal components of 4 x 4 pixel patches: the best linear autoencoder of the latents' size.

    The encoder is drawn towards these latents at first. From a random start it wastes channels and needs far
    longer to come as close to the image as they do.
    """

    def __init__(self, pool: Tensor, channels: int, device: str):
        patches = self._patches(pool[:300].float() / 127.5 - 1).flatten(0, 1)
        self.mean = patches.mean(0).to(device)
        centred = patches - patches.mean(0)
        variances, components = torch.linalg.eigh(centred.T @ centred / len(patches))
        self.whiten = (components[:, -channels:] / variances[-channels:].sqrt()).to(device)

    @staticmethod
    def _patches(pixels: Tensor) -> Tensor:
        return F.unfold(pixels, build.DOWNSCALE, stride=build.DOWNSCALE).transpose(1, 2)

    def latents(self, pixels: Tensor) -> Tensor:
        """(n, 3, H, W) in [-1, 1] -> (n, channels, H / 4, W / 4), unit variance."""
        coefficients = (self._patches(pixels) - self.mean) @ self.whiten
        height, width = (side // build.DOWNSCALE for side in pixels.shape[-2:])
        return coefficients.transpose(1, 2).unflatten(2, (height, width))


def vae_loss(vae: AutoencoderKL, images: Tensor, noise: Tensor, basis: PatchBasis, guide: float) -> Tensor:
    """Squares for PSNR, L1 on pixels and differences for sharp edges, latents of unit deviation.

    images: (n, 3, H, W) in [0, 1]; guide: how strongly the encoder is drawn to the linear latents.
    """
    pixels = images * 2 - 1
    encoded: Any = vae.encode(pixels)
    latents = encoded.latent_dist.mean
    decoded: Any = vae.decode(latents + 0.03 * noise)
    decoded = decoded.sample
    loss = 5 * F.mse_loss(decoded, pixels) + 0.3 * F.l1_loss(decoded, pixels)
    for ours, theirs in zip(_gradients(decoded), _gradients(pixels), strict=True):
        loss = loss + 0.3 * F.l1_loss(ours, theirs)
    moments = (latents.std((0, 2, 3)) - 1).square() + latents.mean((0, 2, 3)).square()
    return loss + 0.02 * moments.mean() + guide * F.mse_loss(latents, basis.latents(pixels))


class Editor(nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.unet = build.build_unet()
        self.text_encoder = build.build_text_encoder(tokenizer)


def train_vae(config: TrainConfig, pool: Tensor) -> AutoencoderKL:
    """The VAE, on crops of half the native size."""
    torch.manual_seed(config.seed)
    stage = Stage("vae", build.build_vae(), config.vae, config)
    crop = build.NATIVE_SIZE // 2
    side = crop // build.DOWNSCALE
    basis = PatchBasis(pool, channels=4, device=config.device)

    def loss_at(step: int) -> Tensor:
        images = vae_batch(pool, config.vae.batch, crop, config.seed, step).to(config.device)
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(len(images), 4, side, side, generator=generator).to(config.device)
        guide = 0.3 * max(0.0, 1 - step / (0.4 * config.vae.steps))
        return vae_loss(stage.module, images, noise, basis, guide)

    return stage.train(loss_at)


def train_editor(config: TrainConfig, pool: Tensor, vae: AutoencoderKL) -> tuple[Editor, CLIPTokenizer]:
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

    return stage.train(loss_at), tokenizer


@torch.no_grad()
def set_scale(vae: AutoencoderKL, pool: Tensor, device: str) -> None:
    """The factor that gives latents unit deviation, as Stable Diffusion's 0.18215 does."""
    encoded: Any = vae.encode(pool[:200].to(device).float() / 127.5 - 1)
    latents = encoded.latent_dist.mode()
    vae.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))


def main(config: TrainConfig) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    pool = source_pool(config.output / "sources.npy", config.sources, build.NATIVE_SIZE, config.seed)
    vae = train_vae(config, pool)
    set_scale(vae, pool, config.device)
    editor, tokenizer = train_editor(config, pool, vae)
    parts = (vae.cpu(), editor.unet.cpu(), editor.text_encoder.cpu(), tokenizer)
    build.save_pipeline(config.output / "pipeline", *parts)


if __name__ == "__main__":
    main(tyro.cli(TrainConfig))
