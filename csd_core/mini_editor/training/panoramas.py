"""The ways to edit a panorama, on photographs, against edits that are known.

    python -m csd_core.mini_editor.training.panoramas --images a.jpg b.jpg --output outputs/panoramas

For every picture, instruction and method: PSNR to the true edit (all, and the corners alone), seam score,
evaluations and seconds. Leaves table.json, table.md, every edit as PNG, and a sheet for each instruction.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from csd_core.canvas.panorama import Method, Panorama, sample_panorama
from csd_core.canvas.windows import axis_starts
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import expect
from csd_core.evaluation.metrics.pixels import psnr, seam_score
from csd_core.image_ops import resize
from csd_core.io.images import quantise, read_picture
from csd_core.mini_editor.edits import INSTRUCTIONS
from csd_core.presets import panorama_preset

METHODS: tuple[Method, ...] = ("ip2p-resize", "ip2p-patch", "ip2p-overlap", "csd")
CORNER = 0.25
"""Side of a corner, as a share of a window."""


@dataclass
class PanoramasConfig:
    """What to compare, on which pictures."""

    images: list[Path]
    """Pictures."""
    output: Path
    """Folder for tables and pictures."""
    width: int | None = None
    """Pictures are resized to this width first. Default: as they are."""
    instructions: tuple[str, ...] = ("snow", "night", "pencil sketch")
    """Names of the mini editor's instructions; none with several right answers."""
    methods: tuple[Method, ...] = METHODS
    """Which ways."""
    stride: int = 8
    """Latent pixels from window to window, for csd and ip2p-overlap."""
    num_steps: int | None = None
    """Steps of every method. Default: what suits the editor."""
    seed: int = 0
    """Seed."""


@dataclass(frozen=True)
class Row:
    """One edit and its figures."""

    image: str
    instruction: str
    method: str
    source_psnr: float
    """Of the unedited picture to the true edit, in dB."""
    psnr: float
    """To the true edit, in dB."""
    corner_psnr: float
    """The same of the four corners alone."""
    seam: float
    """pixels.seam_score at the borders of the method's windows; ip2p-resize: at those of ip2p-patch."""
    evaluations: int
    seconds: float


def true_edit(image: Tensor, name: str) -> Tensor:
    """What an instruction makes of an image (1, 3, H, W) in [0, 1]."""
    edited = INSTRUCTIONS[name].function(image[0].permute(1, 2, 0).numpy(), "")
    return torch.from_numpy(edited.astype(np.float32)).permute(2, 0, 1)[None].clamp(0, 1)


def corners(image: Tensor, side: int) -> Tensor:
    """The four corners (4, 3, side, side) of an image (1, 3, H, W)."""
    top, bottom = image[..., :side, :], image[..., -side:, :]
    return torch.cat([part for row in (top, bottom) for part in (row[..., :side], row[..., -side:])])


def borders(length: int, window: int, stride: int, margin: int = 0) -> list[int]:
    """Where windows begin and end along a side of `length` pixels with `margin` around; all in pixels."""
    starts = axis_starts(length + 2 * margin, window, stride)
    return sorted({start - margin for start in starts} | {start + window - margin for start in starts})


def edit_once(denoiser: InstructPix2Pix, image: Tensor, name: str, method: Method, config: PanoramasConfig):
    """The edit (1, 3, H, W), evaluations and seconds."""
    prompt, preset = INSTRUCTIONS[name].wordings[0], panorama_preset(denoiser)
    begun = time.perf_counter()
    with denoiser.count_evaluations() as evaluations:
        if method == "csd":
            job = Panorama(
                denoiser,
                image,
                prompt,
                preset.with_edit(seed=config.seed),
                preset,
                stride=config.stride,
                num_steps=config.num_steps,
            )
            edited = job.finish(job.run())
        else:
            sampling = preset.with_sampling(seed=config.seed, num_inference_steps=config.num_steps)
            edited = sample_panorama(
                method, denoiser, image, prompt, sampling, stride=config.stride, progress=False
            )
    return edited.cpu(), evaluations.count, time.perf_counter() - begun


