"""What is measured of a cell, by which extractor; kept beside its edit and measured anew by another one.

FOLDER/<key of the cell>/figures-<hash>.json
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from csd_core.experiments.edits import FRAMES, sized_source
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import Input, read_frames
from csd_core.experiments.settings import Prompt
from csd_core.io.files import written_beside

if TYPE_CHECKING:
    from csd_core.evaluation import Measured, Tools

VERSION = 1
"""Rises when the figures of this module change their meaning."""


@dataclass(frozen=True)
class Figure:
    """One number of a cell."""

    mean: float | None
    """None: does not apply, or could not be measured."""
    n: int = 1
    """Frames, pairs or parts that it is the mean of."""


Figures = dict[str, Figure]
"""By the key of a column."""


def tools_identity(tools: "Tools") -> dict[str, Any]:
    """What figures hang on besides the edit."""
    return {
        "version": VERSION,
        "extractor": tools.clip.identity if tools.clip else None,
        "lpips": tools.lpips is not None,
        "fid": tools.inception is not None,
    }


def figures_path(cell: Cell, folder: Path, prompt: Prompt, identity: Mapping[str, Any]) -> Path:
    """Where the figures of a cell by these tools are kept."""
    whole = json.dumps({**identity, "prompt": asdict(prompt)}, sort_keys=True)
    return cell.path(folder) / f"figures-{hashlib.sha256(whole.encode()).hexdigest()[:12]}.json"


def read_figures(path: Path) -> Figures | None:
    """The figures in a file of ours; None where there is none yet."""
    if not path.is_file():
        return None
    return {key: Figure(**figure) for key, figure in json.loads(path.read_text())["figures"].items()}


def write_figures(path: Path, figures: Figures, identity: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    whole = {**identity, "figures": {key: asdict(figure) for key, figure in figures.items()}}
    with written_beside(path) as beside:
        beside.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")


def measure_cell(
    cell: Cell, folder: Path, source: Input, prompt: Prompt, tools: "Tools", *, is_video: bool
) -> Figures:
    """All figures of a cell: those of csd-evaluate, and against the true edit where it is known."""
    from csd_core.evaluation import Borders, Captions, measure_panorama, measure_video

    before, after = sized_source(cell, source), read_frames(cell.path(folder) / FRAMES)
    captions = Captions(prompt.source, prompt.target)
    if is_video:
        several = measure_video(before, after, captions, tools)
    else:
        told = cell.record(folder).get("borders")
        borders = Borders(*told) if told else None
        several = measure_panorama(before[0], after[0], captions, tools, borders=borders)
    figures = {measured.key: as_figure(measured) for measured in several}
    return {**figures, **(known_truth(prompt, before, after) if prompt.instruction else {})}


def as_figure(measured: "Measured") -> Figure:
    """The mean of a measure of csd-evaluate."""
    return Figure(finite(measured.mean), measured.n)


def known_truth(prompt: Prompt, before: Sequence[Tensor], after: Sequence[Tensor]) -> Figures:
    """Against what the instruction should have made of the frames (3, H, W), or of one picture.

    psnr_true: to the true edit; of a choice to the outcome that the whole is nearest to, dB.
    hue_spread, share: of a choice alone. How far hues differ between frames, or parts of a picture, in
        degrees; share of them nearest to the outcome that most are nearest to.
    """
    from csd_core.evaluation.metrics.pixels import hue_spread
    from csd_core.mini_editor.training.videos import match

    whole = match(prompt.instruction, iter(before), after)
    figures = {"psnr_true": Figure(finite(whole.psnr), len(after))}
    if prompt.is_choice:
        pairs = list(zip(before, after, strict=True))
        if len(pairs) == 1:
            pairs = list(zip(parts(before[0]), parts(after[0]), strict=True))
        sources, edits = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        share = match(prompt.instruction, iter(sources), edits).share
        figures["hue_spread"] = Figure(finite(hue_spread(edits, sources)), len(pairs))
        figures["share"] = Figure(share, len(pairs))
    return figures


def parts(image: Tensor) -> list[Tensor]:
    """An image (3, H, W) cut into squares, each half its short side wide; what is left over is left out."""
    side = min(image.shape[-2:]) // 2
    rows = image.unfold(1, side, side).unfold(2, side, side)
    return list(rows.permute(1, 2, 0, 3, 4).flatten(0, 1))


def finite(value: float) -> float | None:
    """None for what JSON does not know."""
    return value if math.isfinite(value) else None


def mean_and_error(values: Sequence[float]) -> tuple[float | None, float | None, int]:
    """Mean, standard error and number; None where there are too few."""
    from csd_core.evaluation.metrics.clip import mean_and_error as of_tensor

    mean, error, n = of_tensor(torch.tensor(values, dtype=torch.float64))
    return finite(mean), finite(error), n
