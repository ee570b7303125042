"""The ways to edit a video, on frames, against edits that are known.

    python -m csd_core.mini_editor.training.videos --frames folder --output outputs/videos

For every instruction, method, seed and way to bring the edit to the size of the frames: PSNR to the true
edit, agreement of the frames where several edits are right, warp error, evaluations and seconds. Leaves
table.json, table.md, frames of every edit side by side as PNG, and a sheet for each instruction. What is in
the output folder already, of the same frames and settings, is not computed again.
"""

import hashlib
import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig
from csd_core.canvas.detail import DETAIL, Detail
from csd_core.canvas.video import ArrayClip, Method, VideoEdit, as_image, with_method
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import expect
from csd_core.evaluation.metrics.flow import warp_error
from csd_core.evaluation.metrics.pixels import hue_spread
from csd_core.image_ops import resize
from csd_core.io.files import written_beside
from csd_core.io.images import Picture, quantise, read_picture, write_picture
from csd_core.mini_editor.edits import INSTRUCTIONS, apply_edit
from csd_core.mini_editor.training.measures import decibels, mean, true_edits
from csd_core.mini_editor.training.report import number, save_sheet
from csd_core.mini_editor.training.sampling import spread
from csd_core.presets import video_preset

METHODS: tuple[Method, ...] = ("csd", "no-svgd", "sds", "dds", "ip2p-frame")
DETAILS: tuple[Detail, ...] = ("none", "residual", "guided")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
SOURCE_PROMPT = "a photo"
"""For dds: true of every video. The mini editor was not taught it, and takes it for no instruction."""
STRIP_FRAMES = 6
SHEET_HEIGHT = 180
"""Of a row of a sheet, in pixels."""


