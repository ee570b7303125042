"""The experiments on scenes: table 2 (against Instruct-NeRF2NeRF) and table 4 (ablation), on csd_core's grid.

The scene before the edit is trained once for each capture, and every cell goes on from it with ns-train.

    OUTPUT/bases/KEY/           the run of the base, its novel views, their cameras and depth
    OUTPUT/cells/KEY/frames/    the edited scene from the same novel views
    OUTPUT/cells/KEY/train.log  what ns-train said
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
from safetensors.torch import load_file, save_file
from torch import Tensor

from csd_core.engine.config import EditConfig
from csd_core.engine.ranks import without_launch
from csd_core.errors import UserError, expect
from csd_core.experiments.edits import FRAMES
from csd_core.experiments.experiment import Experiment, Plot, Scale
from csd_core.experiments.figures import Figure, Figures, as_figure, finite, known_truth
from csd_core.experiments.grid import Cell
from csd_core.experiments.inputs import read_frames, write_frames
from csd_core.experiments.locks import locked
from csd_core.experiments.options import Entry, ExperimentOptions, Prepared
from csd_core.experiments.paper import SCENE, SCENE_ABLATION
from csd_core.experiments.registry import (
    CONSISTENCY_COLUMN,
    COST_COLUMNS,
    DIRECTIONAL_COLUMN,
    LPIPS_COLUMN,
    STYLES,
    TRUTH_COLUMNS,
    Column,
    kernels,
    speed_ups,
)
from csd_core.experiments.settings import Model, Prompt, Variant, optimised
from csd_core.io.files import file_hash, folder_written_beside
from csd_nerf.commands.demo_scene import write_demo_scene
from csd_nerf.nerfstudio_compat.quiet import quiet_environment, silence_others

if TYPE_CHECKING:
    from csd_core.evaluation import Tools
    from csd_nerf.runs.novel_views import Views

ONE_VIEW = "instruct-nerf2nerf"
NEVER = str(10**9)
LOG = "train.log"
GEOMETRY = "geometry.safetensors"
"""Depth and cameras of the base's novel views."""
POLL_SECONDS = 5.0
DRAWN_SIZE = 128
"""Side of a drawn photo, in pixels."""
NOT_FOR_SCENES = ("num_frames", "num_steps", "stride", "dtype")
"""Options of csd-experiment."""
VARIED = (
    *("batch_size", "learning_rate", "baseline", "bandwidth_factor", "mixing", "shared_noise", "seed"),
    *("guidance_scale", "image_guidance_scale", "num_steps", "noise_pool"),
)
"""Fields of EditConfig that are handed to ns-train."""


@dataclass(frozen=True)
class Training:
    """How scenes are trained and edited. None: as the method's preset has it."""

    method: str
    """Of ns-train."""
    base_steps: int
    """Before the first edit."""
    steps: int
    """On edits."""
    interval: int
    """Steps between two rounds of csd."""
    views: int
    """Views of a round, B."""
    one_view_interval: int = 10
    """Steps between two views of Instruct-NeRF2NeRF (its Sec. 4.2)."""
    sampling_steps: int = 20
    """Of a view, likewise."""
    novel_views: int = 24
    """That the tables are about."""
    width: int | None = None
    """Of these in pixels, at most. None: as the capture's."""
    photos: int = 50
    """Of a capture that is drawn."""


PAPER = Training("csd-nerf2nerf", 30000, 30000, 2000, 16)
"""Appendix B.3; Instruct-NeRF2NeRF trains as long."""
MINIATURE = Training(
    "csd-nerf2nerf-tiny", 400, 160, 80, 8, sampling_steps=6, novel_views=8, width=96, photos=24
)
"""For one core: two rounds of eight views, and as many of them one by one."""

COLUMNS = (
    DIRECTIONAL_COLUMN,
    CONSISTENCY_COLUMN,
    LPIPS_COLUMN,
    Column("depth_error", "reprojection error", "lower", 5),
    *TRUTH_COLUMNS,
    *COST_COLUMNS[1:],
)


