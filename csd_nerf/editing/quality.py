"""Measures whether a scene and its edits can be trusted: PSNR of renders, agreement of the edits' hues.

PSNR in dB is -10 log10(mean squared error) of images in [0, 1], the mean over a few views, each at a few
thousand pixels on a grid: seconds, also on a CPU. It is low where no scene can show all edits. Edits that
disagree with each other differ in hue.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from csd_core.evaluation.metrics.pixels import hue_spread, psnr
from csd_core.io.files import written_beside
from csd_nerf.console import CONSOLE
from csd_nerf.editing.rendering import render_pixels
from csd_nerf.editing.rounds import EditedView
from csd_nerf.editing.views import on_white, to_float

if TYPE_CHECKING:
    from csd_nerf.csd_model import CSDModel

BASE_AT_LEAST = 20.0
"""dB of the base scene on held-out photos; below it the geometry is wrong, which no edit can fix."""
FOLLOWS_AT_LEAST = 11.0
"""dB of the renders of edited views to their edits; below it the scene cannot show them all. First rounds of
good runs had 12.9 (a sketch) to 28.7, of views edited one by one 8.0 to 8.6 (docs/results.md)."""
HUES_AT_MOST = 65.0
"""Degrees by which the hue of the edit may differ from view to view (hue_spread). Rounds of good runs had
2 to 57, of views that were tinted in a colour each 75 to 109 (docs/results.md)."""
FILE = "quality.json"
_VIEWS = 4
_PIXELS = 48  # of the longer side of a view's grid


class Shown(NamedTuple):
    """A view and what it should show."""

    cameras: Cameras
    index: int
    """Of the view's camera in `cameras`."""
    image: Tensor
    """(3, H, W) float32 in [0, 1]."""
    mask: Tensor | None = None
    """(H, W) bool, the pixels that count; None: all."""


@dataclass
class Quality:
    """What was measured in a run so far."""

    base: float | None = None
    """dB of held-out views before the first edit; None: not measured, or no view was held out."""
    rounds: dict[str, float] = field(default_factory=dict)
    """Number of a round -> dB of its views to their edits, just before the next round or at the end."""
    hues: dict[str, float] = field(default_factory=dict)
    """Number of a round -> degrees by which its edits differ in hue; grey edits have none."""

    def write(self, run: Path) -> None:
        """Write FILE into the run's folder."""
        with written_beside(run / FILE) as beside:
            beside.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, run: Path) -> "Quality":
        """Of a run's folder; empty for older runs, which have no FILE."""
        path = run / FILE
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def base_is(self, value: float) -> None:
        """Record the base's dB and print it; NaN is ignored."""
        if not math.isnan(value):
            self.base = value
            good = f"The scene renders held-out photos at {value:.1f} dB."
            _report(good, problems(base=value))

    def round_is(self, number: int, value: float) -> None:
        """Record a round's dB and print it; NaN is ignored."""
        if not math.isnan(value):
            self.rounds[str(number)] = value
            good = f"Round {number}: the scene renders its edited views at {value:.1f} dB."
            _report(good, problems(follows=value), f"round {number}: ")

    def edits_are(self, number: int, edits: Iterable[EditedView]) -> None:
        """Measure whether the edits of a round agree; print a warning where they do not."""
        pairs = [(to_float(view.edit), to_float(view.photo)) for view in edits]
        spread = hue_spread(*zip(*pairs, strict=True))
        if not math.isnan(spread):
            self.hues[str(number)] = spread
            _report("", problems(spread=spread), f"round {number}: ")

    @property
    def follows(self) -> float:
        """dB of the worst round; NaN without one.

        Not of the latest: over time a scene learns to show each direction its own colours, and renders edits
        that disagree well (20 and 24 dB after three rounds) from where they were made, nowhere else.
        """
        return min(self.rounds.values(), default=math.nan)

    @property
    def spread(self) -> float:
        """Degrees of the round whose edits differ most in hue; NaN without one."""
        return max(self.hues.values(), default=math.nan)

    def verdict(self) -> str:
        """Whether the result can be trusted, in one line."""
        base = math.nan if self.base is None else self.base
        if found := problems(base, self.follows, self.spread):
            return f"The result can NOT be trusted: {'; '.join(found)}."
        measured = [
            f"the scene renders {what} at {value:.1f} dB (at least {least:g})"
            for what, value, least in (
                ("held-out photos", base, BASE_AT_LEAST),
                ("edited views", self.follows, FOLLOWS_AT_LEAST),
            )
            if not math.isnan(value)
        ]
        return f"The result can be trusted: {', '.join(measured)}." if measured else "Quality: not measured."