@dataclass
class VideosConfig:
    """What to compare, on which frames."""

    frames: list[Path]
    """A folder of pictures, in the order of their names, or the pictures."""
    output: Path
    """Folder for tables and pictures."""
    instructions: tuple[str, ...] = ("snow", "pencil sketch", "red to blue", "single colour", "tint")
    """Names of the mini editor's instructions."""
    methods: tuple[Method, ...] = METHODS
    """Which ways."""
    details: tuple[Detail, ...] = DETAILS
    """How edits by csd come back to the size of the frames; those of the others do by the default alone."""
    seeds: tuple[int, ...] = (0,)
    """Seeds. Tables show the mean."""
    num_frames: int | None = None
    """This many from the beginning. Default: all."""
    num_steps: int | None = None
    """Steps of every method. Default: what suits the editor."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        for name in ("frames", "instructions", "methods", "details", "seeds"):
            expect(bool(getattr(self, name)), name, "at least one", "none")
        for name in self.instructions:
            expect(name in INSTRUCTIONS, "instructions", f"some of {', '.join(INSTRUCTIONS)}", name)
        for name in ("num_frames", "num_steps"):
            given = getattr(self, name)
            expect(given is None or given >= 1, name.replace("_", "-"), "at least 1", given)
        expect(all(seed >= 0 for seed in self.seeds), "seeds", "0 or more", self.seeds)


@dataclass(frozen=True)
class Cell:
    """One edit."""

    instruction: str
    method: Method
    seed: int

    def path(self, output: Path, end: str) -> Path:
        """A file of this edit."""
        return output / f"{self.instruction}_{self.method}_{self.seed}{end}".replace(" ", "_")

    def strip(self, output: Path, detail: Detail) -> Path:
        """Where its frames are shown side by side."""
        return self.path(output, f"_{detail}.png")


@dataclass(frozen=True)
class Row:
    """One edit at the size of the frames, and its figures. None: does not apply, or cannot be measured."""

    instruction: str
    method: Method
    seed: int
    detail: Detail
    frames: int
    outcome: str
    """Of several right answers the one that the whole clip is nearest to."""
    source_psnr: float
    """Of the unedited frames to the true edit, dB, mean over frames."""
    psnr: float
    """To the true edit, the same outcome in all frames, dB, mean over frames."""
    share: float | None
    """Of frames nearest to the outcome that most of them are nearest to. Choices alone."""
    hue_spread: float | None
    """pixels.hue_spread, degrees. Choices alone."""
    warp: float | None
    """flow.warp_error of the edit."""
    true_warp: float | None
    """The same of the true edit."""
    source_warp: float | None
    """The same of the unedited frames."""
    evaluations: int
    seconds: float
    """Edit, and bringing it to the size of the frames."""


class Footage:
    """The unedited frames, their true edits, and what is measured of them once."""

    def __init__(self, clip: ArrayClip) -> None:
        self.clip = clip
        self._warps: dict[tuple[str, str], float] = {}

    def __iter__(self) -> Iterator[Tensor]:
        """The frames, (3, H, W) in [0, 1]."""
        return (as_image(frame, torch.device("cpu"))[0] for frame in self.clip.frames())

    def true_edits(self, name: str, outcome: str) -> Iterator[Tensor]:
        """The frames as an instruction should make them, all with one outcome."""
        return (apply_edit(name, frame, outcome) for frame in self)

    @cached_property
    def warp(self) -> float:
        """Warp error of the frames."""
        return warp_error(self, self)

    def true_warp(self, name: str, outcome: str) -> float:
        """Warp error of the true edit."""
        if (name, outcome) not in self._warps:
            self._warps[name, outcome] = warp_error(self.true_edits(name, outcome), self)
        return self._warps[name, outcome]

    @cached_property
    def sha256(self) -> str:
        """Of all pixels."""
        whole = hashlib.sha256(repr(self.clip.size).encode())
        for frame in self.clip.frames():
            whole.update(frame.tobytes())
        return whole.hexdigest()


@dataclass(frozen=True)
class Match:
    """How near frames are to a true edit; see Row."""

    outcome: str
    source_psnr: float
    psnr: float
    share: float | None


def match(name: str, sources: Iterator[Tensor], frames: Sequence[Tensor]) -> Match:
    """Compare edited frames with what an instruction should make of the sources, (3, H, W) each."""
    before: list[dict[str, float]] = []
    after: list[dict[str, float]] = []
    for source, frame in zip(sources, frames, strict=True):
        truths = true_edits(INSTRUCTIONS[name], source)
        before.append({outcome: decibels(source, truth) for outcome, truth in truths.items()})
        after.append({outcome: decibels(frame, truth) for outcome, truth in truths.items()})
    means = {outcome: mean(row[outcome] for row in after) for outcome in after[0]}
    outcome = _highest(means)
    ((_, count),) = Counter(map(_highest, after)).most_common(1)
    share = count / len(after) if len(means) > 1 else None
    return Match(outcome, mean(row[outcome] for row in before), means[outcome], share)


def _highest(figures: Mapping[str, float]) -> str:
    return max(figures, key=lambda name: figures[name])


def compare(config: VideosConfig) -> None:
    """Edit frames in every way and measure against the true edits."""
    config.check()
    footage = Footage(read_frames(config))
    bench = Bench(InstructPix2Pix.from_pretrained("mini"), footage, config)
    config.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in config.instructions:
        of_name: list[Row] = []
        for method in config.methods:
            for seed in config.seeds:
                of_name += bench.rows(Cell(name, method, seed))
                write_tables(config.output, [*rows, *of_name])
        write_sheet(config.output, footage, name, of_name)
        rows += of_name
    print(table(rows))


def read_frames(config: VideosConfig) -> ArrayClip:
    """The frames.

    Raises:
        UserError: there are none or too few, one cannot be read, or they differ in size.
    """
    (first, *others), paths = config.frames, config.frames
    if first.is_dir() and not others:
        paths = sorted(path for path in first.iterdir() if path.suffix.lower() in SUFFIXES)
    wanted = config.num_frames or max(1, len(paths))
    expect(len(paths) >= wanted, "frames", f"at least {wanted}", len(paths))
    arrays = [quantise(read_picture(path).to_tensor(), np.uint8) for path in paths[:wanted]]
    for path, array in zip(paths, arrays, strict=False):
        same = array.shape == arrays[0].shape
        expect(same, str(path), f"a frame of the size of {paths[0]}", f"{array.shape[1]} x {array.shape[0]}")
    return ArrayClip(arrays)


@dataclass(frozen=True)
class Bench:
    """The model, the frames, and what is asked for."""

    denoiser: InstructPix2Pix
    footage: Footage
    config: VideosConfig

    def rows(self, cell: Cell) -> list[Row]:
        """The figures of an edit, from its file or made now."""
        job, details = self.prepare(cell), self.details(cell)
        settings = self.settings(job, cell)
        kept = cell.path(self.config.output, ".json")
        strips: dict[Detail, Path] = {name: cell.strip(self.config.output, name) for name in details}
        if kept.is_file() and all(path.is_file() for path in strips.values()):
            known = json.loads(kept.read_text())
            if known["settings"] == json.loads(as_json(settings)):
                return [Row(**row) for row in known["rows"]]
        kept.unlink(missing_ok=True)  # from now on it does not belong to the pictures
        canvas, evaluations, seconds = self.run(job, cell)
        rows = []
        for detail, path in strips.items():
            begun = time.perf_counter()
            frames = list(job.finish(canvas, detail))
            spent = seconds + time.perf_counter() - begun
            rows.append(measure(self.footage, cell, detail, frames, evaluations, spent))
            shown = side_by_side(frames[k] for k in spread(len(frames), STRIP_FRAMES))
            write_picture(path, Picture(quantise(shown, np.uint8)))
            print(rows[-1], flush=True)
        write_text(kept, as_json({"settings": settings, "rows": [asdict(row) for row in rows]}))
        return rows

    def details(self, cell: Cell) -> tuple[Detail, ...]:
        """How an edit comes back to the size of the frames."""
        return self.config.details if cell.method == "csd" else (DETAIL,)

    def prepare(self, cell: Cell) -> VideoEdit:
        """The edit made ready, with the settings that suit the editor."""
        preset = video_preset(self.denoiser)
        edit = preset.with_edit(seed=cell.seed)
        if cell.method != "ip2p-frame":
            frames = self.footage.clip.num_frames
            edit = with_method(edit, cell.method, SOURCE_PROMPT, num_frames=frames, scaled=True)
        prompt, steps = INSTRUCTIONS[cell.instruction].wordings[0], self.config.num_steps
        return VideoEdit(self.denoiser, self.footage.clip, prompt, edit, preset, num_steps=steps)

    def sampling(self, cell: Cell) -> SamplingConfig:
        """Settings of ip2p-frame."""
        given = {"seed": cell.seed, "num_inference_steps": self.config.num_steps}
        return video_preset(self.denoiser).with_sampling(**given)

    def settings(self, job: VideoEdit, cell: Cell) -> dict[str, Any]:
        """All that an edit and its figures depend on."""
        method = self.sampling(cell) if cell.method == "ip2p-frame" else job.edit
        return {
            "prompt": job.prompt,
            "frames": self.footage.sha256,
            "size_of_the_edit": job.size,
            "details": self.details(cell),
            "method": cell.method,
            "settings": asdict(method),
        }

    def run(self, job: VideoEdit, cell: Cell) -> tuple[Tensor, int, float]:
        """The edited canvas, evaluations and seconds."""
        begun = time.perf_counter()
        with self.denoiser.count_evaluations() as evaluations, warnings.catch_warnings():
            warnings.filterwarnings("ignore", f"this editor was not taught '{SOURCE_PROMPT}'")
            canvas = job.sample(self.sampling(cell)) if cell.method == "ip2p-frame" else job.run()
        return canvas, evaluations.count, time.perf_counter() - begun


def measure(
    footage: Footage, cell: Cell, detail: Detail, frames: Sequence[Tensor], evaluations: int, seconds: float
) -> Row:
    """The figures of edited frames."""
    name = cell.instruction
    matched = match(name, iter(footage), frames)
    is_choice = INSTRUCTIONS[name].kind == "choice"
    return Row(
        name,
        cell.method,
        cell.seed,
        detail,
        len(frames),
        matched.outcome,
        matched.source_psnr,
        matched.psnr,
        matched.share,
        measured(hue_spread(frames, footage)) if is_choice else None,
        measured(warp_error(frames, footage)),
        measured(footage.true_warp(name, matched.outcome)),
        measured(footage.warp),
        evaluations,
        round(seconds, 1),
    )


def measured(value: float) -> float | None:
    """None for what is not a number, which JSON does not know."""
    return value if math.isfinite(value) else None


def side_by_side(frames: Iterable[Tensor]) -> Tensor:
    """Frames (3, H, W) as one picture (3, H, n W)."""
    return torch.cat(list(frames), dim=-1)


def write_sheet(output: Path, footage: Footage, name: str, rows: Sequence[Row]) -> None:
    """All edits of an instruction under each other, under the source and, if there is one, the true edit."""
    some = [footage.clip.arrays[k] for k in spread(footage.clip.num_frames, STRIP_FRAMES)]
    strips = {"source": side_by_side(Footage(ArrayClip(some)))}
    if len(INSTRUCTIONS[name].outcomes) == 1:
        strips["true edit"] = side_by_side(Footage(ArrayClip(some)).true_edits(name, ""))
    for row in rows:
        strip = Cell(name, row.method, row.seed).strip(output, row.detail)
        strips[f"{row.method}, {row.detail}, seed {row.seed}"] = read_picture(strip).to_tensor()
    height, width = strips["source"].shape[-2:]
    size = (SHEET_HEIGHT, round(width * SHEET_HEIGHT / height))
    small = [resize(strip, size)[None] for strip in strips.values()]
    save_sheet(output / f"sheet_{name.replace(' ', '_')}.png", small, list(strips))


def write_tables(output: Path, rows: Sequence[Row]) -> None:
    """table.json and table.md."""
    write_text(output / "table.json", as_json([asdict(row) for row in rows]))
    write_text(output / "table.md", table(rows))


def as_json(data: Any) -> str:
    """As text."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    with written_beside(path) as beside:
        beside.write_text(text)