def _experiment(name: str, title: str, paper: str, variants: Sequence[Variant], **more: Any) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        paper=paper,
        domain="scene",
        full=Scale(tuple(variants), STYLES),
        mini=Scale(tuple(variants), (Prompt.mini("snow"), Prompt.mini("tint")), num_inputs=1),
        columns=COLUMNS,
        plot=Plot(("hue_spread", "psnr_true", CONSISTENCY_COLUMN.key, DIRECTIONAL_COLUMN.key)),
        **more,
    )


_BASE = "All methods go on from one base scene; seeds are those of the edits."

SCENE_EXPERIMENTS = (
    _experiment(
        "scene",
        "Scenes: against Instruct-NeRF2NeRF",
        "table 2",
        (Variant("csd"), Variant(ONE_VIEW)),
        published=SCENE,
        note=f"{_BASE} {ONE_VIEW}: its schedule, one view every ten steps, in our data manager.",
    ),
    _experiment(
        "scene-ablation",
        "Scenes: csd without SVGD, and with random noise as baseline",
        "table 4",
        tuple(Variant(method) for method in ("csd", "no-svgd", "sds")),
        published=SCENE_ABLATION,
        note=f"{_BASE} The learning rate of no-svgd is lowered so that views move as far as csd's.",
    ),
    _experiment(
        "scene-kernel",
        "Scenes: wider kernels and shared noise",
        "beyond the paper",
        kernels(),
        note=f"{_BASE} Learning rates are lowered for wider kernels so that views move as far.",
    ),
    _experiment(
        "scene-speed",
        "Scenes: does what makes an edit faster change it",
        "beyond the paper",
        speed_ups(EditConfig.noise_pool),
        note=_BASE,
    ),
)


# Making ready -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capture:
    """A folder with transforms.json."""

    name: str
    folder: Path
    sha256: str


