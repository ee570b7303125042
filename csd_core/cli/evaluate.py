"""csd-evaluate: measure an edit of panoramas or of a video by the paper's measures, and by what it lacks."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

import tyro

from csd_core.choices import selection
from csd_core.command import run_command
from csd_core.errors import expect
from csd_core.evaluation import Again, Captions, PanoramaPair, Tools, measure_panoramas, measure_video, seams
from csd_core.evaluation.inputs import PanoramaFiles, read_frame_pairs, read_panorama_files
from csd_core.evaluation.measuring import Borders, cut, part_positions, squares
from csd_core.evaluation.metrics.extractors import DEFAULT_CLIP
from csd_core.evaluation.report import Report, check_report_folder, print_report, write_report
from csd_core.evaluation.tools import FID, LPIPS
from csd_core.io.files import content_hash, folder_written_beside
from csd_core.io.images import MAX_PIXELS
from csd_core.io.videos import MAX_FRAMES


@dataclass(kw_only=True)
class EvaluateOptions:
    """Options of every evaluation."""

    output: Path
    """Folder for report.json and report.html. An older report there is replaced, nothing else."""
    source_caption: str = ""
    """What the source shows, such as "a photo of a bear"."""
    target_caption: str = ""
    """What the edit should show, such as "a photo of a polar bear"."""
    clip: str = DEFAULT_CLIP
    """Model of open_clip, NAME, NAME/TAG or hf-hub:ID; a folder with one; or mini: the small scorer that
    ships with this package."""
    clip_weights: Path | None = None
    """Checkpoint file for the model."""
    lpips_weights: Path | None = None
    """The file of AlexNet's weights, for LPIPS. Default: where torch keeps what it has downloaded."""
    inception_weights: Path | None = None
    """The file of Inception's weights, for FID. Default: likewise."""
    device: str | None = None
    """cpu, cuda, cuda:1. Default: CUDA where there is one."""
    batch_size: int = 16
    """Pictures at a time. Sets the memory; the numbers stay the same."""
    cache: Path | None = None
    """Folder where features of pictures are kept, by their content, for the next evaluation."""
    local_files_only: bool = False
    """Never touch the network."""
    max_pixels: int = MAX_PIXELS
    """Larger pictures are refused: they may be decompression bombs."""
    verbose: bool = False
    """Show the traceback of an error."""

    def check(self, *inputs: Path) -> None:
        """Raise a UserError for what can be seen without reading anything large.

        inputs: files and folders that are read; the output may hold none of them.
        """
        self.captions.check()
        for name in ("batch_size", "max_pixels"):
            expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        weights = (self.clip_weights, self.lpips_weights, self.inception_weights)
        for path in weights:
            expect(path is None or path.is_file(), str(path), "a file of weights", "none; check the path")
        check_report_folder(self.output, *inputs, *(path for path in weights if path))

    @property
    def captions(self) -> Captions:
        """Both."""
        return Captions(self.source_caption, self.target_caption)

    def load_tools(self) -> Tools:
        """The networks. One of LPIPS or FID that is not there is told of, unless its file was named.

        Raises:
            UserError: the extractor, or a file that was named, cannot be loaded.
        """
        from csd_core.evaluation.metrics.extractors import ClipExtractor
        from csd_core.evaluation.metrics.perceptual import Inception, Lpips

        clip = ClipExtractor.from_pretrained(
            self.clip,
            weights=self.clip_weights,
            device=self.device,
            batch_size=self.batch_size,
            cache=self.cache,
            local_files_only=self.local_files_only,
        )
        tools = Tools(clip)
        given, device = (self.lpips_weights, self.inception_weights), self.device

        def lpips() -> Lpips:
            return Lpips.from_pretrained(trunk=given[0], device=device, batch_size=self.batch_size)

        def inception() -> Inception:
            return Inception.from_pretrained(weights=given[1], device=device)

        tools.lpips = lpips() if given[0] else tools.try_loading(LPIPS, lpips)
        tools.inception = inception() if given[1] else tools.try_loading(FID, inception)
        return tools

    def hints(self, tools: Tools) -> Iterator[str]:
        """What a user should know of these captions and networks."""
        for caption in (self.source_caption, self.target_caption):
            if tools.clip and (words := tools.clip.unknown_words(caption)):
                said = ", ".join(dict.fromkeys(words))
                yield f"{tools.clip.name} was not taught {said} of {caption!r}: use other words, or --clip"

    def as_json(self) -> dict[str, Any]:
        """All options as JSON values."""
        return json.loads(json.dumps(asdict(self), default=str))


@dataclass(kw_only=True)
class PanoramaEvaluation(EvaluateOptions):
    """Options of csd-evaluate panorama."""

    source: Path
    """The panorama before the edit, or a folder of them."""
    edited: Path
    """After it; a folder of the same names, but for the suffix."""
    mask: Path | None = None
    """Grey image of the panorama's size: where it is black, nothing may change. One for all, or a folder."""
    window: int | None = None
    """Side of the windows of the edit, in pixels of the panorama, for the seam score. Default: as the .json
    that csd-edit-panorama leaves beside its output says, if it is there."""
    stride: int | None = None
    """Pixels from window to window. Default: likewise."""


