"""csd-evaluate: measure an edit of panoramas, of a video or of a scene by the paper's measures and more."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import tyro
from rich.console import Console

from csd_core.choices import MAX_FRAMES, MAX_PIXELS, selection
from csd_core.command import run_command
from csd_core.errors import expect
from csd_core.evaluation import (
    Borders,
    Captions,
    PanoramaPair,
    Reiterable,
    Tools,
    measure_panoramas,
    measure_video,
    measure_views,
    measured,
    seams,
)
from csd_core.evaluation.inputs import PanoramaFiles, read_frame_pairs, read_pair, read_panorama_files
from csd_core.evaluation.measuring import cut, part_positions, squares
from csd_core.evaluation.metrics.depth import reprojection_error
from csd_core.evaluation.metrics.extractors import DEFAULT_CLIP, ClipExtractor
from csd_core.evaluation.metrics.perceptual import Inception, Lpips
from csd_core.evaluation.page import write_report
from csd_core.evaluation.report import BEFORE_AFTER, Report, Section, check_report_folder, print_report
from csd_core.evaluation.tools import FID, LPIPS
from csd_core.io.files import content_hash, folder_written_beside
from csd_nerf.nerfstudio_compat.quiet import silence_others

if TYPE_CHECKING:
    from csd_nerf.runs.held_out import HeldOut
    from csd_nerf.runs.novel_views import Scene, Views


@dataclass(kw_only=True)
class CaptionOptions:
    """For the measures of features."""

    source_caption: str = ""
    """Caption of the source, such as "a photo of a bear"."""
    target_caption: str = ""
    """Caption of the intended edit, such as "a photo of a polar bear"."""

    def checked(self) -> Captions:
        """Both; a UserError unless they are given and differ."""
        return Captions(self.source_caption, self.target_caption).checked()


@dataclass(kw_only=True)
class NetworkOptions:
    """The networks that measure, and how they are run."""

    clip: str = DEFAULT_CLIP
    """Model of open_clip, NAME, NAME/TAG or hf-hub:ID; a folder with one; or mini: the small scorer that
    ships with this package."""
    clip_weights: Path | None = None
    """Checkpoint file for the model."""
    lpips_weights: Path | None = None
    """File of AlexNet's weights, for LPIPS. Default: in the folder of torch hub."""
    inception_weights: Path | None = None
    """File of Inception's weights, for FID. Default: in the folder of torch hub."""
    device: str | None = None
    """cpu, cuda, cuda:1. Default: CUDA where there is one."""
    batch_size: int = 16
    """Images at a time. Sets the memory; the numbers stay the same."""
    cache: Path | None = None
    """Folder where features of images are kept, by their content, for the next evaluation."""
    local_files_only: bool = False
    """Never touch the network."""
    max_pixels: int = MAX_PIXELS
    """Larger images are refused: they may be decompression bombs."""
    verbose: bool = False
    """Show the traceback of an error."""

    def load(self) -> Tools:
        """The networks; LPIPS and FID without weights are noted in the report.

        Raises:
            UserError: the extractor, or a file that was named, cannot be loaded.
        """
        device, batch_size = self.device, self.batch_size
        clip = ClipExtractor.from_pretrained(
            self.clip,
            weights=self.clip_weights,
            device=device,
            batch_size=batch_size,
            cache=self.cache,
            local_files_only=self.local_files_only,
        )
        tools, trunk, weights = Tools(clip), self.lpips_weights, self.inception_weights
        lpips = partial(Lpips.from_pretrained, trunk=trunk, device=device, batch_size=batch_size)
        inception = partial(Inception.from_pretrained, weights=weights, device=device)
        tools.lpips = lpips() if trunk else tools.try_loading(LPIPS, lpips)
        tools.inception = inception() if weights else tools.try_loading(FID, inception)
        return tools


