"""Held-out views of a run before and after its edit, and their distance to the true edit where it is known.

    photo     a held-out photo
    base      the render of the scene before the edit, from the photo's camera
    edited    the render after it
    target    the photo edited by csd_core.mini_editor.edits, the ground truth of the instruction

Every figure is a PSNR in dB, the mean over the held-out views. The gain of an edit is PSNR(edited, target) -
PSNR(base, target), for local edits also inside the pixels that the instruction affects. Of an instruction
with several right outcomes, the one with the highest mean PSNR over all views counts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from csd_core.evaluation.metrics.pixels import psnr
from csd_core.machine import FreeCores
from csd_core.mini_editor.edits import affected_mask, apply_edit, find_instruction
from csd_nerf.editing.rounds import EditedView, contact_sheet
from csd_nerf.editing.views import on_white, to_bytes
from csd_nerf.runs.novel_views import base_checkpoint, load_weights, open_scene, render_view

if TYPE_CHECKING:
    from nerfstudio.data.datasets.base_dataset import InputDataset
    from nerfstudio.pipelines.base_pipeline import Pipeline

COLUMNS = ("mean PSNR (dB) to", "base render", "edited render", "gain")
_FEWEST_PIXELS = 16  # a view with fewer affected pixels does not count for the affected figures
_VIEWS_SHOWN = 6


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
    gain: float
    """Increase in dB."""
    views: int
    """Views that count."""


@dataclass(frozen=True)
class EditFigures:
    """The figures of one run."""

    prompt: str
    views: int
    base_to_photo: float
    instruction: str | None = None
    """None: the ground truth of the prompt is not known, and there are no gains."""
    kind: str | None = None
    outcome: str | None = None
    """The outcome that counts, where several are right."""
    whole: Gain | None = None
    affected: Gain | None = None
    """Inside the affected pixels; local edits alone."""

    @property
    def title(self) -> str:
        """Of a table of the figures."""
        return f'"{self.prompt}", {self.views} held-out views'

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of a table with COLUMNS."""
        rows: list[tuple[str, ...]] = [("the photo", f"{self.base_to_photo:.2f}", "", "")]
        outcome = f", {self.outcome}" if self.outcome else ""
        for where, gain in (("", self.whole), (" (affected)", self.affected)):
            if gain is not None and gain.views:
                numbers = (f"{gain.base:.2f}", f"{gain.edited:.2f}", f"{gain.gain:+.2f}")
                rows.append((f"the true edit{where}{outcome}", *numbers))
        return rows

    @property
    def note(self) -> str:
        """Why a figure is missing; "" if none is."""
        if self.instruction is None:
            return f"No ground truth is known for {self.prompt!r}: look at the image."
        if self.affected is not None and not self.affected.views:
            return "No held-out view shows anything that this instruction changes."
        return ""


def measure_edit(views: Sequence[HeldOut], prompt: str) -> EditFigures:
    """All figures of an edit.

    Args:
        views: at least one.
        prompt: the instruction; without a known ground truth only the PSNR of base to photo is measured.
    """
    base_to_photo = _mean(psnr(view.base, view.photo) for view in views)
    instruction = find_instruction(prompt)
    if instruction is None:
        return EditFigures(prompt, len(views), base_to_photo)
    name = instruction.name
    gains = {
        outcome: _gain(views, [apply_edit(name, view.photo, outcome) for view in views])
        for outcome in instruction.outcomes
    }
    outcome = max(gains, key=lambda key: gains[key].edited)
    affected = None
    if instruction.kind == "local":
        masks = [affected_mask(name, view.photo) for view in views]
        affected = _gain(views, [apply_edit(name, view.photo) for view in views], masks)
    known = (name, instruction.kind, outcome or None, gains[outcome], affected)
    return EditFigures(prompt, len(views), base_to_photo, *known)


def _gain(views: Sequence[HeldOut], targets: Sequence[Tensor], masks: Sequence[Tensor] | None = None) -> Gain:
    counted = [
        (view, target, mask)
        for view, target, mask in zip(views, targets, masks or [None] * len(views), strict=True)
        if mask is None or int(mask.sum()) >= _FEWEST_PIXELS
    ]
    base = _mean(psnr(view.base, target, mask) for view, target, mask in counted)
    edited = _mean(psnr(view.edited, target, mask) for view, target, mask in counted)
    return Gain(base, edited, edited - base, len(counted))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else math.nan


def render_held_out(config_path: Path) -> list[HeldOut]:
    """Open a finished run and render every held-out view, before and after the edit.

    Args:
        config_path: the run's config.yml.

    Raises:
        UserError: the run kept no checkpoint of the scene before the edit.
    """
    base = base_checkpoint(config_path.parent)
    pipeline = open_scene(config_path).pipeline
    photos, edited = photos_of(pipeline), renders_of(pipeline, "edited")
    load_weights(pipeline, base)
    return [HeldOut(*images) for images in zip(photos, renders_of(pipeline, "base"), edited, strict=True)]


def photos_of(pipeline: "Pipeline") -> list[Tensor]:
    """The held-out photos, (3, H, W) in [0, 1] each."""
    dataset = _held_out(pipeline)
    return [on_white(dataset.get_data(index)["image"].float()) for index in range(len(dataset))]


def renders_of(pipeline: "Pipeline", title: str) -> list[Tensor]:
    """Renders of the held-out views, (3, H, W) in [0, 1] each. title: of the progress bar."""
    cameras, cores = _held_out(pipeline).cameras.to(pipeline.device), FreeCores()
    images = []
    for view in track(range(len(cameras)), f"held-out views, {title:6}"):
        cores.look()
        images.append(render_view(pipeline.model, cameras, view)[0])
    return images


def _held_out(pipeline: "Pipeline") -> "InputDataset":
    return cast(Any, pipeline.datamanager).eval_dataset


def before_after(views: Sequence[HeldOut], path: Path) -> None:
    """Write an image of up to six held-out views: photo, base render, edited render."""
    picked = [round(i * (len(views) - 1) / (_VIEWS_SHOWN - 1)) for i in range(_VIEWS_SHOWN)]
    rows = [EditedView(i, *(to_bytes(image) for image in views[i])) for i in sorted(set(picked))]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, ("photo", "base render", "edited render")).save(path)


def print_figures(figures: EditFigures, console: Console) -> None:
    """Print the figures as a table, and why one is missing."""
    table = Table(COLUMNS[0], title=figures.title)
    for heading in COLUMNS[1:]:
        table.add_column(heading, justify="right")
    for row in figures.rows():
        table.add_row(*row)
    console.print(table)
    if figures.note:
        console.print(figures.note)
