"""Says when a scene went wrong: how well it renders what it never saw, and whether its edits agree.

Edits that disagree show in the hues of a round; edits that no scene can follow, in how it renders them back.
Figures of renders are PSNR in dB, -10 log10(mean squared error), images in [0, 1], mean over a few views,
each at a few thousand pixels on a grid: seconds, also on a CPU.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from csd_core.evaluation.metrics.pixels import hue_spread, psnr
from csd_core.io.files import written_beside
from csd_nerf.console import CONSOLE
from csd_nerf.editing.rounds import EditedView
from csd_nerf.editing.views import on_white, to_float

if TYPE_CHECKING:
    from csd_nerf.csd_model import CSDModel

BASE_AT_LEAST = 20.0
"""dB of the base scene on held-out photos; below it the geometry is wrong, and an edit cannot mend it."""
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
    """What is known of a run so far."""

    base: float | None = None
    """dB of held-out views before the first edit; None: not measured, or no view was held out."""
    rounds: dict[str, float] = field(default_factory=dict)
    """Number of a round -> dB of its views to their edits, just before the next round or at the end."""
    hues: dict[str, float] = field(default_factory=dict)
    """Number of a round -> degrees by which its edits differ in hue; grey edits have none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def write(self, run: Path) -> None:
        """Leave FILE in the run's folder."""
        with written_beside(run / FILE) as beside:
            beside.write_text(json.dumps(self.as_dict(), indent=1))

    @classmethod
    def read(cls, run: Path) -> "Quality":
        """Of a run's folder; empty where it was made before there was a FILE."""
        path = run / FILE
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def base_is(self, value: float) -> None:
        """Take the measure of the base, and tell it; NaN is nothing to tell."""
        if math.isnan(value):
            return
        self.base = value
        if value < BASE_AT_LEAST:
            CONSOLE.print(f"warning: {base_warning(value)}", style="yellow")
        else:
            CONSOLE.print(f"The scene renders held-out photos at {value:.1f} dB.")

    def round_is(self, number: int, value: float) -> None:
        """Take the measure of a round, and tell it; NaN is nothing to tell."""
        if math.isnan(value):
            return
        self.rounds[str(number)] = value
        if value < FOLLOWS_AT_LEAST:
            warning = f"warning: round {number}: {follows_warning(value)}"
            CONSOLE.print(warning, style="yellow")
        else:
            CONSOLE.print(f"Round {number}: the scene renders its edited views at {value:.1f} dB.")

    def edits_are(self, number: int, edits: Iterable[EditedView]) -> None:
        """Measure whether the edits of a round agree, and tell it where they do not."""
        pairs = [(to_float(view.edit), to_float(view.photo)) for view in edits]
        spread = hue_spread(*zip(*pairs, strict=True))
        if math.isnan(spread):
            return
        self.hues[str(number)] = spread
        if spread > HUES_AT_MOST:
            CONSOLE.print(f"warning: round {number}: {hues_warning(spread)}", style="yellow")

    @property
    def follows(self) -> float:
        """dB of the worst round; NaN without one.

        Not of the latest: in time a scene learns to show each direction its own colours, and edits that
        disagree are rendered well (20 and 24 dB after three rounds) from where they were made alone.
        """
        return min(self.rounds.values(), default=math.nan)

    @property
    def spread(self) -> float:
        """Degrees of the round whose edits differ most in hue; NaN without one."""
        return max(self.hues.values(), default=math.nan)

    def verdict(self) -> str:
        """Whether the result can be trusted, in one line."""
        reasons = []
        if self.base is not None and self.base < BASE_AT_LEAST:
            reasons.append(base_warning(self.base))
        if self.follows < FOLLOWS_AT_LEAST:
            reasons.append(follows_warning(self.follows))
        if self.spread > HUES_AT_MOST:
            reasons.append(hues_warning(self.spread))
        if reasons:
            return f"The result can NOT be trusted: {'; '.join(reasons)}."
        known = [
            ("held-out photos", self.base, BASE_AT_LEAST),
            ("edited views", self.follows, FOLLOWS_AT_LEAST),
        ]
        told = [
            f"the scene renders {what} at {value:.1f} dB (at least {least:g})"
            for what, value, least in known
            if value is not None and not math.isnan(value)
        ]
        return (
            f"The result can be trusted: {', '.join(told)}." if told else "Nothing is known of its quality."
        )


def base_warning(value: float) -> str:
    """What too few dB of the base mean, and what to try."""
    return (
        f"held-out photos are rendered at {value:.1f} dB, expected at least {BASE_AT_LEAST:g}: the scene "
        "was not found, and its edits will be fog; check the poses (ns-process-data), take more photos that "
        "overlap, raise --base-steps, or, where the exposure changes from photo to photo, give "
        "--pipeline.model.use-appearance-embedding True (--appearance of csd-demo)"
    )


def follows_warning(value: float) -> str:
    """What too few dB of a round mean, and what to try."""
    return (
        f"edited views are rendered at {value:.1f} dB, expected at least {FOLLOWS_AT_LEAST:g}: the edits "
        "disagree or had too few steps; look at the round's contact sheet, lower "
        "--pipeline.datamanager.edit.guidance-scale, or raise --pipeline.datamanager.edit-interval"
    )


def hues_warning(spread: float) -> str:
    """What too wide a spread of hues means, and what to try."""
    return (
        f"the views were edited in different colours (hues spread by {spread:.0f} degrees, expected at most "
        f"{HUES_AT_MOST:g}); look at the round's contact sheet, try another "
        "--pipeline.datamanager.edit.seed, or raise --pipeline.datamanager.edit.bandwidth-factor"
    )


def held_out_views(dataset: InputDataset) -> list[Shown]:
    """A few views of the dataset that training never sees, as they were photographed."""
    return [_held_out(dataset, index) for index in _few(range(len(dataset)))]


def _held_out(dataset: InputDataset, index: int) -> Shown:
    data = dataset.get_data(index, image_type="float32")
    mask = data["mask"][..., 0] > 0 if "mask" in data else None
    return Shown(dataset.cameras, index, on_white(data["image"]), mask)


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


@torch.no_grad()
def mean_psnr(model: "CSDModel", views: Sequence[Shown], *, follow_poses: bool = False) -> float:
    """dB of renders to what the views should show; NaN without views or pixels that count.

    Args:
        model: the scene.
        views: what is compared.
        follow_poses: they are training views, whose poses the scene may have moved.
    """
    values = [value for view in views if not math.isnan(value := _psnr(model, view, follow_poses))]
    return sum(values) / len(values) if values else math.nan


def _psnr(model: "CSDModel", view: Shown, follow_poses: bool) -> float:
    y, x = _grid(view)
    if not len(y):
        return math.nan
    coords = torch.stack((y, x), dim=-1).to(view.cameras.device) + 0.5
    done = []
    for part in coords.split(model.config.eval_num_rays_per_chunk):
        which = torch.full((len(part), 1), view.index, device=part.device)
        rays = view.cameras.generate_rays(which, part).to(model.device)
        if follow_poses:
            model.camera_optimizer.apply_to_raybundle(rays)
        done.append(model.render_rgb(rays).cpu())
    rendered = torch.cat(done).clamp(0, 1).T
    return psnr(rendered[..., None], view.image[:, y, x][..., None])


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
