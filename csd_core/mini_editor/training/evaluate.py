"""Judge a mini editor on photographs that it was not trained on: the tables of its model card.

    python -m csd_core.mini_editor.training.evaluate --output FOLDER --photographs FOLDER ...

Photographs are edited by diffusers' own pipeline and compared with the ground truth.

    table       the VAE, and every instruction on all photographs; sheet.png
    choice      which of several right answers is nearest, for many seeds
    language    unseen wordings, capitals, word order, unknown and negative prompts
    csd         CSD-Edit of single images, beside full sampling of the same images
    sizes       other sizes than the native one
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_instruct_pix2pix import (
    StableDiffusionInstructPix2PixPipeline,
    retrieve_latents,
)
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor
from torchvision.utils import save_image

from csd_core.command import run_command
from csd_core.denoisers.families import load_denoiser
from csd_core.denoisers.language import read_language, unknown_prompt_message
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images
from csd_core.errors import expect
from csd_core.method.schedule import step_generator
from csd_core.mini_editor.edits import INSTRUCTIONS, Instruction
from csd_core.mini_editor.training.build import NATIVE_SIZE
from csd_core.mini_editor.training.measures import mean, mean_decibels, nearest_outcome, score
from csd_core.mini_editor.training.pictures import (
    held_out_pictures,
    read_pictures,
    spread,
    squares,
    to_tensor,
)

SHIPPED = Path(__file__).parents[1] / "weights"
Section = Literal["table", "choice", "language", "csd", "sizes"]

CHUNK = 24
"""Images edited at a time."""
PER_FOLDER = 6
"""Pictures of each given folder, evenly spaced."""
SHEET_PHOTOGRAPHS, CHOICE_PHOTOGRAPHS, LANGUAGE_PHOTOGRAPHS, CSD_PHOTOGRAPHS = 8, 2, 4, 3
"""Photographs of a section, evenly spaced over all."""
CHOICE_SEEDS = 64
CSD_STEPS = 100
UNKNOWN_PROMPTS = (
    "turn it into a castle",
    "add penguins",
    "make it rainy",
    "put a hat on",
    "zebra",
    "turn purple things into gold",
)
"""Not among the instructions."""
NEGATIVES = (("snow", "night"), ("pencil sketch", "blueprint"), ("tint", "black and white"))
"""(instruction of the prompt, instruction of the negative prompt)."""
SIZES = ((128, 128), (64, 64), (512, 512), (128, 384))
"""Height and width, pixels: as trained, half, four times, a strip of 3:1."""
SIZE_INSTRUCTIONS = ("night", "snow", "blueprint")


@dataclass
class EvaluateConfig:
    """What to measure, on which photographs."""

    output: Path
    """Folder for tables.md and sheet.png."""
    model: Path = SHIPPED
    """Folder of the editor."""
    photographs: list[Path] = field(default_factory=list)
    """Pictures, and folders of pictures, in addition to the held-out ones of scikit-image."""
    sections: tuple[Section, ...] = get_args(Section)
    """What to measure."""
    instructions: tuple[str, ...] = tuple(INSTRUCTIONS)
    """Names of the instructions that are measured."""
    steps: int = 6
    """Sampling steps."""
    guidance_scale: float = 1.5
    """Text guidance, of sampling and CSD."""
    image_guidance_scale: float = 1.2
    """Image guidance, of sampling and CSD."""
    seeds: int = 3
    """table: seeds of each instruction on each photograph."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        for name in ("steps", "seeds"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        unknown = [name for name in self.instructions if name not in INSTRUCTIONS]
        expect(not unknown, "instructions", f"some of {', '.join(INSTRUCTIONS)}", ", ".join(unknown))
        is_model = (self.model / "model_index.json").is_file()
        expect(is_model, "model", "the folder of an InstructPix2Pix model", self.model)


