"""The options of the editing commands. Imports nothing heavy: help and bad options must be fast."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from csd_core.choices import (
    DEFAULT_MODEL,
    MAX_FRAMES,
    MAX_PIXELS,
    ChunkSize,
    DType,
    PanoramaMethod,
    VideoMethod,
    selection,
)
from csd_core.errors import expect, expect_text
from csd_core.io.files import check_output, check_writable

_LARGEST_STEP = 999_999


@dataclass(kw_only=True)
class MethodOptions:
    """Settings of the method that every kind of input has. Those left out suit the model."""

    num_steps: int | None = None
    """Optimisation steps, or sampling steps of an ip2p method. Default: 200 and more, so that every pixel is
    edited often enough; fewer with mini."""
    guidance_scale: float | None = None
    """How strongly the instruction is followed. Default: 7.5; mini 1.5."""
    image_guidance_scale: float | None = None
    """How closely the source is kept. Default: 1.5; mini 1.2."""
    negative_prompt: str = ""
    """What the result should not be."""
    source_prompt: str = ""
    """What the source shows; for --method dds."""
    learning_rate: float | None = None
    """Step size at the start. Higher edits more and reduces agreement. Default: by model and input."""
    batch_size: int | None = None
    """Particles that exchange gradients in one step (B). More agree more, cost more, and dilute the edit."""
    bandwidth_factor: float | None = None
    """Factor on the bandwidth of the kernel. 3: particles agree more and lose details. Default: 1."""
    shared_noise: bool = False
    """All particles of a step share one noise: they agree more."""
    t_range: tuple[float, float] | None = None
    """Share of the noise schedule that timesteps are sampled from: 0 clean, 1 noise. Default: 0.2 0.5."""
    noise_pool: int | None = None
    """Number of (timestep, noise) pairs that are reused, so that the source is evaluated once per pair. 0: a
    new pair in every step, which takes up to 1.6 times as long. Default: 8."""
    seed: int = 0
    """Seed of noise, timesteps and batches. The same seed gives the same result."""

    def check(self) -> None:
        """Raise a UserError for what can be seen without the model."""
        expect(self.seed >= 0, "seed", "0 or more", self.seed)
        expect(self.num_steps is None or self.num_steps >= 1, "num_steps", "at least 1", self.num_steps)

    def settings(self, chunk_size: ChunkSize) -> dict[str, Any]:
        """Those of MethodConfig; None where left out."""
        rest = ("num_steps", "source_prompt")
        names = MethodOptions.__dataclass_fields__.keys() - set(rest)
        return {name: getattr(self, name) for name in sorted(names)} | {"chunk_size": chunk_size}

    def sampling(self, chunk_size: ChunkSize) -> dict[str, Any]:
        """Those of SamplingConfig; None where left out."""
        names = ("guidance_scale", "image_guidance_scale", "negative_prompt", "seed")
        given = {name: getattr(self, name) for name in names}
        return given | {"chunk_size": chunk_size, "num_inference_steps": self.num_steps}


@dataclass(kw_only=True)
class ModelOptions:
    """Which model, where and how it computes."""

    model: str = DEFAULT_MODEL
    """Hub id, diffusers folder, or mini: the small editor that ships with this package."""
    device: str | None = None
    """cpu, cuda, cuda:1. Default: CUDA where there is one."""
    dtype: DType | None = None
    """Precision. Default: float16 on CUDA; bfloat16 on CPUs that multiply it in hardware (AMX, AVX512-BF16);
    float32 elsewhere."""
    local_files_only: bool = False
    """Never touch the network."""


@dataclass(kw_only=True)
class MemoryOptions:
    """Memory and speed. The result stays the same."""

    chunk_size: ChunkSize = 16
    """Evaluations of the network at a time; auto: as many as fit. Sets the memory."""
    compile: bool = False
    """Compile the model: it takes time at the start and makes every step shorter."""
    offload: bool = False
    """Keep the parts of the model in the memory of the host, except the one at work: for small GPUs."""
    max_pixels: int = MAX_PIXELS
    """Larger inputs are refused: they may be decompression bombs."""

    def check(self) -> None:
        """Raise a UserError for what can be seen without the model."""
        fits = self.chunk_size == "auto" or self.chunk_size >= 1
        expect(fits, "chunk_size", "at least 1, or auto", self.chunk_size)
        expect(self.max_pixels >= 1, "max_pixels", "at least 1", self.max_pixels)


@dataclass(kw_only=True)
class OutputOptions:
    """What is written beside the output, and what is printed."""

    preview_every: int = 0
    """Steps between two previews beside the output. 0: none."""
    dry_run: bool = False
    """Print what the edit would take, in evaluations, time and memory, and write nothing."""
    resume: bool = False
    """Continue an edit of the same settings that was stopped or killed; the result is the same."""
    verbose: bool = False
    """Show the traceback of an error."""

    def check(self) -> None:
        """Raise a UserError for what can be seen without the model."""
        expect(self.preview_every >= 0, "preview_every", "0 or more steps", self.preview_every)


@dataclass(kw_only=True)
class EditOptions:
    """Options of an edit."""

    if TYPE_CHECKING:  # each command lists these itself, in its order
        output: Path
        prompt: str
        method: Any
    edit: MethodOptions = field(default_factory=MethodOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    writing: OutputOptions = field(default_factory=OutputOptions)

    incidental: ClassVar[frozenset[str]] = frozenset(
        {*MemoryOptions.__dataclass_fields__, *OutputOptions.__dataclass_fields__}
        | {"output", "device", "dtype", "local_files_only"}
    )
    """The options that the edited canvas does not depend on; dtype is compared as it was resolved."""

    @property
    def may_be_folder(self) -> bool:
        """Whether the output is a folder of files."""
        return False

    @property
    def is_sampled(self) -> bool:
        """Whether the method is a baseline that samples."""
        return self.method.startswith("ip2p-")

    @property
    def verbose(self) -> bool:
        """See OutputOptions."""
        return self.writing.verbose

    def check(self, *sources: Path) -> None:
        """Raise a UserError for what can be seen without reading anything large.

        sources: the files that are read; none of them may be written.
        """
        for group in (self.edit, self.memory, self.writing):
            group.check()
        for name in ("prompt", "negative_prompt", "source_prompt"):
            expect_text(name, getattr(self if name == "prompt" else self.edit, name))
        if self.is_sampled:
            for name in ("resume", "preview_every", "dry_run"):
                value = getattr(self.writing, name)
                expect(not value, name, "a method that optimises, such as csd", self.method)
        name = self.output.name
        named = bool(name) and (bool(self.output.suffix) or not name.startswith("."))  # ".png" is no suffix
        got = f"{name or 'none'}; name a file"
        expect(named, str(self.output), "a name with letters before its suffix", got)
        preview = [self.preview] if self.writing.preview_every else []
        written = [beside(self.output, ".json"), *preview]
        check_writable(self.output, *written)
        if not self.is_sampled:
            check_output(self.unfinished)
            check_writable(beside(self.output, f"step-{_LARGEST_STEP}"))
        for source in sources:
            check_output(self.output, source, folder_allowed=self.may_be_folder)
            for path in written:
                check_output(path, source)

    @property
    def preview(self) -> Path:
        """Where previews are written."""
        return beside(self.output, "preview")

    @property
    def unfinished(self) -> Path:
        """Where an edit is kept that is not finished."""
        return beside(self.output, ".unfinished.safetensors")

    def as_json(self) -> dict[str, Any]:
        """All options by name as JSON values."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= value if isinstance(value, dict) else {name: value}
        return json.loads(json.dumps(flat, default=str))

    def identity(self) -> dict[str, Any]:
        """The options that the edited canvas depends on."""
        return {key: value for key, value in self.as_json().items() if key not in self.incidental}


