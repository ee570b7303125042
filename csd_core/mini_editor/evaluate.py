"""How good the mini editor is.

    python -m csd_core.mini_editor.evaluate --photographs FOLDER ... --output FOLDER

Photographs that were never seen in training are edited by diffusers' own
StableDiffusionInstructPix2PixPipeline and compared with the ground truth. Leaves table.json and sheet.png
(sources in the first row, one row per instruction) and prints the table.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
)
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from csd_core.mini_editor.build import NATIVE_SIZE
from csd_core.mini_editor.edits import INSTRUCTIONS, Instruction, affected_mask, apply_edit
from csd_core.mini_editor.sources import HELD_OUT_PHOTOGRAPHS, photograph


@dataclass
class EvaluateConfig:
    output: Path
    """Folder for table.json and sheet.png."""
    model: Path = Path(__file__).parent / "weights"
    """Folder of the editor."""
    photographs: list[Path] = field(default_factory=list)
    """Pictures, or folders of pictures, beside the held-out ones of scikit-image."""
    per_folder: int = 4
    """Pictures taken of each folder, evenly spread."""
    steps: int = 20
    """Sampling steps of the pipeline."""
    guidance_scale: float = 3.5
    """Text guidance."""
    image_guidance_scale: float = 1.5
    """Image guidance."""
    choice_seeds: int = 32
    """Draws of each choice instruction on one picture."""
    seed: int = 0
    """Seed of the first draw."""


def square(image: Image.Image) -> Tensor:
    """The middle square at native size: (3, native, native) in [0, 1]."""
    fitted = ImageOps.fit(image.convert("RGB"), (NATIVE_SIZE, NATIVE_SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255).permute(2, 0, 1)


def held_out_images(config: EvaluateConfig) -> Tensor:
    """(n, 3, native, native) in [0, 1]: scikit-image's held-out photographs, then the given ones."""
    images = [
        Image.fromarray((photograph(name) * 255).round().astype(np.uint8)) for name in HELD_OUT_PHOTOGRAPHS
    ]
    for path in config.photographs:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        spread = np.linspace(0, len(files) - 1, min(config.per_folder, len(files))).round().astype(int)
        images += [Image.open(files[k]) for k in spread]
    return torch.stack([square(image) for image in images])


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], over the pixels of `mask` (H, W) where given."""
    error = (a - b).square().mean(dim=-3)
    return float(-10 * torch.log10((error if mask is None else error[mask]).mean().clamp_min(1e-10)))


def sample(pipeline, prompt: str, images: Tensor, config: EvaluateConfig, seed: int) -> Tensor:
    """Edits of `images` (n, 3, H, W) in [0, 1] by diffusers' pipeline, one generator per image."""
    return torch.from_numpy(
        pipeline(
            [prompt] * len(images),
            image=images,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            image_guidance_scale=config.image_guidance_scale,
            generator=[torch.Generator().manual_seed(seed + k) for k in range(len(images))],
            output_type="np",
        ).images
    ).permute(0, 3, 1, 2)


def nearest_outcome(instruction: Instruction, source: Tensor, result: Tensor) -> tuple[str, float]:
    """(outcome, PSNR) of the ground truth that `result` is nearest to."""
    scores = {o: psnr(result, apply_edit(instruction.name, source, o)) for o in instruction.outcomes}
    best = max(scores, key=lambda outcome: scores[outcome])
    return best, scores[best]


def score(instruction: Instruction, sources: Tensor, results: Tensor) -> dict[str, float]:
    """Mean PSNR of sources and of results to the (nearest) ground truth, inside the affected pixels."""
    before, after = [], []
    for source, result in zip(sources, results, strict=True):
        mask = affected_mask(instruction.name, source)
        if mask.float().mean() < 0.02:
            continue
        outcome = nearest_outcome(instruction, source, result)[0]
        truth = apply_edit(instruction.name, source, outcome)
        before.append(psnr(source, truth, mask))
        after.append(psnr(result, truth, mask))
    return {
        "images": len(after),
        "source": float(np.mean(before)),
        "result": float(np.mean(after)),
        "gain": float(np.mean(after) - np.mean(before)),
    }


def evaluate(config: EvaluateConfig) -> dict:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(config.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = held_out_images(config)
    with torch.no_grad():
        latents = pipeline.vae.encode(images * 2 - 1).latent_dist.mode()
        decoded = (pipeline.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    table: dict = {"settings": {k: v for k, v in vars(config).items() if isinstance(v, int | float)}}
    table["vae_psnr"] = float(np.mean([psnr(a, b) for a, b in zip(images, decoded, strict=True)]))
    rows = [images]
    for name, instruction in track(INSTRUCTIONS.items(), description="sampling"):
        results = sample(pipeline, instruction.wordings[0], images, config, config.seed)
        rows.append(results)
        table[name] = {"kind": instruction.kind, **score(instruction, images, results)}
        if instruction.kind == "choice":
            draws = sample(
                pipeline,
                instruction.wordings[0],
                images[:1].repeat(config.choice_seeds, 1, 1, 1),
                config,
                100,
            )
            outcomes = [nearest_outcome(instruction, images[0], draw)[0] for draw in draws]
            table[name]["outcomes"] = {o: outcomes.count(o) for o in instruction.outcomes}
    for kind in ("light", "style", "local"):
        gains = [table[i.name]["gain"] for i in INSTRUCTIONS.values() if i.kind == kind]
        table[f"mean_gain_{kind}"] = float(np.mean(gains))
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "table.json").write_text(json.dumps(table, indent=1) + "\n")
    save_sheet(config.output / "sheet.png", rows)
    return table


def save_sheet(path: Path, rows: list[Tensor]) -> None:
    """Rows of images (n, 3, H, W) in [0, 1] as one PNG."""
    sheet = torch.cat([torch.cat(list(row[:8]), dim=-1) for row in rows], dim=-2)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def print_table(table: dict) -> None:
    view = Table("instruction", "kind", "source dB", "result dB", "gain dB", "outcomes")
    for name in INSTRUCTIONS:
        row = table[name]
        numbers = (f"{row[key]:.1f}" for key in ("source", "result", "gain"))
        view.add_row(
            name, row["kind"], *numbers, " ".join(f"{k}:{v}" for k, v in row.get("outcomes", {}).items())
        )
    console = Console()
    console.print(view)
    console.print(
        f"VAE {table['vae_psnr']:.2f} dB; mean gain "
        + ", ".join(f"{k} {table[f'mean_gain_{k}']:+.2f} dB" for k in ("light", "style", "local"))
    )


if __name__ == "__main__":
    print_table(evaluate(tyro.cli(EvaluateConfig)))
