"""The experiments on scenes: table 2 (against Instruct-NeRF2NeRF) and table 4 (ablation), on csd_core's grid.

The scene before the edit is trained once for each capture, and every cell continues from it with ns-train.

    OUTPUT/bases/KEY/           the run of the base, its novel views, their cameras and depth
    OUTPUT/cells/KEY/frames/    the edited scene from the same novel views
    OUTPUT/cells/KEY/train.log  output of ns-train
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd_core.engine.config import EditConfig
from csd_core.engine.ranks import without_launch
from csd_core.errors import UserError, expect
from csd_core.experiments.edits import FRAMES
from csd_core.experiments.experiment import Column, Experiment
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import read_frames, write_frames
from csd_core.experiments.measures import Measures, all_measures, finite
from csd_core.experiments.options import ExperimentOptions, PreparedExperiment
from csd_core.experiments.paper import CONSISTENCY, DIRECTIONAL, SCENE, SCENE_ABLATION
from csd_core.experiments.registry import (
    ABLATION,
    BEYOND,
    CONSISTENCY_COLUMN,
    DIRECTIONAL_COLUMN,
    LPIPS_COLUMN,
    SECONDS_COLUMN,
    SNOW,
    TINT,
    TRUTH_COLUMNS,
    experiment,
    kernels,
    speed_ups,
)
from csd_core.experiments.settings import Model, Prompt, Variant, decisive, optimised
from csd_core.io.files import file_hash, folder_written_beside
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.nerfstudio_compat.quiet import silence_others

if TYPE_CHECKING:
    from csd_core.evaluation import Tools
    from csd_nerf.runs.novel_views import Views

ONE_VIEW = "instruct-nerf2nerf"
NEVER = str(10**9)
LOG = "train.log"
GEOMETRY = "geometry.safetensors"
"""Depth and cameras of the base's novel views."""
RENDERED_SIZE = 128
"""Side of a rendered photo, in pixels."""
NOT_FOR_SCENES = ("num_frames", "num_steps", "stride", "dtype")
"""Options of csd-experiment."""


@dataclass(frozen=True)
class SceneTraining:
    """How scenes are trained and edited."""

    method: str
    """Of ns-train."""
    base_steps: int
    """Training steps before the first edit."""
    steps: int
    """Training steps with edits."""
    interval: int
    """Steps between two rounds of csd."""
    views: int
    """Views of a round, B."""
    one_view_interval: int = 10
    """Steps between two views of Instruct-NeRF2NeRF (its Sec. 4.2)."""
    sampling_steps: int = 20
    """Denoising steps of a view, likewise."""
    novel_views: int = 24
    """Views that are measured."""
    width: int | None = None
    """Their width in pixels, at most. None: the capture's."""
    photos: int = 50
    """Of a rendered capture."""


PAPER = SceneTraining("csd-nerf2nerf", 30000, 30000, 2000, 16)
"""Appendix B.3; Instruct-NeRF2NeRF trains as long."""
MINIATURE = SceneTraining(
    "csd-nerf2nerf-tiny", 400, 160, 80, 8, sampling_steps=6, novel_views=8, width=96, photos=24
)
"""For one core: two rounds of eight views, and as many of them one by one."""


def _scene(name: str, title: str, where: str, rows: Sequence[Variant], **more: Any) -> Experiment:
    columns = (
        DIRECTIONAL_COLUMN,
        CONSISTENCY_COLUMN,
        LPIPS_COLUMN,
        Column("depth_error", "reprojection error", "lower", 5),
        *TRUTH_COLUMNS,
        SECONDS_COLUMN,
    )
    plot = ("hue_spread", "psnr_true", CONSISTENCY, DIRECTIONAL)
    return experiment("scene", name, title, where, rows, (SNOW, TINT), columns=columns, plot=plot, **more)


_BASE = "All methods continue from one base scene; seeds are those of the edits."

SCENE_EXPERIMENTS = (
    _scene(
        "",
        "against Instruct-NeRF2NeRF",
        "table 2",
        (Variant("csd"), Variant(ONE_VIEW)),
        published=SCENE,
        note=f"{_BASE} {ONE_VIEW}: its schedule, one view every ten steps, in our data manager.",
    ),
    _scene(
        "ablation",
        "csd without SVGD, and with random noise as baseline",
        "table 4",
        ABLATION,
        published=SCENE_ABLATION,
        note=f"{_BASE} The learning rate of no-svgd is lowered so that views move as far as csd's.",
    ),
    _scene(
        "kernel",
        "wider kernels and shared noise",
        BEYOND,
        kernels(),
        note=f"{_BASE} Learning rates are lowered for wider kernels so that views move as far.",
    ),
    _scene(
        "speed",
        "does what makes an edit faster change it",
        BEYOND,
        speed_ups(EditConfig.noise_pool),
        note=_BASE,
    ),
)


