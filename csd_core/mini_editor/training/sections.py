"""The sections of the evaluation: each takes a Bench and gives plain data for table.json.

Scores are those of measures.score, in dB; what cannot be measured is NaN.
"""

from collections.abc import Iterable
from typing import Any

import torch
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images
from csd_core.mini_editor.edits import INSTRUCTIONS, Instruction
from csd_core.mini_editor.language import read_language, unknown_prompt_message
from csd_core.mini_editor.training.build import NATIVE_SIZE
from csd_core.mini_editor.training.measures import (
    decibels,
    mean,
    mean_by_kind,
    mean_decibels,
    nearest_outcome,
    score,
    share_kept,
)
from csd_core.mini_editor.training.report import save_sheet
from csd_core.mini_editor.training.sampling import (
    Bench,
    EvaluateConfig,
    networks,
    pictures,
    reconstruct,
    spread,
    to_tensor,
)

SHEET_PHOTOGRAPHS = 8
UNKNOWN_PROMPTS = (
    "turn it into a castle",
    "add penguins",
    "make it rainy",
    "put a hat on",
    "zebra",
    "turn purple things into gold",
)
"""Nothing of this is among the instructions."""
NEGATIVES = (("snow", "night"), ("pencil sketch", "blueprint"), ("tint", "black and white"))
"""(what is asked for, what the negative prompt says)."""
SIZES = tuple(
    (round(NATIVE_SIZE * h), round(NATIVE_SIZE * w)) for h, w in ((1, 1), (0.5, 0.5), (4, 4), (1, 3))
)
"""Height and width: as trained, half as large, four times as large, a strip of 3:1."""
SIZE_INSTRUCTIONS = ("night", "snow", "blueprint")


def _each(instructions: Iterable[Instruction], section: str) -> Iterable[Instruction]:
    return track(list(instructions), description=section)


def table(bench: Bench) -> dict[str, Any]:
    """VAE and every instruction in its canonical wording on all photographs; leaves sheet.png."""
    config, images = bench.config, bench.images
    decoded = reconstruct(bench.pipeline, images)
    shown = spread(len(images), SHEET_PHOTOGRAPHS)
    scores, rows = {}, [images[shown]]
    for instruction in _each(config.chosen, "table"):
        draws = [bench.edit(instruction.wordings[0], images, draw) for draw in range(config.seeds)]
        scores[instruction.name] = score(instruction, images, torch.cat(draws))
        rows.append(draws[0][shown])
    save_sheet(config.output / "sheet.png", rows, ["source", *scores])
    per_photo = {n: decibels(a, b) for n, a, b in zip(bench.names, images, decoded, strict=True)}
    return {
        "vae": {"mean": mean(per_photo.values()), "photographs": per_photo},
        "photographs": len(images),
        "instructions": scores,
        "kinds": mean_by_kind([i.kind for i in config.chosen], list(scores.values())),
    }


def choice(bench: Bench) -> dict[str, Any]:
    """Which of the right answers many draws come nearest to, on a few photographs."""
    config = bench.config
    picked = spread(len(bench.images), config.choice_photographs)
    rows: dict[str, Any] = {}
    for instruction in _each((i for i in config.chosen if i.kind == "choice"), "choice"):
        for draw, k in enumerate(picked):
            image = bench.images[k]
            results = bench.edit(instruction.wordings[0], image.expand(config.choice_seeds, -1, -1, -1), draw)
            nearest = [nearest_outcome(instruction, image, result) for result in results]
            drawn = [outcome for outcome, _ in nearest]
            counts = {outcome: drawn.count(outcome) for outcome in instruction.outcomes}
            rows.setdefault(instruction.name, {})[bench.names[k]] = {
                "outcomes": counts,
                "largest_share": max(counts.values()) / len(drawn),
                "result": mean(db for _, db in nearest),
            }
    return {"instructions": rows}


def language(bench: Bench) -> dict[str, Any]:
    """What becomes of the edits in other words, of prompts that were never taught and of negative prompts."""
    images = bench.few(bench.config.language_photographs)
    rows = {i.name: _other_words(bench, i, images) for i in _each(bench.config.chosen, "language")}
    return {
        "photographs": len(images),
        "instructions": rows,
        "shares": {way: _shares(rows, way) for way in ("unseen", "capitals", "reversed")},
        "unknown": _unknown(bench, images),
        "negative": _negative(bench, images),
    }


def _other_words(bench: Bench, instruction: Instruction, images: Tensor) -> dict[str, Any]:
    """Gain in the canonical wording; gain, and mean PSNR to the canonical results, in other words."""
    wording = instruction.wordings[0]
    ways = {
        "unseen": instruction.unseen,
        "capitals": (wording.upper(),),
        "reversed": (" ".join(reversed(wording.split())),),
    }
    canonical = bench.edit(wording, images)
    row: dict[str, Any] = {"kind": instruction.kind, "gain": score(instruction, images, canonical)["gain"]}
    for way, wordings in ways.items():
        edits = [bench.edit(other, images) for other in wordings]
        gain = score(instruction, images, torch.cat(edits))["gain"] if edits else float("nan")
        row[way] = {
            "gain": gain,
            "share": share_kept([row["gain"]], [gain]),
            "to_canonical": mean(mean_decibels(edit, canonical) for edit in edits),
        }
    return row