def problems(base: float = math.nan, follows: float = math.nan, spread: float = math.nan) -> list[str]:
    """What each figure outside its limit means, and what to try; NaN has no problem."""
    edit, found = "--pipeline.datamanager.edit", []
    if base < BASE_AT_LEAST:
        found.append(
            f"held-out photos are rendered at {base:.1f} dB, expected at least {BASE_AT_LEAST:g}: the scene "
            "was not reconstructed, and its edits will be fog; check the poses (ns-process-data), take more "
            "photos that overlap, raise --base-steps, or, where the exposure changes from photo to photo, "
            "give --pipeline.model.use-appearance-embedding True (--appearance of csd-demo)"
        )
    if follows < FOLLOWS_AT_LEAST:
        found.append(
            f"edited views are rendered at {follows:.1f} dB, expected at least {FOLLOWS_AT_LEAST:g}: the "
            "edits disagree or had too few steps; look at the round's contact sheet, lower "
            f"{edit}.guidance-scale, or raise {edit}-interval"
        )
    if spread > HUES_AT_MOST:
        found.append(
            f"the views were edited in different colours (hues spread by {spread:.0f} degrees, expected at "
            f"most {HUES_AT_MOST:g}); look at the round's contact sheet, try another {edit}.seed, or raise "
            f"{edit}.bandwidth-factor"
        )
    return found


def _report(good: str, found: list[str], of: str = "") -> None:
    if found:
        CONSOLE.print(f"warning: {of}{found[0]}", style="yellow")
    elif good:
        CONSOLE.print(good)


def held_out_views(dataset: InputDataset) -> list[Shown]:
    """A few views of the dataset that training never sees, as they were photographed."""
    views = []
    for index in _few(range(len(dataset))):
        data = dataset.get_data(index, image_type="float32")
        mask = data["mask"][..., 0] > 0 if "mask" in data else None
        views.append(Shown(dataset.cameras, index, on_white(data["image"]), mask))
    return views


def edited_views(cameras: Cameras, edits: Mapping[int, Tensor]) -> list[Shown]:
    """A few of the edited training views.

    Args:
        cameras: of all training views.
        edits: view -> its edit, uint8 (3, H, W).
    """
    return [Shown(cameras, view, to_float(edits[view])) for view in _few(sorted(edits))]


def _few(views: Sequence[int]) -> list[int]:
    """_VIEWS of them, evenly spread."""
    if len(views) <= _VIEWS:
        return list(views)
    return [views[round(k * (len(views) - 1) / (_VIEWS - 1))] for k in range(_VIEWS)]


def mean_psnr(model: "CSDModel", views: Sequence[Shown], *, training_poses: bool = False) -> float:
    """dB of renders to what the views should show; NaN without views or pixels that count.

    Args:
        model: the scene.
        views: what is compared.
        training_poses: they are training views, whose poses the scene may have optimised.
    """
    values = []
    for view in views:
        y, x = _grid(view)
        if len(y):
            coords = torch.stack((y, x), dim=-1).to(view.cameras.device) + 0.5
            which = torch.full((len(y), 1), view.index, device=coords.device)
            rendered = render_pixels(model, view.cameras, which, coords, training_poses=training_poses)
            values.append(psnr(rendered.T[..., None], view.image[:, y, x][..., None]))
    return sum(values) / len(values) if values else math.nan


def _grid(view: Shown) -> tuple[Tensor, Tensor]:
    """Rows and columns of pixels that count, evenly spread."""
    height, width = view.image.shape[-2:]
    step = max(1, math.ceil(max(height, width) / _PIXELS))
    rows, columns = (torch.arange(step // 2, size, step) for size in (height, width))
    y, x = (part.flatten() for part in torch.meshgrid(rows, columns, indexing="ij"))
    if view.mask is None:
        return y, x
    counts = view.mask[y, x]
    return y[counts], x[counts]