# Inputs and grid ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """A folder with transforms.json."""

    name: str
    folder: Path
    sha256: str
    """Of the names and contents of all files."""

    @classmethod
    def of(cls, folder: Path, name: str = "") -> "Capture":
        """The capture in a folder."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        lines = [f"{path.relative_to(folder)} {file_hash(path)}\n" for path in files]
        return cls(name or folder.name, folder, hashlib.sha256("".join(lines).encode()).hexdigest())


def prepare_scenes(experiment: Experiment, options: ExperimentOptions) -> PreparedExperiment:
    """Find or render the captures, find the model and build the grid.

    Raises:
        UserError: a capture that is none, an unknown model, instruction or method, an option that is not for
            scenes.
    """
    for name in NOT_FOR_SCENES:
        given = getattr(options, name)
        expect(given is None, name.replace("_", "-"), "none, scenes take the method preset's", given)
    silence_others()
    model = Model.find(options.model, local_files_only=options.local_files_only)
    scale = experiment.mini if model.is_mini else experiment.full
    training = MINIATURE if model.is_mini else PAPER
    choices = options.choices(scale, model.is_mini)
    captures = find_captures(options, training)
    work = SceneWork(
        options.output.resolve(),
        model,
        {capture.sha256: capture for capture in captures},
        training,
        options.local_files_only,
    )
    cells = options.grid(work.plan, captures, choices)
    hashes = {capture.name: capture.sha256[:16] for capture in captures}
    listed = {"model hash": model.identity, "inputs": hashes, "training": asdict(training)}
    return PreparedExperiment(cells, work, listed)


def find_captures(options: ExperimentOptions, training: SceneTraining) -> list[Capture]:
    """A capture, the captures of a folder, or the demo's scene.

    Raises:
        UserError: there is none.
    """
    if options.inputs is None:
        expect((options.num_inputs or 1) == 1, "num-inputs", "1, one scene is rendered", options.num_inputs)
        size = options.size or RENDERED_SIZE
        folder = options.output / "inputs" / f"rendered-scene-{training.photos}-{size}"
        if not folder.is_dir():
            write_demo_scene(folder, num_views=training.photos, size=size)
        return [Capture.of(folder, "rendered")]
    expect(options.size is None, "size", "none where captures are given", options.size)
    candidates = (options.inputs, *sorted(options.inputs.glob("*/")))
    folders = [folder for folder in candidates if (folder / "transforms.json").is_file()]
    wanted = "a capture with transforms.json, or a folder of captures"
    expect(len(folders) > 0, "inputs", wanted, f"{options.inputs}, which is neither")
    return [Capture.of(folder) for folder in folders[: options.num_inputs]]


def usual_settings(training: SceneTraining) -> EditConfig:
    """Of the method's preset."""
    from csd_nerf.csd_config import csd_nerf2nerf, csd_nerf2nerf_tiny

    preset = csd_nerf2nerf_tiny if training.method.endswith("tiny") else csd_nerf2nerf
    return cast(Any, preset.config.pipeline).datamanager.edit


def edit_settings(variant: Variant, training: SceneTraining, seed: int) -> EditConfig:
    """Of a row, from the method's preset; Instruct-NeRF2NeRF's schedule uses only the guidance."""
    edit = replace(usual_settings(training), batch_size=training.views, seed=seed)
    if variant.method == ONE_VIEW:
        return replace(edit, batch_size=1)
    given = {name: value for name, value in variant.given.items() if name not in ("lr_factor", "dtype")}
    return optimised(replace(edit, **given), variant, training.views)