@dataclass(kw_only=True)
class EvaluateOptions:
    """Options of every evaluation."""

    output: Path
    """Folder for report.json and report.html. An older report there is replaced, nothing else."""
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    networks: NetworkOptions = field(default_factory=NetworkOptions)

    def check(self, *inputs: Path | None) -> list[Path]:
        """The inputs that were given; a UserError for what can be seen without reading anything large.

        inputs: files and folders that are read; the output may hold none of them.
        """
        named, given = [path for path in inputs if path], self.networks
        weights = [p for p in (given.clip_weights, given.lpips_weights, given.inception_weights) if p]
        for path in weights:
            expect(path.is_file(), str(path), "a file of weights", "none; check the path")
        check_report_folder(self.output, *named, *weights)
        return named

    @property
    def verbose(self) -> bool:
        """See NetworkOptions."""
        return self.networks.verbose

    def report(
        self,
        kind: str,
        read: Sequence[Path],
        captions: Captions,
        tools: Tools,
        *content: Any,
        **settings: Any,
    ) -> Report:
        """A report of these options and of the files that were read; `content` from Report.names on."""
        values = asdict(self)
        values |= values.pop("captions") | values.pop("networks")
        values = json.loads(json.dumps(values, default=str))
        hashes = {str(path): content_hash(path) for path in read}
        return Report(f"csd-evaluate {kind}", values, captions, tools, hashes, *content, settings=settings)


@dataclass(kw_only=True)
class PanoramaEvaluation(EvaluateOptions):
    """Options of csd-evaluate panorama."""

    source: Path
    """The panorama before the edit, or a folder of them."""
    edited: Path
    """The panorama after it; or a folder of the same names, except for the suffix."""
    mask: Path | None = None
    """Grey image of the panorama's size: where it is black, nothing may change. One for all, or a folder."""
    window: int | None = None
    """Side of the windows of the edit, in pixels of the panorama, for the seam score. Default: from the .json
    that csd-edit-panorama writes beside its output, if it is there."""
    stride: int | None = None
    """Pixels from window to window. Default: likewise."""


@dataclass(kw_only=True)
class VideoEvaluation(EvaluateOptions):
    """Options of csd-evaluate video."""

    source: Path
    """The video before the edit, or a folder of frames."""
    edited: Path
    """The video after it: all frames, or as many as --frames selects."""
    mask: Path | None = None
    """Grey image, video or folder of frames: where it is black, nothing may change."""
    frames: str = ":"
    """Frames to compare as START:STOP:STEP, counted from 0, the last one not included: 0:48, 100:, ::2."""
    max_frames: int = MAX_FRAMES
    """More frames than this are refused."""


@dataclass(kw_only=True)
class SceneEvaluation(EvaluateOptions):
    """Options of csd-evaluate scene."""

    edited: Path
    """The run after the edit: its folder or config.yml."""
    source: Path | None = None
    """The scene before the edit: a run of the same capture, or a checkpoint of the scene. Default, or if it
    is the edited run: the checkpoint that the run kept before its first round."""
    prompt: str | None = None
    """The instruction. If its true edit is known, held-out photos are compared with it, and captions may be
    left out. Default: the run's."""
    path: Path | None = None
    """camera_path.json of nerfstudio's viewer. Default: novel views between the cameras of the capture."""
    num_views: int = 24
    """Novel views, where no path is given."""
    width: int | None = None
    """Of these renders in pixels, at most. Default: as in training. Rendering takes most of the time."""


def evaluate_panorama(options: PanoramaEvaluation) -> None:
    """Measure edits of panoramas."""
    begun, read = time.perf_counter(), options.check(options.source, options.edited, options.mask)
    captions, limit = options.captions.checked(), options.networks.max_pixels
    seams.check(options.window, options.stride)
    files, broken = read_panorama_files(options.source, options.edited, options.mask, max_pixels=limit)
    borders = [window_borders(options, file) for file in files]
    tools = options.networks.load()
    pairs: Reiterable[PanoramaPair] = Reiterable(
        lambda: (read_pair(file, lines, limit) for file, lines in zip(files, borders, strict=True))
    )
    names = []
    for file in files:
        count = len(squares(file.size))
        names += [f"{file.name}, part {k + 1} of {count}" for k in range(count)] if count > 1 else [file.name]
    positions = part_positions(file.size for file in files)
    windows = [lines and lines._asdict() for lines in borders]
    measures = measure_panoramas(pairs, captions, tools)
    content = (names, positions, measures, broken, time.perf_counter() - begun)
    report = options.report("panorama", read, captions, tools, *content, windows=windows)
    with folder_written_beside(options.output) as folder:
        sources = (part for pair in pairs for part in cut(pair.source))
        write_report(folder, report, sources, (part for pair in pairs for part in cut(pair.edited)))
    print_results(report, options.output)


