"""What the evaluation works with: its settings, held-out photographs, and edits by diffusers' own pipeline.

Images are (3, H, W) in [0, 1], batches (n, 3, H, W), float32.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
    retrieve_latents,
)
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from csd_core.denoisers.loading import MINI_FOLDER, locate
from csd_core.errors import UserError, expect
from csd_core.method.schedule import step_generator
from csd_core.mini_editor.edits import INSTRUCTIONS, Instruction
from csd_core.mini_editor.training.build import NATIVE_SIZE
from csd_core.mini_editor.training.sources import HELD_OUT_PHOTOGRAPHS, photograph

Section = Literal["table", "choice", "language", "csd", "sizes"]
BATCH = 24
"""Images edited at a time."""


@dataclass
class EvaluateConfig:
    """What to measure, on which photographs."""

    output: Path
    """Folder for table.json, table.md and sheet.png."""
    model: Path = MINI_FOLDER
    """Folder of the editor."""
    photographs: list[Path] = field(default_factory=list)
    """Pictures, or folders of pictures, beside the held-out ones of scikit-image."""
    per_folder: int = 6
    """Pictures taken of each folder, evenly spread. Of a panorama every square counts, see squares()."""
    sections: tuple[Section, ...] = get_args(Section)
    """What to measure. Each section can run in a process of its own; table.json gathers them."""
    instructions: tuple[str, ...] = tuple(INSTRUCTIONS)
    """Names of the instructions that are measured."""
    steps: int = 6
    """Sampling steps of the pipeline."""
    guidance_scale: float = 1.5
    """Text guidance of the pipeline."""
    image_guidance_scale: float = 1.2
    """Image guidance, of pipeline and CSD."""
    seeds: int = 3
    """table: draws of each instruction on each photograph."""
    choice_seeds: int = 64
    """choice: draws of each instruction on one photograph."""
    choice_photographs: int = 2
    """choice: photographs, evenly spread over all."""
    language_photographs: int = 8
    """language: photographs, evenly spread over all."""
    csd_photographs: int = 8
    """csd: photographs, evenly spread over all."""
    csd_steps: int = 100
    """csd: optimisation steps."""
    csd_t_range: tuple[float, float] = (0.2, 0.5)
    """csd: part of the schedule that timesteps are drawn from."""
    # The preset csd-nerf2nerf-tiny takes 20 steps of 12 in batches of 16, and Eq. 9 divides by the batch. A
    # neighbour weighs about 1/17 under the median bandwidth, so that a particle moves by 12/16 times w E (if
    # neighbours want nothing in common) to 12/16 (1 + 15/17) times w E (if all want the same): 0.75 to 1.4 a
    # step, 15 to 28 altogether. Alone it moves by lr w E; over 100 steps with the decay of EditConfig (0.9
    # every 20) the factors add up to 82, and 15/82 to 28/82 is 0.18 to 0.34. Local edits stay behind at that,
    # therefore twice as much, at the guidance of full sampling.
    csd_learning_rate: float = 0.6
    """csd: step size at the start, for an image by itself."""
    csd_guidance_scale: float = 1.5
    """csd: text guidance."""
    seed: int = 0
    """Seed of the first draw."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        counts = ("per_folder", "steps", "seeds", "choice_seeds", "csd_steps")
        shown = ("choice_photographs", "language_photographs", "csd_photographs")
        for name in (*counts, *shown):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        expect(self.seed >= 0, "seed", "0 or more", self.seed)
        unknown = [name for name in self.instructions if name not in INSTRUCTIONS]
        expect(not unknown, "instructions", f"some of {', '.join(INSTRUCTIONS)}", ", ".join(unknown))
        expect(len(self.instructions) > 0, "instructions", "at least one", "none")

    @property
    def chosen(self) -> list[Instruction]:
        """The instructions that are measured."""
        return [INSTRUCTIONS[name] for name in self.instructions]


# Photographs --------------------------------------------------------------------------------------


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as (3, H, W)."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)