@dataclass(kw_only=True)
class PanoramaMethodOptions(MethodOptions):
    """Settings of the edit. Those left out suit the model."""

    stride: int | None = None
    """Latent pixels from window to window. Smaller: smoother, and more steps. Default: 16; mini 8."""
    regions: Path | None = None
    """JSON list of {"prompt", and "box": [left, top, right, bottom], "strip": [left, right] or
    "mask": "file.png", optionally "guidance_scale"}, in pixels or "25%". --prompt is for the rest;
    without one the rest stays."""
    mask: Path | None = None
    """Grey image of the input's size: black stays exactly as it is, white is edited, grey is in between."""
    wrap: bool = False
    """Left and right are neighbours: a 360-degree image."""

    def check(self) -> None:
        """See MethodOptions.check."""
        super().check()
        expect(self.stride is None or self.stride >= 1, "stride", "1 latent pixel or more", self.stride)


@dataclass(kw_only=True)
class PanoramaOptions(EditOptions):
    """Options of csd-edit-panorama."""

    image: Path
    """Image to edit: PNG, JPEG, WebP or TIFF, of any size."""
    output: Path
    """File to write. A file of this name is replaced when the edit is done, not before."""
    prompt: str = ""
    """The instruction, such as "make it snowy"."""
    method: PanoramaMethod = "csd"
    """csd; for comparison without the exchange between windows (no-svgd), with another baseline (sds, dds),
    the whole image resized to the model's size (ip2p-resize), windows one by one (ip2p-patch), or overlapping
    windows averaged at every sampling step (ip2p-overlap: MultiDiffusion)."""
    edit: PanoramaMethodOptions = field(default_factory=PanoramaMethodOptions)

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        super().check(*sources)
        given = bool(self.prompt.strip()) or self.edit.regions is not None
        expect(given, "prompt", "an instruction", "nothing")
        if self.is_sampled:
            for name in ("regions", "wrap"):
                expect(
                    not getattr(self.edit, name), name, "a method that optimises, such as csd", self.method
                )

    @property
    def sources(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.image, self.edit.mask, self.edit.regions) if path]