COLUMNS = {
    "PSNR before": ("source_psnr", 1, 2),
    "PSNR": ("psnr", 1, 2),
    "frames alike, %": ("share", 100, 0),
    "hue spread": ("hue_spread", 1, 1),
    "warp error, 1e-3": ("warp", 1e3, 2),
    "of the true edit": ("true_warp", 1e3, 2),
    "of the source": ("source_warp", 1e3, 2),
    "evaluations": ("evaluations", 1, 0),
    "seconds": ("seconds", 1, 0),
}
"""Heading -> field of a row, factor, decimals."""


def table(rows: Sequence[Row]) -> str:
    """The means over the seeds, as Markdown; a dash where nothing was measured."""
    header = ["instruction", "method", "detail", "outcomes", *COLUMNS]
    lines = [header, ["---"] * len(header)]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.instruction, row.method, row.detail), []).append(row)
    for names, group in groups.items():
        outcomes = ", ".join(row.outcome for row in group if row.outcome) or "–"
        figures = [number(mean_of(group, name, factor), places) for name, factor, places in COLUMNS.values()]
        lines.append([*names, outcomes, *figures])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def mean_of(rows: Sequence[Row], name: str, factor: float) -> float | None:
    """Mean of a field over the rows that have it, times factor."""
    values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return factor * mean(values) if values else None


if __name__ == "__main__":
    sys.exit(run_command(VideosConfig, compare))