def window_borders(options: PanoramaEvaluation, file: PanoramaFiles) -> Borders | None:
    """The borders of the windows of an edit, from the options or from its manifest."""
    if options.window is None or options.stride is None:
        return seams.borders_of(file.edited, file.size)
    least = f"at most {min(file.size)}, the short side of {file.source}"
    expect(options.window <= min(file.size), "--window", least, options.window)
    return seams.borders(file.size, options.window, options.stride)


def evaluate_video(options: VideoEvaluation) -> None:
    """Measure an edit of a video."""
    begun, read = time.perf_counter(), options.check(options.source, options.edited, options.mask)
    captions, limit = options.captions.checked(), options.networks.max_pixels
    frames, most = selection(options.frames), options.max_frames
    pairs = read_frame_pairs(
        options.source, options.edited, selection=frames, max_frames=most, max_pixels=limit
    )
    mask = pairs.masks(options.mask, limit) if options.mask else None
    tools = options.networks.load()
    measures = measure_video(
        pairs.sources, pairs.edited, captions, tools, mask=mask, positions=pairs.positions
    )
    indices = [pairs.selected.indices[k] for k in pairs.positions]
    content = (pairs.names, pairs.positions, measures, pairs.broken, time.perf_counter() - begun)
    report = options.report("video", read, captions, tools, *content, frames=indices)
    with folder_written_beside(options.output) as folder:
        write_report(folder, report, pairs.sources, pairs.edited)
    print_results(report, options.output)


def evaluate_scene(options: SceneEvaluation) -> None:
    """Measure an edit of a scene, on renders from novel views and on its held-out photos."""
    silence_others()
    from csd_core.experiments.inputs import write_frames
    from csd_nerf.runs.held_out import COLUMNS, before_after, measure_edit, print_figures
    from csd_nerf.runs.novel_views import find_run, latest_checkpoint, open_scene

    begun = time.perf_counter()
    options.check(options.edited, options.source, options.path)
    expect(options.num_views >= 1, "num-views", "at least 1", options.num_views)
    expect(options.width is None or options.width >= 16, "width", "at least 16 pixels", options.width)
    run = find_run(options.edited)
    source = scene_before(run, options.source)
    read = [latest_checkpoint(run), source if source.suffix == ".ckpt" else latest_checkpoint(source)]
    read += [options.path] if options.path else []
    scene = open_scene(run)
    prompt = options.prompt or getattr(scene.config.pipeline.datamanager, "prompt", "")
    captions = scene_captions(options, prompt)
    tools = options.networks.load()
    before, after, views = render_both(options, scene, source)
    figures = measure_edit(views, prompt) if views else None
    measures = measure_views(before.frames, after.frames, captions, tools)
    measures = [one for one in measures if one.key != "psnr_outside_mask"]  # a scene has no mask
    for key, renders in (("depth_error", after), ("source_depth_error", before)):
        errors = reprojection_error(renders.frames, before.depths, before.cameras)
        measures.append(measured(key, errors.tolist()))
    count = len(before.frames)
    names = [f"view {k + 1}" for k in range(count)]
    report = options.report(
        *("scene", read, captions, tools, names, range(count), measures, (), time.perf_counter() - begun),
        cameras=before.cameras.camera_to_world.tolist(),
        held_out=asdict(figures) if figures else None,
    )
    with folder_written_beside(options.output) as folder:
        for name, renders in (("source", before), ("edited", after)):
            write_frames(folder / "frames" / name, renders.frames)
        if figures:
            picture, title = folder / BEFORE_AFTER, f"Held-out photos: {figures.title}"
            before_after(views, picture)
            report.section = Section(title, COLUMNS, figures.rows(), figures.note, picture)
        write_report(folder, report, before.frames, after.frames)
    if figures:
        print_figures(figures, Console())
        print(options.output / BEFORE_AFTER)
    print_results(report, options.output)


