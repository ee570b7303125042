"""How well a run followed its instruction, on views that it never saw, where the right answer is known.

    photo     a held-out photo
    base      the render of the scene before the edit, from the photo's camera
    edited    the render after it
    target    the photo with the instruction applied by csd_core.mini_editor.edits, the ground truth

Every figure is a PSNR in dB, mean over the held-out views: -10 log10(mean squared error), images in [0, 1].
The gain of an edit is PSNR(edited, target) - PSNR(base, target), for local edits also inside the pixels that
the instruction affects. Where several answers are right, the one counts that all views together come nearest.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from csd_core.command import run_command
from csd_core.evaluation.metrics.pixels import psnr
from csd_core.machine import FreeCores
from csd_core.mini_editor.edits import affected_mask, apply_edit, find_instruction
from csd_nerf.editing.quality import BASE_AT_LEAST
from csd_nerf.editing.rounds import EditedView, contact_sheet
from csd_nerf.editing.views import on_white, to_bytes
from csd_nerf.nerfstudio_compat.quiet import silence_others
from csd_nerf.runs.novel_views import base_checkpoint, find_run, load_weights, open_scene

if TYPE_CHECKING:
    from nerfstudio.data.datasets.base_dataset import InputDataset
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.models.base_model import Model

GAIN_AT_LEAST = {"light": 3.0, "style": 1.0, "local": 1.0}
"""dB that an edit of each kind is asked to gain; local edits inside the affected pixels."""
_FEWEST_PIXELS = 16  # a view with fewer affected pixels does not count for the affected figures
_VIEWS_SHOWN = 6


@dataclass
class EvaluateConfig:
    """Which run, against what."""

    run: Path
    """The run: its config.yml, or a folder with it somewhere inside (the latest is taken)."""
    base: Path | None = None
    """Checkpoint of the scene before the edit. Default: the one that the run saved before its first round."""
    prompt: str | None = None
    """The instruction. Default: the run's."""
    output: Path | None = None
    """Folder for figures.json and before_after.png. Default: evaluation, in the run's folder."""


class HeldOut(NamedTuple):
    """One held-out view; images (3, H, W) float32 in [0, 1]."""

    photo: Tensor
    base: Tensor
    edited: Tensor


@dataclass(frozen=True)
class Gain:
    """PSNR to the ground-truth edit, dB, mean over views."""

    base: float
    edited: float
    views: int
    """Views that count."""

    @property
    def gain(self) -> float:
        """dB by which the edit came nearer to the target."""
        return self.edited - self.base