def _shares(rows: dict[str, Any], way: str) -> dict[str, float]:
    """Share of the canonical gains kept, by kind and overall, and the mean over instructions of theirs."""

    def share(kind: str | None) -> float:
        picked = [row for row in rows.values() if kind in (None, row["kind"])]
        return share_kept([row["gain"] for row in picked], [row[way]["gain"] for row in picked])

    kinds = dict.fromkeys(row["kind"] for row in rows.values())
    return {
        **{kind: share(kind) for kind in kinds},
        "all": share(None),
        "mean": mean(row[way]["share"] for row in rows.values()),
        "to_canonical": mean(row[way]["to_canonical"] for row in rows.values()),
    }


def _unknown(bench: Bench, images: Tensor) -> dict[str, Any]:
    """Prompts outside the language should leave the source as it is: PSNR of source, result and VAE."""
    decoded = reconstruct(bench.pipeline, images)
    known = read_language(bench.config.model) or {}
    rows = {}
    for prompt in UNKNOWN_PROMPTS:
        results = bench.edit(prompt, images)
        rows[prompt] = {
            "warns": bool(known) and unknown_prompt_message(prompt, known) is not None,
            "result_to_source": mean_decibels(results, images),
            "vae_to_source": mean_decibels(decoded, images),
            "result_to_vae": mean_decibels(results, decoded),
        }
    return rows


def _negative(bench: Bench, images: Tensor) -> list[dict[str, Any]]:
    """A negative prompt should drive the result away from what it says."""
    rows = []
    for names in NEGATIVES:
        asked, avoided = (INSTRUCTIONS[name] for name in names)
        if asked.name not in bench.config.instructions:
            continue
        prompt, negative = asked.wordings[0], avoided.wordings[0]
        results = {"without": bench.edit(prompt, images)}
        results["with"] = bench.edit(prompt, images, negative_prompt=negative)
        row: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
        for way, edited in results.items():
            row[f"asked_{way}"] = score(asked, images, edited)["result"]
            row[f"avoided_{way}"] = score(avoided, images, edited)["result"]
        rows.append({**row, "change": row["avoided_with"] - row["avoided_without"]})
    return rows


def csd(bench: Bench) -> dict[str, Any]:
    """CSD-Edit of single images from their source, and full sampling of the same images beside it."""
    config = bench.config
    images = bench.few(config.csd_photographs)
    denoiser = InstructPix2Pix.from_pretrained(str(config.model))
    rows = {}
    for instruction in _each(config.chosen, "csd"):
        wording = instruction.wordings[0]
        edited = edit_images(denoiser, images, wording, single_image_config(config, len(images)))
        rows[instruction.name] = {
            "kind": instruction.kind,
            "sampled": score(instruction, images, bench.edit(wording, images)),
            "csd": score(instruction, images, edited),
        }
    kinds = [row["kind"] for row in rows.values()]
    by_kind = {way: mean_by_kind(kinds, [row[way] for row in rows.values()]) for way in ("sampled", "csd")}
    return {"photographs": len(images), "instructions": rows, "kinds": by_kind}


def single_image_config(config: EvaluateConfig, images: int) -> EditConfig:
    """Settings under which each of `images` is edited by itself, as if it were the only particle (N = 1).

    Without mixing a particle's gradient is w E, what Eq. 9 leaves of a single particle. All of them are in
    the batch of every step, because one that is left out stands still.
    """
    return EditConfig(
        mixing=False,
        batch_size=images,
        num_steps=config.csd_steps,
        t_range=config.csd_t_range,
        learning_rate=config.csd_learning_rate,
        guidance_scale=config.csd_guidance_scale,
        image_guidance_scale=config.image_guidance_scale,
        seed=config.seed,
    )


def sizes(bench: Bench) -> dict[str, Any]:
    """Gains at other sizes than the native one, one photograph each, and what the editor costs."""
    config = bench.config
    found = pictures(config)
    rows = {}
    for height, width in SIZES:
        largest = {n: min(picture.width / width, picture.height / height) for n, picture in found.items()}
        name = max(largest, key=lambda n: largest[n])  # the picture that is enlarged least, or shrunk most
        image = to_tensor(ImageOps.fit(found[name], (width, height), Image.Resampling.LANCZOS))[None]
        asked = [INSTRUCTIONS[i] for i in SIZE_INSTRUCTIONS if i in config.instructions]
        gains = {i.name: score(i, image, bench.edit(i.wordings[0], image))["gain"] for i in asked}
        rows[f"{height} x {width}"] = {"photograph": name, "gains": gains}
    files = [path for path in config.model.rglob("*") if path.is_file()]
    return {
        "sizes": rows,
        "unet_gflop": unet_flop(bench.pipeline) / 1e9,
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "parameters": {
            name: sum(p.numel() for p in network.parameters())
            for name, network in networks(bench.pipeline).items()
        },
    }


@torch.no_grad()
def unet_flop(pipeline: Any) -> int:
    """Floating-point operations, two per multiply-add, of one UNet evaluation at native size."""
    unet, side = pipeline.unet, pipeline.unet.config["sample_size"]
    noisy = torch.zeros(1, unet.config["in_channels"], side, side)
    text = torch.zeros(1, pipeline.tokenizer.model_max_length, unet.config["cross_attention_dim"])
    with FlopCounterMode(display=False) as counter:
        unet(noisy, 0, text)
    return counter.get_total_flops()