@dataclass(kw_only=True)
class VideoMethodOptions(MethodOptions):
    """Settings of the edit. Those left out suit the model."""

    frames: str = ":"
    """Frames to edit as START:STOP:STEP, counted from 0, the last one not included: 0:48, 100:, ::2."""
    mask: Path | None = None
    """Grey image, video or folder of the input's size: black stays exactly as it is, white is edited."""
    resolution: int | None = None
    """Short side of the edit in pixels; frames keep their size. Default: what the model was trained at."""
    allow_corrupt: bool = False
    """Edit a damaged video all the same, as far as it can be decoded."""


@dataclass(kw_only=True)
class VideoMemoryOptions(MemoryOptions):
    """Memory and speed. The result stays the same."""

    max_frames: int = MAX_FRAMES
    """More frames than this are refused."""

    def check(self) -> None:
        """See MemoryOptions.check."""
        super().check()
        expect(self.max_frames >= 1, "max_frames", "at least 1", self.max_frames)


@dataclass(kw_only=True)
class VideoOutputOptions(OutputOptions):
    """How the video is written, and what is written beside it."""

    codec: str | None = None
    """Encoder, such as libx265 or ffv1. Default: what suits the name of the output."""
    crf: int | None = None
    """Quality of the encoder, lower is better. Default: 18 (webm: 30)."""
    sound: bool = True
    """Copy the sound as it is."""
    frame_rate: str | None = None
    """Frames per second of a folder, such as 25 or 30000/1001. Default: 24."""

    def check(self) -> None:
        """See OutputOptions.check."""
        super().check()
        _ = self.rate

    @property
    def rate(self) -> Fraction | None:
        """frame_rate as a number.

        Raises:
            UserError: it is none, or out of range.
        """
        if self.frame_rate is None:
            return None
        rate = Fraction(0)
        with suppress(ValueError, ZeroDivisionError):
            rate = Fraction(self.frame_rate)
        expected = "frames per second such as 25, 29.97 or 30000/1001, at most 1000"
        expect(0 < rate <= 1000, "frame_rate", expected, self.frame_rate)
        return rate


@dataclass(kw_only=True)
class VideoOptions(EditOptions):
    """Options of csd-edit-video."""

    video: Path
    """Video to edit: mp4, mov, webm, mkv, gif, animated webp and the like, or a folder of frames. The suffix
    of the output sets its format; one without a suffix is a folder of PNGs."""
    output: Path
    """File to write. A file of this name is replaced when the edit is done, not before."""
    prompt: str = ""
    """The instruction, such as "make it snowy"."""
    method: VideoMethod = "csd"
    """csd; for comparison without the exchange between frames (no-svgd), with another baseline (sds, dds), or
    each frame sampled independently (ip2p-frame)."""
    edit: VideoMethodOptions = field(default_factory=VideoMethodOptions)
    memory: VideoMemoryOptions = field(default_factory=VideoMemoryOptions)
    writing: VideoOutputOptions = field(default_factory=VideoOutputOptions)

    incidental = EditOptions.incidental | {
        *VideoOutputOptions.__dataclass_fields__,
        "max_frames",
        "allow_corrupt",
    }

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        for source in sources:
            self._check_apart(source)
        super().check(*sources)
        selection(self.edit.frames)
        expect(bool(self.prompt.strip()), "prompt", "an instruction", "nothing")

    def _check_apart(self, source: Path) -> None:
        """A folder that is replaced holds no input, and nothing is written between the frames of one."""
        place, given = self.output.resolve(), source.resolve()
        around = "a folder around an input; choose another output"
        expect(place not in given.parents, str(self.output), "a file or a new folder", around)
        inside = "one among them; choose another output"
        expect(place.parent != given, str(self.output), f"a place outside the frames in {source}", inside)

    @property
    def sources(self) -> list[Path]:
        """The files and folders that are read."""
        return [path for path in (self.video, self.edit.mask) if path]

    @property
    def may_be_folder(self) -> bool:
        """A name without suffix is a folder of frames."""
        return not self.output.suffix

    @property
    def preview(self) -> Path:
        """Where previews are written: frames side by side, a picture."""
        return beside(self.output, "preview").with_suffix(".png")


def beside(output: Path, ending: str) -> Path:
    """A file next to the output: snow.png -> snow.png.json, or snow.preview.png."""
    if ending.startswith("."):
        return output.with_name(output.name + ending)
    if not output.suffix:  # a folder: what follows a dot would be taken for its suffix
        return output.with_name(f"{output.name}-{ending}")
    return output.with_name(f"{output.stem}.{ending}{output.suffix}")