@dataclass(kw_only=True)
class VideoEvaluation(EvaluateOptions):
    """Options of csd-evaluate video."""

    source: Path
    """The video before the edit, or a folder of frames."""
    edited: Path
    """After it: all frames, or as many as --frames selects."""
    mask: Path | None = None
    """Grey image, video or folder of frames: where it is black, nothing may change."""
    frames: str = ":"
    """Frames to compare as START:STOP:STEP, counted from 0, the last one not included: 0:48, 100:, ::2."""
    max_frames: int = MAX_FRAMES
    """More frames than this are refused."""


def evaluate_panorama(options: PanoramaEvaluation) -> None:
    """Measure edits of panoramas."""
    begun = time.perf_counter()
    named = [path for path in (options.source, options.edited, options.mask) if path]
    options.check(*named)
    seams.check(options.window, options.stride)
    limit = options.max_pixels
    files, broken = read_panorama_files(options.source, options.edited, options.mask, max_pixels=limit)
    borders = [_borders(options, file) for file in files]
    tools = options.load_tools()
    pairs: Again[PanoramaPair] = Again(
        lambda: (file.read(where, limit) for file, where in zip(files, borders, strict=True))
    )
    report = Report(
        "csd-evaluate panorama",
        options.as_json(),
        options.captions,
        tools,
        {str(path): content_hash(path) for path in named},
        [name for file in files for name in _part_names(file)],
        part_positions(file.size for file in files),
        measure_panoramas(pairs, options.captions, tools),
        broken,
        list(options.hints(tools)),
        {"windows": [None if where is None else where._asdict() for where in borders]},
        time.perf_counter() - begun,
    )
    with folder_written_beside(options.output) as folder:
        sources = (part for pair in pairs for part in cut(pair.source))
        write_report(folder, report, sources, (part for pair in pairs for part in cut(pair.edited)))
    tell(report, options.output)


def _borders(options: PanoramaEvaluation, file: PanoramaFiles) -> Borders | None:
    if options.window is None or options.stride is None:
        return seams.borders_of(file.edited, file.size)
    least = f"at most {min(file.size)}, the short side of {file.source}"
    expect(options.window <= min(file.size), "--window", least, options.window)
    return seams.borders(file.size, options.window, options.stride)


def _part_names(file: PanoramaFiles) -> list[str]:
    count = len(squares(file.size))
    return [f"{file.name}, part {k + 1} of {count}" for k in range(count)] if count > 1 else [file.name]


def evaluate_video(options: VideoEvaluation) -> None:
    """Measure an edit of a video."""
    begun = time.perf_counter()
    named = [path for path in (options.source, options.edited, options.mask) if path]
    options.check(*named)
    expect(options.max_frames >= 1, "max_frames", "at least 1", options.max_frames)
    pairs = read_frame_pairs(
        options.source,
        options.edited,
        selection=selection(options.frames),
        max_frames=options.max_frames,
        max_pixels=options.max_pixels,
    )
    mask = pairs.masks(options.mask, options.max_pixels) if options.mask else None
    tools = options.load_tools()
    sources, edited = (several.pictures(pairs.positions) for several in (pairs.sources, pairs.edited))
    report = Report(
        "csd-evaluate video",
        options.as_json(),
        options.captions,
        tools,
        {str(path): content_hash(path) for path in named},
        pairs.names,
        pairs.positions,
        measure_video(sources, edited, options.captions, tools, mask=mask, positions=pairs.positions),
        pairs.broken,
        list(options.hints(tools)),
        {"frames": [pairs.sources.indices[k] for k in pairs.positions]},
        time.perf_counter() - begun,
    )
    with folder_written_beside(options.output) as folder:
        write_report(folder, report, sources, edited)
    tell(report, options.output)


def tell(report: Report, output: Path) -> None:
    """The table on the terminal; what could not be loaded or read, and what to know, on stderr."""
    print_report(report)
    print(f"{output / 'report.html'}")
    for line in (*report.tools.missing, *report.notes):
        print(f"note: {line}", file=sys.stderr)
    if report.broken:
        print(f"could not be read ({len(report.broken)}), the rest was measured:", file=sys.stderr)
    for line in report.broken:
        print(f"  {line}", file=sys.stderr)


class Entry(NamedTuple):
    """A kind of evaluation: its options, and what is done with them."""

    options: type[EvaluateOptions]
    evaluate: Callable[[Any], None]


COMMANDS = {
    "panorama": Entry(PanoramaEvaluation, evaluate_panorama),
    "video": Entry(VideoEvaluation, evaluate_video),
}


def main(args: Sequence[str] | None = None, *, more: Mapping[str, Entry] | None = None) -> int:
    """Entry point of csd-evaluate.

    Args:
        args: default: the command line.
        more: further kinds of evaluation by name.
    """
    commands = {**COMMANDS, **(more or {})}
    kinds = tuple(
        Annotated[entry.options, tyro.conf.subcommand(name, description=entry.evaluate.__doc__)]
        for name, entry in commands.items()
    )

    def evaluate(options: EvaluateOptions) -> None:
        """Measure an edit: CLIP measures, LPIPS, FID, warp error, seams, and what changed outside a mask."""
        next(entry for entry in commands.values() if type(options) is entry.options).evaluate(options)

    choice: Any = Union[kinds]  # noqa: UP007
    return run_command(choice, evaluate, args)


if __name__ == "__main__":
    sys.exit(main())