class Evaluation:
    """An editor and the photographs that it is judged on.

    Attributes:
        pictures: by name, of any size.
        names, images: their squares, (n, 3, native, native).
    """

    def __init__(self, config: EvaluateConfig) -> None:
        config.check()
        self.config = config
        self.instructions = [INSTRUCTIONS[name] for name in config.instructions]
        self.pictures = {**held_out_pictures(), **read_pictures(config.photographs, PER_FOLDER)}
        self.names, images = [], []
        for name, picture in self.pictures.items():
            parts = squares(picture, NATIVE_SIZE)
            self.names += (
                [name] if len(parts) == 1 else [f"{name} {k + 1}/{len(parts)}" for k in range(len(parts))]
            )
            images += [to_tensor(part) for part in parts]
        self.images = torch.stack(images)
        self.pipeline: Any = StableDiffusionInstructPix2PixPipeline.from_pretrained(
            config.model, dtype=torch.float32, use_safetensors=True
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def few(self, count: int) -> Tensor:
        """`count` of the images, evenly spaced."""
        return self.images[spread(len(self.images), count)]

    def edit(self, prompt: str, images: Tensor, seed: int = 0, negative_prompt: str = "") -> Tensor:
        """Edits of `images` (n, 3, H, W); the noise depends on (seed, index of the image)."""
        edited = []
        for rows in torch.arange(len(images)).split(CHUNK):
            output = self.pipeline(
                [prompt] * len(rows),
                image=images[rows],
                num_inference_steps=self.config.steps,
                guidance_scale=self.config.guidance_scale,
                image_guidance_scale=self.config.image_guidance_scale,
                negative_prompt=[negative_prompt] * len(rows),
                generator=[step_generator(seed, k) for k in rows.tolist()],
                output_type="np",
            )
            edited.append(torch.from_numpy(output.images).permute(0, 3, 1, 2))
        return torch.cat(edited)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """`images` (n, 3, H, W), encoded and decoded by the VAE."""
        decoded = []
        for chunk in images.split(CHUNK):
            latents = retrieve_latents(self.pipeline.vae.encode(chunk * 2 - 1), sample_mode="argmax")
            decoded.append(self.pipeline.vae.decode(latents).sample / 2 + 0.5)
        return torch.cat(decoded).clamp(0, 1)


# Tables -------------------------------------------------------------------------------------------

SCORES = {
    "photos": "{:.0f}",
    "source": "{:.1f}",
    "result": "{:.1f}",
    "gain": "{:+.1f}",
    "edges": "{:.2f}",
    "structure": "{:.2f}",
    "outside": "{:.1f}",
}
"""Column -> its format; see measures.score."""


def cell(value: float, form: str = "{:.1f}") -> str:
    """A number, or a dash if it is NaN."""
    return "–" if math.isnan(value) else form.format(value)


def score_cells(scored: Mapping[str, float]) -> list[str]:
    """One cell per column of SCORES."""
    return [cell(scored[name], form) for name, form in SCORES.items()]


def markdown(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a heading."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n\n"


def by_kind(
    instructions: Sequence[Instruction], scores: Sequence[Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Kind -> means of the scores of its instructions; the number of photographs is a mean too."""
    return {
        kind: {
            name: mean(s[name] for i, s in zip(instructions, scores, strict=True) if i.kind == kind)
            for name in SCORES
        }
        for kind in dict.fromkeys(i.kind for i in instructions)
    }


# Sections -----------------------------------------------------------------------------------------


def table(evaluation: Evaluation) -> str:
    """The VAE, and every instruction in its canonical wording on all photographs; writes sheet.png."""
    config, images, instructions = evaluation.config, evaluation.images, evaluation.instructions
    shown = spread(len(images), SHEET_PHOTOGRAPHS)
    scores, sheet = [], [images[shown]]
    for instruction in track(instructions, description="table"):
        edits = [evaluation.edit(instruction.wordings[0], images, seed) for seed in range(config.seeds)]
        scores.append(score(instruction, images, torch.cat(edits)))
        sheet.append(edits[0][shown])
    save_image(torch.cat(sheet), config.output / "sheet.png", nrow=len(shown))
    vae = mean_decibels(evaluation.reconstruct(images), images)
    rows = [[i.name, i.kind, *score_cells(s)] for i, s in zip(instructions, scores, strict=True)]
    kinds = [[kind, *score_cells(s)] for kind, s in by_kind(instructions, scores).items()]
    title = f"Full sampling, dB to the ground truth; VAE {vae:.2f} dB"
    return markdown(title, ["instruction", "kind", *SCORES], rows) + markdown(
        "Means by kind", ["kind", *SCORES], kinds
    )


def choice(evaluation: Evaluation) -> str:
    """Which of the right answers the results of many seeds are nearest to, on a few photographs."""
    rows = []
    several = [i for i in evaluation.instructions if i.kind == "choice"]
    for instruction in track(several, description="choice"):
        for seed, k in enumerate(spread(len(evaluation.images), CHOICE_PHOTOGRAPHS)):
            image = evaluation.images[k]
            results = evaluation.edit(instruction.wordings[0], image.expand(CHOICE_SEEDS, -1, -1, -1), seed)
            nearest = [nearest_outcome(instruction, image, result) for result in results]
            counts = Counter(outcome for outcome, _ in nearest)
            rows.append(
                [
                    instruction.name,
                    evaluation.names[k],
                    ", ".join(f"{outcome} {counts[outcome]}" for outcome in instruction.outcomes),
                    f"{100 * max(counts.values()) / len(results):.0f} %",
                    cell(mean(db for _, db in nearest)),
                ]
            )
    header = ["instruction", "photograph", "results nearest to", "largest share", "PSNR to the nearest"]
    return markdown("Choices", header, rows)


def language(evaluation: Evaluation) -> str:
    """Edits in other words, of prompts that were never taught, and with negative prompts."""
    images = evaluation.few(LANGUAGE_PHOTOGRAPHS)
    return _other_words(evaluation, images) + _unknown(evaluation, images) + _negative(evaluation, images)


def _other_words(evaluation: Evaluation, images: Tensor) -> str:
    """Gain in other words as a share of that in the canonical wording, both summed over instructions."""
    gains: dict[str, dict[str, float]] = {}
    to_canonical: dict[str, list[float]] = {}
    for instruction in track(evaluation.instructions, description="language"):
        wording = instruction.wordings[0]
        ways = {
            "canonical": wording,
            "unseen": instruction.unseen[0],
            "capitals": wording.upper(),
            "reversed": " ".join(reversed(wording.split())),
        }
        edits = {way: evaluation.edit(prompt, images) for way, prompt in ways.items()}
        for way, edited in edits.items():
            gains.setdefault(way, {})[instruction.name] = score(instruction, images, edited)["gain"]
            to_canonical.setdefault(way, []).append(mean_decibels(edited, edits["canonical"]))

    def share(way: str, kind: str) -> float:
        names = [i.name for i in evaluation.instructions if kind in (i.kind, "all")]
        return (
            100 * mean(gains[way][name] for name in names) / mean(gains["canonical"][name] for name in names)
        )

    kinds = [*dict.fromkeys(i.kind for i in evaluation.instructions), "all"]
    rows = [
        [way, *(cell(share(way, kind), "{:.0f} %") for kind in kinds), cell(mean(to_canonical[way]))]
        for way in gains
    ]
    return markdown("Other words: share of the gain", ["way", *kinds, "PSNR to canonical"], rows)


def _unknown(evaluation: Evaluation, images: Tensor) -> str:
    """Prompts outside the language should give the VAE's reconstruction of the source."""
    decoded = evaluation.reconstruct(images)
    known = read_language(evaluation.config.model) or {}
    rows = []
    for prompt in UNKNOWN_PROMPTS:
        edited = evaluation.edit(prompt, images)
        pairs = ((edited, images), (decoded, images), (edited, decoded))
        warns = "yes" if known and unknown_prompt_message(prompt, known) else "no"
        rows.append([prompt, *(cell(mean_decibels(*pair)) for pair in pairs), warns])
    header = ["prompt", "result to source", "VAE to source", "result to VAE", "warns"]
    return markdown("Unknown prompts, dB", header, rows)


def _negative(evaluation: Evaluation, images: Tensor) -> str:
    """A negative prompt should move the result away from what it describes."""
    rows = []
    for names in NEGATIVES:
        asked, avoided = (INSTRUCTIONS[name] for name in names)
        prompt, negative = asked.wordings[0], avoided.wordings[0]
        edits = [evaluation.edit(prompt, images, negative_prompt=text) for text in ("", negative)]
        to_avoided, to_asked = (
            [score(instruction, images, edited)["result"] for edited in edits]
            for instruction in (avoided, asked)
        )
        change = cell(to_avoided[1] - to_avoided[0], "{:+.1f}")
        rows.append([f"{prompt}, not {negative}", *map(cell, to_avoided), change, *map(cell, to_asked)])
    header = ["prompts", "to what is avoided", "with negative", "change", "to what is asked", "with negative"]
    return markdown("Negative prompts, dB", header, rows)


def csd(evaluation: Evaluation) -> str:
    """CSD-Edit of single images, started from their source, beside full sampling of the same images."""
    config, images = evaluation.config, evaluation.few(CSD_PHOTOGRAPHS)
    # A learning rate of 0.2 to 0.3 would move a single image as far as the shipped scene preset moves a view;
    # local edits stay behind at that, hence twice as much.
    settings = EditConfig(
        mixing=False,  # each image independently, as if it were the only particle
        batch_size=len(images),
        num_steps=CSD_STEPS,
        learning_rate=0.6,
        guidance_scale=config.guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
    )
    denoiser = load_denoiser(str(config.model), torch_dtype=torch.float32, device="cpu")
    scores: dict[str, list[dict[str, float]]] = {"sampled": [], "csd": []}
    for instruction in track(evaluation.instructions, description="csd"):
        prompt = instruction.wordings[0]
        scores["sampled"].append(score(instruction, images, evaluation.edit(prompt, images)))
        scores["csd"].append(score(instruction, images, edit_images(denoiser, images, prompt, settings)))
    kinds = {way: by_kind(evaluation.instructions, several) for way, several in scores.items()}
    rows = [[kind, way, *score_cells(kinds[way][kind])] for kind in kinds["csd"] for way in kinds]
    return markdown("CSD-Edit of single images, means by kind", ["kind", "by", *SCORES], rows)


def sizes(evaluation: Evaluation) -> str:
    """Gains at other sizes than the native one, each on the photograph that is enlarged least."""
    rows = []
    for height, width in SIZES:
        scales = {n: min(p.width / width, p.height / height) for n, p in evaluation.pictures.items()}
        largest = max(scales, key=lambda n: scales[n])
        fitted = ImageOps.fit(evaluation.pictures[largest], (width, height), Image.Resampling.LANCZOS)
        image = to_tensor(fitted)[None]
        gains = []
        for instruction in (INSTRUCTIONS[name] for name in SIZE_INSTRUCTIONS):
            edited = evaluation.edit(instruction.wordings[0], image)
            gains.append(cell(score(instruction, image, edited)["gain"], "{:+.1f}"))
        rows.append([f"{height} x {width}", largest, *gains])
    return markdown("Other sizes: gains, dB", ["height x width", "photograph", *SIZE_INSTRUCTIONS], rows)


SECTIONS: dict[Section, Callable[[Evaluation], str]] = {
    "table": table,
    "choice": choice,
    "language": language,
    "csd": csd,
    "sizes": sizes,
}


def evaluate(config: EvaluateConfig) -> None:
    """Measure a mini editor: tables.md and sheet.png."""
    evaluation = Evaluation(config)
    config.output.mkdir(parents=True, exist_ok=True)
    tables = ""
    for name in config.sections:
        tables += SECTIONS[name](evaluation)
        (config.output / "tables.md").write_text(tables)
    print(tables)


if __name__ == "__main__":
    sys.exit(run_command(EvaluateConfig, evaluate))