def scene_before(run: Path, source: Path | None) -> Path:
    """The scene before the edit of a run (its config.yml): another run's config.yml, or a checkpoint.

    source: the option of that name.
    """
    from csd_nerf.runs.novel_views import base_checkpoint, find_run

    if source is not None and source.suffix == ".ckpt" and source.is_file():
        return source
    other = run if source is None else find_run(source)
    # against itself a run would be no edit at all
    return base_checkpoint(run.parent) if other.samefile(run) else other


def scene_captions(options: SceneEvaluation, prompt: str) -> Captions:
    """The captions of the options, or where both are left out those that suit a known prompt."""
    from csd_core.mini_editor.captions import canonical_captions
    from csd_core.mini_editor.edits import find_instruction

    if not any(vars(options.captions).values()) and (known := find_instruction(prompt)):
        return Captions(*canonical_captions(known.name))
    return options.captions.checked()


def render_both(
    options: SceneEvaluation, scene: "Scene", source: Path
) -> tuple["Views", "Views", list["HeldOut"]]:
    """Renders before and after an edit from the same novel views, and the held-out views with their photos.

    source: config.yml of another run, or a checkpoint of the same scene, which then gets its weights.

    Raises:
        UserError: they are runs of different captures.
    """
    from csd_nerf.runs import novel_views
    from csd_nerf.runs.held_out import HeldOut, photos_of, renders_of
    from csd_nerf.runs.novel_views import load_weights, open_scene, render_views

    pipeline = scene.pipeline
    other = pipeline if source.suffix == ".ckpt" else open_scene(source).pipeline
    here, there = (cast(Any, p.datamanager).train_dataset.cameras.camera_to_worlds for p in (pipeline, other))
    same = here.shape == there.shape and torch.allclose(here, there, atol=1e-4)
    expect(same, str(source), f"a run of the capture of {options.edited}, with its cameras", "another one")
    if options.path:
        cameras = novel_views.cameras_from_file(options.path, options.width)
    else:
        cameras = novel_views.novel_cameras(scene, options.num_views, options.width)
    photos = photos_of(pipeline)
    after, edited = render_views(pipeline, cameras), renders_of(pipeline, "edited")
    if other is pipeline:
        load_weights(pipeline, source)
    before, base = render_views(other, cameras), renders_of(other, "base")
    return before, after, [HeldOut(*images) for images in zip(photos, base, edited, strict=True)]


def print_results(report: Report, output: Path) -> None:
    """Print the table; on stderr the networks and files that are missing, and notes."""
    print_report(report)
    print(f"{output / 'report.html'}")
    notes = [
        f"note: {line}" for line in (*report.tools.missing, *report.tools.caption_notes(report.captions))
    ]
    if report.broken:
        notes += [f"could not be read ({len(report.broken)}), the rest was measured:"]
        notes += [f"  {line}" for line in report.broken]
    for line in notes:
        print(line, file=sys.stderr)


Choice = (
    Annotated[PanoramaEvaluation, tyro.conf.subcommand("panorama", description=evaluate_panorama.__doc__)]
    | Annotated[VideoEvaluation, tyro.conf.subcommand("video", description=evaluate_video.__doc__)]
    | Annotated[SceneEvaluation, tyro.conf.subcommand("scene", description=evaluate_scene.__doc__)]
)


def evaluate(options: EvaluateOptions) -> None:
    """Measure an edit: CLIP measures, LPIPS, FID, warp error, seams, and what changed outside a mask."""
    commands: dict[type, Any] = {
        PanoramaEvaluation: evaluate_panorama,
        VideoEvaluation: evaluate_video,
        SceneEvaluation: evaluate_scene,
    }
    commands[type(options)](options)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of csd-evaluate."""
    choice: Any = Choice
    return run_command(choice, evaluate, args)


if __name__ == "__main__":
    sys.exit(main())