def method_borders(image: Tensor, method: Method, denoiser: InstructPix2Pix, stride: int) -> list[list[int]]:
    """Borders of a method's windows: rows and columns."""
    window = denoiser.native_size
    step = stride * denoiser.downscale if method in ("csd", "ip2p-overlap") else window
    margin = window - step if method == "csd" else 0
    lengths = (side + -side % denoiser.downscale for side in image.shape[-2:])
    return [borders(length, window, step, margin) for length in lengths]


def compare(config: PanoramasConfig) -> None:
    """Edit pictures in every way and measure against the true edits."""
    for name in config.instructions:
        known = name in INSTRUCTIONS and len(INSTRUCTIONS[name].outcomes) == 1
        expect(known, "instructions", f"some of {', '.join(INSTRUCTIONS)} with one right answer", name)
    pictures = {path.stem: read_picture(path).to_tensor()[None] for path in config.images}
    if config.width:
        pictures = {name: to_width(image, config.width) for name, image in pictures.items()}
    denoiser = InstructPix2Pix.from_pretrained("mini")
    for stem, image in pictures.items():
        side = min(image.shape[-2:])
        least = denoiser.native_size
        expect(side >= least, f"picture {stem}", f"sides of at least {least} pixels, a window", side)
    config.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in config.instructions:
        for stem, image in pictures.items():
            truth, side = true_edit(image, name), round(CORNER * denoiser.native_size)
            shown = {"source": image, "true edit": truth}
            for method in config.methods:
                edited, count, seconds = edit_once(denoiser, image, name, method, config)
                lines = method_borders(image, method, denoiser, config.stride)
                row = Row(
                    stem,
                    name,
                    method,
                    psnr(image, truth),
                    psnr(edited, truth),
                    psnr(corners(edited, side), corners(truth, side)),
                    seam_score(edited[0], image[0], *lines),
                    count,
                    round(seconds, 1),
                )
                rows.append(row)
                shown[method] = edited
                print(row, flush=True)
                save(edited, config.output / f"{stem}_{name.replace(' ', '_')}_{method}.png")
            sheet(shown).save(config.output / f"sheet_{stem}_{name.replace(' ', '_')}.png")
            (config.output / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    (config.output / "table.md").write_text(table(rows))
    print(table(rows))


def to_width(image: Tensor, width: int) -> Tensor:
    """Image (1, 3, H, W) of another width."""
    return resize(image, (round(image.shape[-2] * width / image.shape[-1]), width))


def save(image: Tensor, path: Path) -> None:
    """Image (1, 3, H, W) as a file."""
    Image.fromarray(quantise(image[0], np.uint8)).save(path)


def sheet(shown: dict[str, Tensor]) -> Image.Image:
    """Images (1, 3, H, W) under each other, named."""
    height, width = next(iter(shown.values())).shape[-2:]
    caption = 20
    page = Image.new("RGB", (width, (height + caption) * len(shown)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for k, (name, image) in enumerate(shown.items()):
        top = k * (height + caption)
        draw.text((4, top + 1), name, fill="black", font=font)
        page.paste(Image.fromarray(quantise(image[0], np.uint8)), (0, top + caption))
    return page


def table(rows: Sequence[Row]) -> str:
    """The means over the pictures, as Markdown."""
    lines = [
        "| instruction | method | PSNR before | PSNR | corners | seam | evaluations | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.instruction, row.method), []).append(row)
    for (instruction, method), group in groups.items():
        names = ("source_psnr", "psnr", "corner_psnr", "seam", "evaluations", "seconds")
        mean = {name: float(np.mean([getattr(row, name) for row in group])) for name in names}
        cells = [instruction, method, *(f"{mean[key]:.2f}" for key in names[:4])]
        cells += [f"{mean[key]:.0f}" for key in names[4:]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_command(PanoramasConfig, compare))
