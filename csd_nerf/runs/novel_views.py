"""A finished run opened again, and renders of its scene, among them from novel views."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from unittest import mock

import torch
from torch import Tensor

from csd_core.errors import UserError, expect
from csd_core.evaluation.metrics.depth import Pinholes
from csd_nerf.runs.checkpoint import BASE_FOLDER, read_checkpoint

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.models.base_model import Model
    from nerfstudio.pipelines.base_pipeline import Pipeline

VIEWS_BETWEEN = 4
"""Novel views between two neighbouring cameras of the capture."""


class Scene(NamedTuple):
    """An opened run."""

    config: "TrainerConfig"
    pipeline: "Pipeline"


@dataclass(frozen=True)
class Views:
    """Renders of a scene, on the CPU."""

    frames: Tensor
    """(N, 3, H, W) float32 in [0, 1]."""
    depths: Tensor
    """(N, H, W), distance along the ray, in the units of the scene."""
    cameras: Pinholes
    """Of the N views."""


def find_run(path: Path) -> Path:
    """The config.yml that `path` names: itself, or the latest one inside.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    configs = sorted(path.glob("**/config.yml"), key=lambda found: found.stat().st_mtime)
    if not configs:
        raise UserError(f"{path}: expected a run with a config.yml in it, found none; name the run's folder")
    return configs[-1]


def base_checkpoint(run: Path) -> Path:
    """The checkpoint of the scene before the first edit, which a run keeps.

    Args:
        run: the folder of its config.yml.

    Raises:
        UserError: there is none.
    """
    found = sorted((run / BASE_FOLDER).glob("step-*.ckpt"))
    if not found:
        raise UserError(
            f"{run / BASE_FOLDER}: expected the scene before the edit, found none; name another with "
            "csd-evaluate scene --source"
        )
    return found[-1]


def open_scene(run: Path) -> Scene:
    """Open a finished run with its latest weights, for rendering.

    Args:
        run: its folder or config.yml.

    Raises:
        UserError: there is no run, or it has no checkpoints.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    from csd_nerf.nerfstudio_compat.lpips import LPIPS_CLASS, LazyLPIPS

    config_path = find_run(run)
    checkpoints = latest_checkpoint(config_path).parent

    def load_from(config: "TrainerConfig") -> "TrainerConfig":
        """nerfstudio looks where the run was trained; it may have been moved since."""
        config.load_step = None
        config.get_checkpoint_dir = lambda: checkpoints  # type: ignore[method-assign]
        return config

    with mock.patch(LPIPS_CLASS, LazyLPIPS):  # a run of plain nerfacto would download AlexNet here
        config, pipeline, _, _ = eval_setup(config_path, test_mode="test", update_config_callback=load_from)
    return Scene(config, pipeline)


def latest_checkpoint(config_path: Path) -> Path:
    """The last checkpoint of the run of a config.yml.

    Raises:
        UserError: there is none.
    """
    checkpoints = config_path.parent / "nerfstudio_models"
    found = sorted(checkpoints.glob("step-*.ckpt"))
    if not found:
        raise UserError(f"{checkpoints}: expected checkpoints, found none; let the run finish")
    return found[-1]


def load_weights(pipeline: "Pipeline", checkpoint: Path) -> None:
    """Replace the weights of an opened run by those of a checkpoint.

    Raises:
        UserError: the checkpoint is of another scene.
    """
    own = pipeline.state_dict().keys()
    weights = read_checkpoint(checkpoint)["pipeline"]
    try:
        pipeline.load_state_dict({key: value for key, value in weights.items() if key in own})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{checkpoint}: a checkpoint of another scene: {reason}") from error


def novel_cameras(scene: Scene, num_views: int, width: int | None = None) -> "Cameras":
    """Cameras on the path from one camera of the capture to the next, VIEWS_BETWEEN each, in order.

    nerfstudio orders the captured cameras by distance; the path starts at the first, and holds none of the
    captured ones. Where it is too short there are fewer cameras.

    Args:
        scene: an opened run.
        num_views: number of cameras, at least 1.
        width: of the renders in pixels, where smaller than the capture's.

    Raises:
        UserError: fewer than 2 captured cameras.
    """
    from nerfstudio.cameras.camera_paths import get_interpolated_camera_path

    captured = cast(Any, scene.pipeline.datamanager).train_dataset.cameras.to("cpu")
    expect(len(captured) >= 2, "capture", "at least 2 cameras", len(captured))
    each = 2 * VIEWS_BETWEEN + 1  # from one captured camera to the next; every second one is kept
    path = get_interpolated_camera_path(captured, each, order_poses=True)
    kept = [k for k in range(len(path)) if k % each % 2 == 1][:num_views]
    cameras = path[torch.tensor(kept)]
    cameras.width, cameras.height = (
        torch.full_like(cameras.cx, int(size[0]), dtype=torch.int64)
        for size in (captured.width.flatten(), captured.height.flatten())
    )
    return _at_most(cameras, width)


def cameras_from_file(path: Path, width: int | None = None) -> "Cameras":
    """The cameras of a file that nerfstudio's viewer saved. width: as of novel_cameras.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    from nerfstudio.cameras.camera_paths import get_path_from_json

    try:
        content = json.loads(path.read_text())
        cameras = get_path_from_json(content)
        size = (content["render_width"], content["render_height"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted = "expected a camera_path.json of nerfstudio's viewer"
        raise UserError(f"{path}: {wanted}, got {type(error).__name__}: {error}") from error
    cameras.width, cameras.height = (
        torch.full_like(cameras.cx, int(side), dtype=torch.int64) for side in size
    )
    return _at_most(cameras, width)


def _at_most(cameras: "Cameras", width: int | None) -> "Cameras":
    widest = int(cast(Tensor, cameras.width).max())
    if width is not None and width < widest:
        cameras.rescale_output_resolution(width / widest)
    return cameras


@torch.no_grad()
def render_view(model: "Model", cameras: "Cameras", index: int) -> tuple[Tensor, Tensor]:
    """Colours (3, H, W) in [0, 1] and depths (H, W) along the ray, of one camera, on the CPU."""
    outputs = model.get_outputs_for_camera(cameras[index : index + 1].to(model.device))
    return outputs["rgb"].permute(2, 0, 1).clamp(0, 1).cpu(), outputs["depth"][..., 0].cpu()


def render_views(pipeline: "Pipeline", cameras: "Cameras") -> Views:
    """Render a scene from cameras of one size."""
    model = cast("Model", pipeline.model).eval()
    frames, depths = zip(*(render_view(model, cameras, k) for k in range(len(cameras))), strict=True)
    focal, centre = (
        torch.cat(pair, dim=-1).cpu() for pair in ((cameras.fx, cameras.fy), (cameras.cx, cameras.cy))
    )
    pinholes = Pinholes(focal, centre, cameras.camera_to_worlds.cpu())
    return Views(torch.stack(frames), torch.stack(depths), pinholes)