def squares(image: Image.Image) -> list[Tensor]:
    """The middle square at native size; of a panorama (2:1 or longer) as many as lie beside each other.

    1920 x 650 gives three squares of 640, 1920 x 480 four of 480.
    """
    long, short = max(image.size), min(image.size)
    count = round(long / short) if long >= 2 * short else 1
    side = min(short, long // count)
    across = (short - side) / 2
    found = []
    for k in range(count):
        along = (k + 0.5) * long / count - side / 2
        left, top = (along, across) if image.width >= image.height else (across, along)
        box = (left, top, left + side, top + side)
        found.append(to_tensor(image.resize((NATIVE_SIZE, NATIVE_SIZE), Image.Resampling.LANCZOS, box=box)))
    return found


def pictures(config: EvaluateConfig) -> dict[str, Image.Image]:
    """Name -> picture of any size, RGB: scikit-image's held-out photographs, then the given ones.

    Raises:
        UserError: nothing there, or not a picture.
    """
    found = {
        Path(name).stem: Image.fromarray((photograph(name) * 255).round().astype(np.uint8))
        for name in HELD_OUT_PHOTOGRAPHS
    }
    for path in config.photographs:
        for file in _files(path, config.per_folder):
            try:
                with Image.open(file) as image:
                    found[_free_name(file, found)] = ImageOps.exif_transpose(image).convert("RGB")
            except (UnidentifiedImageError, OSError) as error:
                raise UserError(f"photographs: cannot read {file}: {error}") from error
    return found


def _files(path: Path, count: int) -> list[Path]:
    if not path.exists():
        raise UserError(f"photographs: expected a picture or a folder of pictures, {path} does not exist")
    if path.is_file():
        return [path]
    endings = Image.registered_extensions()
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
    expect(len(files) > 0, "photographs", "a folder with pictures in it", f"{path}, which has none")
    return [files[k] for k in spread(len(files), count)]


def _free_name(file: Path, taken: dict[str, Image.Image]) -> str:
    return file.stem if file.stem not in taken else f"{file.parent.name}/{file.name}"


def spread(total: int, count: int) -> list[int]:
    """`count` numbers of 0 .. total - 1, evenly spread; all of them where there are no more."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def held_out(config: EvaluateConfig) -> tuple[list[str], Tensor]:
    """Names and native-size squares (n, 3, native, native) of the pictures."""
    names, images = [], []
    for name, picture in pictures(config).items():
        parts = squares(picture)
        images += parts
        names += [name] if len(parts) == 1 else [f"{name} {k + 1}/{len(parts)}" for k in range(len(parts))]
    return names, torch.stack(images)


def held_out_images(config: EvaluateConfig) -> Tensor:
    """(n, 3, native, native) in [0, 1]: scikit-image's held-out photographs, then the given ones."""
    return held_out(config)[1]


# The editor ---------------------------------------------------------------------------------------


def load_pipeline(folder: Path) -> StableDiffusionInstructPix2PixPipeline:
    """The editor in `folder`, in single precision.

    Raises:
        UserError: it is not there, or not an InstructPix2Pix model.
    """
    expect(folder.is_dir(), "model", "the folder of an editor", folder)
    checked = locate(str(folder))
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(checked, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: Any, prompt: str, images: Tensor, config: EvaluateConfig, seed: int, negative_prompt: str = ""
) -> Tensor:
    """Edits of `images` (n, 3, H, W) by diffusers' pipeline; the noise depends on (seed, number of image)."""
    edited = []
    for rows in torch.arange(len(images)).split(BATCH):
        output = pipeline(
            [prompt] * len(rows),
            image=images[rows],
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            image_guidance_scale=config.image_guidance_scale,
            negative_prompt=[negative_prompt] * len(rows),
            generator=[step_generator(seed, k) for k in rows.tolist()],
            output_type="np",
        )
        edited.append(torch.from_numpy(output.images).permute(0, 3, 1, 2))
    return torch.cat(edited)


@torch.no_grad()
def reconstruct(pipeline: Any, images: Tensor) -> Tensor:
    """What the VAE makes of `images` (n, 3, H, W): the best that any edit by it can be."""
    decoded = []
    for batch in images.split(BATCH):
        latents = retrieve_latents(pipeline.vae.encode(batch * 2 - 1), sample_mode="argmax")
        decoded.append(pipeline.vae.decode(latents).sample / 2 + 0.5)
    return torch.cat(decoded).clamp(0, 1)


@dataclass(frozen=True)
class Bench:
    """What every section measures with."""

    config: EvaluateConfig
    pipeline: StableDiffusionInstructPix2PixPipeline
    names: list[str]
    """Of the photographs."""
    images: Tensor
    """(n, 3, native, native)."""

    @classmethod
    def set_up(cls, config: EvaluateConfig) -> "Bench":
        """Read photographs and editor."""
        names, images = held_out(config)
        return cls(config, load_pipeline(config.model), names, images)

    def few(self, count: int) -> Tensor:
        """`count` of the images, evenly spread."""
        return self.images[spread(len(self.images), count)]

    def edit(self, prompt: str, images: Tensor, draw: int = 0, negative_prompt: str = "") -> Tensor:
        """See sample; draw: 0, 1, ... for other noise."""
        return sample(self.pipeline, prompt, images, self.config, self.config.seed + draw, negative_prompt)


def networks(pipeline: StableDiffusionInstructPix2PixPipeline) -> dict[str, torch.nn.Module]:
    """The three networks by name."""
    return {name: cast(torch.nn.Module, getattr(pipeline, name)) for name in ("vae", "unet", "text_encoder")}