def prepare_scenes(experiment: Experiment, options: ExperimentOptions) -> Prepared:
    """Find or draw the captures, find the model and lay out the grid.

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
    captures = find_captures(options, training)
    variants, prompts = options.variants_of(scale, experiment), options.prompts_of(scale, model.is_mini)
    by_name = {capture.name: capture for capture in captures}
    work = SceneWork(options.output.resolve(), options.model, by_name, training, options.local_files_only)
    entries = [
        Entry(plan(capture, prompt, variant, seed, model, training), variant, prompt)
        for seed in options.seeds
        for capture in captures
        for prompt in prompts
        for variant in variants
    ]
    return Prepared(
        entries,
        work,
        work.measure,
        lambda cell: None,
        work.rows,
        {
            "model": options.model,
            "model hash": model.identity,
            "inputs": {c.name: c.sha256[:16] for c in captures},
            "training": asdict(training),
            "prompts": {p.name: [p.text, p.source, p.target] for p in prompts},
            "seeds": list(options.seeds),
        },
    )


def find_captures(options: ExperimentOptions, training: Training) -> list[Capture]:
    """A capture, the captures of a folder, or the demo's scene.

    Raises:
        UserError: there is none.
    """
    if options.inputs is None:
        expect((options.num_inputs or 1) == 1, "num-inputs", "1, one scene is drawn", options.num_inputs)
        size = options.size or DRAWN_SIZE
        folder = options.output / "inputs" / f"drawn-scene-{training.photos}-{size}"
        if not folder.is_dir():
            write_demo_scene(folder, num_views=training.photos, size=size)
        return [Capture("drawn", folder, _hash(folder))]
    expect(options.size is None, "size", "none where captures are given", options.size)
    folders = [f for f in (options.inputs, *sorted(options.inputs.glob("*/"))) if _is_capture(f)]
    wanted = "a capture with transforms.json, or a folder of captures"
    expect(len(folders) > 0, "inputs", wanted, f"{options.inputs}, which is neither")
    return [Capture(folder.name, folder, _hash(folder)) for folder in folders[: options.num_inputs]]


def _is_capture(folder: Path) -> bool:
    return (folder / "transforms.json").is_file()


def _hash(capture: Path) -> str:
    """Of the names and contents of all its files."""
    files = sorted(path for path in capture.rglob("*") if path.is_file())
    return digest("".join(f"{path.relative_to(capture)} {file_hash(path)}\n" for path in files))


def digest(text: str) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def visible_device(environment: Mapping[str, str], number: int) -> str:
    """What CUDA_VISIBLE_DEVICES must be for a process that sees one device, the `number`th that we see."""
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[number] if seen else str(number)


def edit_settings(variant: Variant, training: Training, seed: int) -> EditConfig:
    """Of a row, from the method's preset; Instruct-NeRF2NeRF's schedule takes the guidance alone."""
    from csd_nerf.csd_config import csd_nerf2nerf, csd_nerf2nerf_tiny

    preset = csd_nerf2nerf_tiny if training.method.endswith("tiny") else csd_nerf2nerf
    edit: EditConfig = cast(Any, preset.config.pipeline).datamanager.edit
    edit = replace(edit, batch_size=training.views, seed=seed)
    if variant.method == ONE_VIEW:
        return replace(edit, batch_size=1)
    given = {name: value for name, value in variant.given.items() if name not in ("lr_factor", "dtype")}
    return optimised(replace(edit, **given), variant, training.views)


def plan(
    capture: Capture, prompt: Prompt, variant: Variant, seed: int, model: Model, training: Training
) -> Cell:
    """The cell of an edit."""
    edit = asdict(edit_settings(variant, training, seed))
    edit.pop("max_batch")
    hangs_on = {
        "capture": capture.sha256,
        "model": model.identity,
        "training": asdict(training),
        "edit": json.loads(json.dumps(edit)),
        "text": prompt.text,
        "dtype": variant.given.get("dtype", "float32"),
    }
    return Cell(capture.name, prompt.name, variant.method, variant.setting, seed, hangs_on)


# Work ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SceneWork:
    """Trains, edits and renders; see Work of the grid."""

    output: Path
    model: str
    captures: Mapping[str, Capture]
    training: Training
    local_files_only: bool = False

    def __call__(self, cell: Cell, folder: Path, device: str) -> dict[str, Any]:
        """Edit a scene and render it: frames/, train.log, and what cell.json says."""
        begun = time.perf_counter()
        base = self.base(cell, device)
        spent = time.perf_counter() - begun
        run = self._train(self._edit_arguments(cell, base), folder, folder / LOG, device)
        seconds = time.perf_counter() - begun - spent
        told = self._render(run, base, folder)
        return {**told, "seconds": round(seconds, 1), "base_seconds": round(spent, 1)}

    def base(self, cell: Cell, device: str) -> Path:
        """The folder of the scene before the edit, trained now if nobody has."""
        capture = self.captures[cell.input]
        training = self.training
        seen = [training.novel_views, training.width]
        told = [capture.sha256, training.method, training.base_steps, *seen]
        folder = self.output / "bases" / f"{capture.name}-{digest(json.dumps(told))[:12]}"
        while not folder.is_dir():
            with locked(folder.parent / ".locks" / folder.name) as lock:
                if lock is None:  # another process is at it
                    time.sleep(POLL_SECONDS)
                    continue
                if not folder.is_dir():
                    with folder_written_beside(folder) as beside:
                        self._make_base(capture, beside, device)
        return folder

    def _make_base(self, capture: Capture, folder: Path, device: str) -> None:
        steps = str(self.training.base_steps)
        arguments = ["--base-steps", steps, "--max-num-iterations", steps]
        arguments += ["--pipeline.datamanager.prompt", "nothing yet", "--data", str(capture.folder.resolve())]
        run = self._train(arguments, folder, folder / LOG, device)
        views = self._novel_views(run)
        write_frames(folder / FRAMES, views.frames)
        save_file({"depths": views.depths, **views.cameras._asdict()}, folder / GEOMETRY)

    def _novel_views(self, run: Path) -> "Views":
        from csd_nerf.runs.novel_views import novel_cameras, open_scene, render_views

        scene = open_scene(run)
        cameras = novel_cameras(scene, self.training.novel_views, self.training.width)
        return render_views(scene.pipeline, cameras)

    def _edit_arguments(self, cell: Cell, base: Path) -> list[str]:
        training, edit = self.training, cell.hangs_on["edit"]
        one_view = cell.method == ONE_VIEW
        interval = training.one_view_interval if one_view else training.interval
        options: dict[str, Any] = {
            "base-steps": training.base_steps,
            "max-num-iterations": training.base_steps + training.steps,
            "load-dir": next(base.glob("**/nerfstudio_models")),
            "pipeline.datamanager.prompt": cell.hangs_on["text"],
            "pipeline.datamanager.schedule": "one-view" if one_view else "rounds",
            "pipeline.datamanager.sampling-steps": training.sampling_steps,
            "pipeline.datamanager.edit-interval": interval,
            "pipeline.datamanager.model-dtype": cell.hangs_on["dtype"],
        }
        for name in VARIED:
            options[f"pipeline.datamanager.edit.{name.replace('_', '-')}"] = edit[name]
        capture = self.captures[cell.input]
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [*words, "--data", str(capture.folder.resolve())]

    def _train(self, arguments: Sequence[str], folder: Path, log: Path, device: str) -> Path:
        """Run ns-train with its output under `folder`; the run's folder.

        Raises:
            UserError: it failed; the last line that it said.
        """
        told = ["--output-dir", str(folder), "--experiment-name", "scene", "--timestamp", "run"]
        told += ["--vis", "tensorboard", "--steps-per-eval-batch", NEVER, "--steps-per-eval-image", NEVER]
        told += ["--steps-per-eval-all-images", NEVER, "--steps-per-save", NEVER]
        told += ["--pipeline.datamanager.model", self.model]
        told += ["--pipeline.datamanager.model-local-files-only", str(self.local_files_only)]
        environment = quiet_environment(without_launch(os.environ))
        kind, _, number = device.partition(":")
        told += ["--machine.device-type", kind]
        if kind == "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = visible_device(environment, int(number or 0))
        command = [str(Path(sys.executable).with_name("ns-train")), self.training.method, *told, *arguments]
        with log.open("wb") as file:
            ended = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
        if ended.returncode:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise UserError(f"ns-train ended with {ended.returncode}: {said[-1][:300]}")
        return next(folder.glob("**/config.yml")).parent

    def _render(self, run: Path, base: Path, folder: Path) -> dict[str, Any]:
        """Novel views of the edited scene, and how far they agree by the geometry of the base."""
        from csd_core.evaluation.metrics.depth import Pinholes, reprojection_error

        edited = self._novel_views(run)
        write_frames(folder / FRAMES, edited.frames)
        geometry = load_file(base / GEOMETRY)
        depths, before = geometry.pop("depths"), torch.stack(read_frames(base / FRAMES))
        errors = [
            float(reprojection_error(frames, depths, Pinholes(**geometry)).nanmean())
            for frames in (edited.frames, before)
        ]
        for kept in run.rglob("*.ckpt"):  # a grid of them would fill the disk; the frames are kept
            kept.unlink()
        return {"depth_error": finite(errors[0]), "source_depth_error": finite(errors[1])}

    # ---- measures

    def measure(self, entry: Entry, folder: Path, tools: "Tools") -> Figures:
        """Figures of a cell, from its frames."""
        from csd_core.evaluation import Captions
        from csd_core.evaluation.measuring import measure_views

        before, after = self._frames(entry.cell, folder)
        captions = Captions(entry.prompt.source, entry.prompt.target)
        figures = {m.key: as_figure(m) for m in measure_views(before, after, captions, tools)}
        record = entry.cell.record(folder)
        for key in ("depth_error", "source_depth_error"):
            figures[key] = Figure(record[key], len(after) - 1)
        return {**figures, **(known_truth(entry.prompt, before, after) if entry.prompt.instruction else {})}

    def rows(self, entry: Entry, folder: Path) -> tuple[Tensor, Tensor]:
        """Some views before and after, for the contact sheet."""
        from csd_core.mini_editor.training.sampling import spread

        before, after = self._frames(entry.cell, folder)
        some = spread(len(before), min(6, len(before)))
        return torch.stack([before[k] for k in some]), torch.stack([after[k] for k in some])

    def _frames(self, cell: Cell, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
        base = self.base(cell, "cpu")
        return read_frames(base / FRAMES), read_frames(cell.path(folder) / FRAMES)