@dataclass(frozen=True)
class Figures:
    """What was measured on one run."""

    prompt: str
    views: int
    base_to_photo: float
    instruction: str | None = None
    """None: the prompt lies outside what has a ground truth, and there are no gains."""
    kind: str | None = None
    outcome: str | None = None
    """The right answer that the views came nearest to, where there are several."""
    whole: Gain | None = None
    affected: Gain | None = None
    """Inside the affected pixels; local edits alone."""

    @property
    def asked(self) -> Gain | None:
        """The gain that the target for this kind speaks of."""
        return self.affected if self.kind == "local" else self.whole

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the gains written out."""
        plain = asdict(self)
        for name, value in (("whole", self.whole), ("affected", self.affected)):
            if value is not None:
                plain[name]["gain"] = value.gain
        return plain


def measure_edit(views: Sequence[HeldOut], prompt: str) -> Figures:
    """All figures of an edit.

    Args:
        views: at least one.
        prompt: the instruction; one that has no ground truth leaves only the base's PSNR to the photos.
    """
    base_to_photo = _mean(psnr(view.base, view.photo) for view in views)
    instruction = find_instruction(prompt)
    if instruction is None:
        return Figures(prompt, len(views), base_to_photo)
    name = instruction.name
    gains = {
        outcome: _gain(views, [apply_edit(name, view.photo, outcome) for view in views], None)
        for outcome in instruction.outcomes
    }
    outcome = max(gains, key=lambda key: gains[key].edited)
    affected = None
    if instruction.kind == "local":
        masks = [affected_mask(name, view.photo) for view in views]
        affected = _gain(views, [apply_edit(name, view.photo) for view in views], masks)
    return Figures(
        prompt=prompt,
        views=len(views),
        base_to_photo=base_to_photo,
        instruction=name,
        kind=instruction.kind,
        outcome=outcome or None,
        whole=gains[outcome],
        affected=affected,
    )


def _gain(views: Sequence[HeldOut], targets: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Gain:
    counted = [
        (view, target, mask)
        for view, target, mask in zip(views, targets, masks or [None] * len(views), strict=True)
        if mask is None or int(mask.sum()) >= _FEWEST_PIXELS
    ]
    return Gain(
        base=_mean(psnr(view.base, target, mask) for view, target, mask in counted),
        edited=_mean(psnr(view.edited, target, mask) for view, target, mask in counted),
        views=len(counted),
    )


def render_held_out(config_path: Path, base: Path | None = None) -> tuple["TrainerConfig", list[HeldOut]]:
    """Open a finished run and render every held-out view, before and after the edit.

    Args:
        config_path: the run's config.yml.
        base: checkpoint of the scene before the edit; default: the one saved before the first round.

    Raises:
        UserError: no checkpoint of the base, or it does not fit.
    """
    cores = FreeCores()
    scene = open_scene(config_path)
    dataset = cast("InputDataset", scene.pipeline.datamanager.eval_dataset)
    model = scene.pipeline.model
    cameras = dataset.cameras.to(model.device)
    before_edit = base or base_checkpoint(config_path.parent, "--base")

    def renders(of: str) -> list[Tensor]:
        images = []
        for view in track(range(len(dataset)), f"held-out views, {of}"):
            cores.look()
            images.append(_render(model, cameras, view))
        return images

    edited = renders("edited")
    load_weights(scene.pipeline, before_edit)
    before = renders("base  ")
    photos = [on_white(dataset.get_data(index)["image"].float()) for index in range(len(dataset))]
    return scene.config, [HeldOut(*images) for images in zip(photos, before, edited, strict=True)]


@torch.no_grad()
def _render(model: "Model", cameras: Any, index: int) -> Tensor:
    image = model.get_outputs_for_camera(cameras[index : index + 1])["rgb"]
    return image.permute(2, 0, 1).clamp(0, 1).cpu()


def before_after(views: Sequence[HeldOut], path: Path) -> None:
    """Write a picture of up to six held-out views: photo, base render, edited render."""
    picked = [round(i * (len(views) - 1) / max(_VIEWS_SHOWN - 1, 1)) for i in range(_VIEWS_SHOWN)]
    rows = [EditedView(i, *(to_bytes(image) for image in views[i])) for i in sorted(set(picked))]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, ("photo", "base render", "edited render")).save(path)


def figures_table(figures: Figures) -> Table:
    """The figures beside what is asked for."""
    table = Table(title=f'"{figures.prompt}", {figures.views} held-out views')
    table.add_column("mean PSNR (dB) to")
    for heading in ("base render", "edited render", "gain", "asked for"):
        table.add_column(heading, justify="right")
    table.add_row("the photo", f"{figures.base_to_photo:.2f}", "", "", f">= {BASE_AT_LEAST:.0f}")
    kind, outcome = figures.kind or "", f", {figures.outcome}" if figures.outcome else ""
    for where, gain in (("", figures.whole), (" (affected)", figures.affected)):
        if gain is not None and gain.views:
            asked = (
                f">= +{GAIN_AT_LEAST[kind]:.0f}" if gain is figures.asked and kind in GAIN_AT_LEAST else ""
            )
            name = f"the true edit{where}{outcome}"
            table.add_row(name, f"{gain.base:.2f}", f"{gain.edited:.2f}", f"{gain.gain:+.2f}", asked)
    return table


def evaluate(config: EvaluateConfig) -> None:
    """Compare a run's edit with the true edit of held-out photos: figures.json and before_after.png."""
    silence_others()
    config_path = find_run(config.run)
    run, views = render_held_out(config_path, config.base)
    prompt = config.prompt or cast(Any, run.pipeline.datamanager).prompt
    figures = measure_edit(views, prompt)
    output = config.output or config_path.parent / "evaluation"
    before_after(views, output / "before_after.png")
    (output / "figures.json").write_text(json.dumps(figures.as_dict(), indent=1))
    print_figures(figures, Console())
    print(f"{output / 'before_after.png'}\n{output / 'figures.json'}")


def print_figures(figures: Figures, console: Console) -> None:
    """The table, and a word where a figure cannot be had."""
    console.print(figures_table(figures))
    if figures.instruction is None:
        console.print(f"No ground truth is known for {figures.prompt!r}: look at the picture.")
    elif figures.kind == "local" and figures.affected is not None and not figures.affected.views:
        console.print("No held-out view shows anything that this instruction changes.")


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def main() -> int:
    """Entry point of csd-evaluate-edit."""
    return run_command(EvaluateConfig, evaluate)


if __name__ == "__main__":
    sys.exit(main())
