"""csd-evaluate: the evaluations of csd_core, and that of a scene, before and after along one path."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from csd_core.cli import evaluate
from csd_core.cli.evaluate import Entry, EvaluateOptions, tell
from csd_core.errors import expect
from csd_core.io.files import file_hash, folder_written_beside
from csd_nerf.nerfstudio_compat.quiet import silence_others

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from csd_core.evaluation import Measured
    from csd_nerf.runs.novel_views import Scene, Views


@dataclass(kw_only=True)
class SceneEvaluation(EvaluateOptions):
    """Options of csd-evaluate scene."""

    edited: Path
    """The run after the edit: its folder or config.yml."""
    source: Path | None = None
    """A run of the same capture before the edit. Default, or if it is the edited run: the scene that that one
    kept before its first round."""
    path: Path | None = None
    """camera_path.json of nerfstudio's viewer. Default: novel views between the cameras of the capture."""
    num_views: int = 24
    """Novel views, where no path is given."""
    width: int | None = None
    """Of the renders in pixels, at most. Default: as the capture was trained on. Rendering takes the time."""


def evaluate_scene(options: SceneEvaluation) -> None:
    """Measure an edit of a scene, on renders along one camera path of novel views."""
    from csd_core.evaluation.measuring import measure_views
    from csd_core.evaluation.report import Report, write_report
    from csd_core.experiments.inputs import write_frames
    from csd_nerf.runs.novel_views import base_checkpoint, find_run, latest_checkpoint

    silence_others()
    begun = time.perf_counter()
    inputs = [path for path in (options.edited, options.source, options.path) if path]
    options.check(*inputs)
    expect(options.num_views >= 1, "num-views", "at least 1", options.num_views)
    expect(options.width is None or options.width >= 16, "width", "at least 16 pixels", options.width)
    edited = find_run(options.edited)
    other = find_run(options.source) if options.source else edited
    # against itself a run would be no edit at all
    source = base_checkpoint(edited.parent, "--source") if other.samefile(edited) else other
    read = [latest_checkpoint(edited), source if source.suffix == ".ckpt" else latest_checkpoint(source)]
    tools = options.load_tools()
    before, after = render_both(options, edited, source)
    of_pictures = measure_views(before.frames, after.frames, options.captions, tools)
    # a scene has no mask
    measures = [m for m in of_pictures if m.key != "psnr_outside_mask"] + depth_errors(before, after)
    report = Report(
        "csd-evaluate scene",
        options.as_json(),
        options.captions,
        tools,
        {str(path): file_hash(path) for path in (*read, *([options.path] if options.path else []))},
        [f"view {k + 1}" for k in range(len(before.frames))],
        range(len(before.frames)),
        measures,
        notes=list(options.hints(tools)),
        settings={"cameras": before.cameras.camera_to_world.tolist()},
        seconds=time.perf_counter() - begun,
    )
    with folder_written_beside(options.output) as folder:
        for name, views in (("source", before), ("edited", after)):
            write_frames(folder / "frames" / name, views.frames)
        write_report(folder, report, before.frames, after.frames)
    tell(report, options.output)


def render_both(options: SceneEvaluation, edited: Path, source: Path) -> tuple["Views", "Views"]:
    """A scene before and after its edit, from the same cameras.

    Args:
        options: path, number and size of the views.
        edited: config.yml of a run.
        source: config.yml of another, or a checkpoint of the same scene.

    Raises:
        UserError: they are runs of different captures.
    """
    from csd_nerf.runs.novel_views import load_weights, open_scene, render_views

    scene = open_scene(edited)
    other = None if source.suffix == ".ckpt" else open_scene(source)
    if other is not None:
        poses = [cast(Any, each.pipeline.datamanager).train_dataset.cameras for each in (scene, other)]
        here, there = (cameras.camera_to_worlds for cameras in poses)
        same = here.shape == there.shape and torch.allclose(here, there, atol=1e-4)
        expect(same, str(source), f"a run of the capture of {edited}, with its cameras", "another one")
    cameras = _cameras(options, scene)
    after = render_views(scene.pipeline, cameras)
    if other is None:
        load_weights(scene.pipeline, source)
    return render_views((other or scene).pipeline, cameras), after


def depth_errors(before: "Views", after: "Views") -> list["Measured"]:
    """How far neighbouring views differ at the same points, by the depth of the scene before the edit."""
    from csd_core.evaluation import measured
    from csd_core.evaluation.metrics.depth import reprojection_error

    return [
        measured(key, reprojection_error(frames, before.depths, before.cameras).tolist())
        for key, frames in (("depth_error", after.frames), ("source_depth_error", before.frames))
    ]


def _cameras(options: SceneEvaluation, scene: "Scene") -> "Cameras":
    from csd_nerf.runs.novel_views import cameras_from_file, novel_cameras

    if options.path:
        return cameras_from_file(options.path, options.width)
    return novel_cameras(scene, options.num_views, options.width)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-evaluate."""
    return evaluate.main(args, more={"scene": Entry(SceneEvaluation, evaluate_scene)})


if __name__ == "__main__":
    sys.exit(main())