# Work ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneWork:
    """Plans, trains, edits, renders and measures; see Work of csd_core.experiments.options."""

    output: Path
    model: Model
    captures: Mapping[str, Capture]
    """By hash."""
    training: SceneTraining
    local_files_only: bool = False

    def plan(self, capture: Capture, prompt: Prompt, variant: Variant, seed: int) -> Cell:
        """The cell of an edit."""
        settings = {
            "capture": capture.sha256,
            "model": self.model.identity,
            "training": asdict(self.training),
            "edit": decisive(edit_settings(variant, self.training, seed)),
            "dtype": variant.given.get("dtype", "float32"),
        }
        return Cell(capture.name, prompt, variant, seed, settings)

    def __call__(self, cell: Cell, folder: Path, device: str) -> dict[str, Any]:
        """Edit a scene and render it: frames/, train.log, and the fields of cell.json."""
        base = self.base(cell, device)
        trained = time.perf_counter()
        run = self._train(self._edit_arguments(cell, base), folder, device)
        seconds = round(time.perf_counter() - trained, 1)
        return {"seconds": seconds, **self._render(run, base, folder)}

    def base(self, cell: Cell, device: str) -> Path:
        """The folder of the scene before the edit; trained now if it does not exist."""
        capture, training = self.captures[cell.settings["capture"]], self.training
        settings = [training.method, training.base_steps, training.novel_views, training.width]
        key = hashlib.sha256(json.dumps([capture.sha256, *settings]).encode()).hexdigest()[:12]
        folder = self.output / "bases" / f"{capture.name}-{key}"
        lock = folder.parent / ".locks" / folder.name
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):  # waits where another process trains it
            if not folder.is_dir():
                with folder_written_beside(folder) as beside:
                    self._make_base(capture, beside, device)
        return folder

    def _make_base(self, capture: Capture, folder: Path, device: str) -> None:
        steps = str(self.training.base_steps)
        arguments = ["--base-steps", steps, "--max-num-iterations", steps]
        arguments += ["--pipeline.datamanager.prompt", "nothing yet", "--data", str(capture.folder.resolve())]
        views = self._novel_views(self._train(arguments, folder, device))
        write_frames(folder / FRAMES, views.frames)
        save_file({"depths": views.depths, **views.cameras._asdict()}, folder / GEOMETRY)

    def _novel_views(self, run: Path) -> "Views":
        from csd_nerf.runs.novel_views import novel_cameras, open_scene, render_views

        scene = open_scene(run)
        cameras = novel_cameras(scene, self.training.novel_views, self.training.width)
        return render_views(scene.pipeline, cameras)

    def _edit_arguments(self, cell: Cell, base: Path) -> list[str]:
        training, usual = self.training, decisive(usual_settings(self.training))
        varied = {k: value for k, value in cell.settings["edit"].items() if value != usual[k]}
        one_view = cell.variant.method == ONE_VIEW
        manager: dict[str, Any] = {
            "prompt": cell.prompt.text,
            "schedule": "one-view" if one_view else "rounds",
            "sampling-steps": training.sampling_steps,
            "edit-interval": training.one_view_interval if one_view else training.interval,
            "model-dtype": cell.settings["dtype"],
            **{f"edit.{name.replace('_', '-')}": value for name, value in varied.items()},
        }
        options: dict[str, Any] = {
            "base-steps": training.base_steps,
            "max-num-iterations": training.base_steps + training.steps,
            "load-dir": next(base.glob("**/nerfstudio_models")),
            **{f"pipeline.datamanager.{name}": value for name, value in manager.items()},
            "data": self.captures[cell.settings["capture"]].folder.resolve(),
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def _train(self, arguments: Sequence[str], folder: Path, device: str) -> Path:
        """Run ns-train with its output and log under `folder`; the run's folder.

        Raises:
            UserError: it failed; the last line of its output.
        """
        shared = ["--output-dir", str(folder), "--experiment-name", "scene", "--timestamp", "run"]
        shared += ["--vis", "tensorboard", "--steps-per-eval-batch", NEVER, "--steps-per-eval-image", NEVER]
        shared += ["--steps-per-eval-all-images", NEVER, "--steps-per-save", NEVER]
        shared += ["--pipeline.datamanager.model", self.model.spec]
        shared += ["--pipeline.datamanager.model-local-files-only", str(self.local_files_only)]
        environment = without_launch(os.environ)
        kind, _, number = device.partition(":")
        shared += ["--machine.device-type", kind]
        if kind == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(environment, int(number or 0))
        command = [str(Path(sys.executable).with_name("ns-train")), self.training.method, *shared, *arguments]
        log = folder / LOG
        with log.open("wb") as file:
            ended = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
        if ended.returncode:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise UserError(f"ns-train ended with {ended.returncode}: {lines[-1][:300]}")
        return next(folder.glob("**/config.yml")).parent

    def _render(self, run: Path, base: Path, folder: Path) -> dict[str, Any]:
        """Novel views of the edited scene; reprojection errors of edit and source by the base's geometry."""
        from csd_core.evaluation.metrics.depth import Pinholes, reprojection_error

        edited = self._novel_views(run)
        write_frames(folder / FRAMES, edited.frames)
        geometry = load_file(base / GEOMETRY)
        depths, before = geometry.pop("depths"), torch.stack(read_frames(base / FRAMES))
        errors = [
            float(reprojection_error(frames, depths, Pinholes(**geometry)).nanmean())
            for frames in (edited.frames, before)
        ]
        for checkpoint in run.rglob("*.ckpt"):  # those of a whole grid would fill the disk
            checkpoint.unlink()
        return {"depth_error": finite(errors[0]), "source_depth_error": finite(errors[1])}

    def measure(self, cell: Cell, folder: Path, tools: "Tools") -> Measures:
        """All measures of a finished cell."""
        from csd_core.evaluation import Captions
        from csd_core.evaluation.measuring import measure_views

        before, after = self.frames(cell, folder)
        captions = Captions(cell.prompt.source, cell.prompt.target)
        measures = all_measures(measure_views(before, after, captions, tools), cell.prompt, before, after)
        return {**measures, "depth_error": cell.record(folder)["depth_error"]}

    def frames(self, cell: Cell, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Novel views before and after the edit of a finished cell."""
        base = self.base(cell, "cpu")
        return read_frames(base / FRAMES), read_frames(cell.path(folder) / FRAMES)


def visible_device(environment: Mapping[str, str], number: int) -> str:
    """CUDA_VISIBLE_DEVICES of a process that sees only the `number`th of the devices visible here."""
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number] if seen else str(number)
