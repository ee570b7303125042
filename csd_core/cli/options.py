"""The options that all editing commands share. Imports nothing heavy: help and bad options must be fast."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from csd_core.choices import DEFAULT_MODEL, MAX_PIXELS, ChunkSize, DType
from csd_core.errors import expect
from csd_core.io.files import check_output


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
        if self.is_sampled:
            for name in ("resume", "preview_every", "dry_run"):
                value = getattr(self.writing, name)
                expect(not value, name, "a method that optimises, such as csd", self.method)
        preview = [self.preview] if self.writing.preview_every else []
        for source in sources:
            check_output(self.output, source, folder_allowed=self.may_be_folder)
            for written in (beside(self.output, ".json"), *preview):
                check_output(written, source)

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


def beside(output: Path, ending: str) -> Path:
    """A file next to the output: snow.png -> snow.png.json, or snow.preview.png."""
    if ending.startswith("."):
        return output.with_name(output.name + ending)
    if not output.suffix:  # a folder: what follows a dot would be taken for its suffix
        return output.with_name(f"{output.name}-{ending}")
    return output.with_name(f"{output.stem}.{ending}{output.suffix}")
