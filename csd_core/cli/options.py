"""The options that all editing commands share, and what follows from them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csd_core.denoisers.runtime.batching import MaxBatch, check_max_batch
from csd_core.denoisers.runtime.precision import DType, as_dtype, dtype_name
from csd_core.errors import expect
from csd_core.io.files import check_output
from csd_core.io.images import MAX_PIXELS

if TYPE_CHECKING:
    from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
    from csd_core.engine.ranks import Ranks


@dataclass(kw_only=True)
class EditOptions:
    """Options of an edit. What is left open is set to what suits the model."""

    output: Path
    """File to write. A file of this name is replaced when the edit is done, not before."""
    prompt: str = ""
    """The instruction, such as "make it snowy"."""
    model: str = "timbrooks/instruct-pix2pix"
    """Hub id, diffusers folder, or mini: the small editor that ships with this package."""
    negative_prompt: str = ""
    """What the result should not be."""
    guidance_scale: float | None = None
    """How strongly the instruction is followed. Default: 7.5; mini 1.5."""
    image_guidance_scale: float | None = None
    """How closely the source is kept. Default: 1.5; mini 1.2."""
    batch_size: int | None = None
    """Particles that exchange gradients in one step. More agree more, cost more, and dilute the edit."""
    learning_rate: float | None = None
    """Step size at the start. Higher edits more and undoes agreement."""
    t_range: tuple[float, float] | None = None
    """Share of the noise schedule that timesteps are drawn from, 0 is clean, 1 is noise. Default: 0.2 0.5."""
    noise_pool: int | None = None
    """Pairs of timestep and noise that an edit draws from, so that the source is evaluated once for each. 0:
    drawn anew in every step, which takes up to 1.6 times as long. Default: 8."""
    seed: int = 0
    """Seed of noise, timesteps and batches. The same seed gives the same result."""
    mask: Path | None = None
    """Grey image of the input's size: black stays exactly as it is, white is edited, grey is in between."""
    preview_every: int = 0
    """Steps between two previews beside the output. 0: none."""
    max_batch: MaxBatch = 16
    """Evaluations of the model at a time; auto: as many as fit. Sets the memory, not the result."""
    compile: bool = False
    """Compile the model: it takes its time at the start and makes every step shorter. The result stays."""
    offload: bool = False
    """Keep the parts of the model in the memory of the host, but for the one at work: for small GPUs."""
    dtype: DType | None = None
    """Precision of the model. Default: float16 on CUDA, float32 elsewhere."""
    device: str | None = None
    """cpu, cuda, cuda:1. Default: CUDA where there is one."""
    local_files_only: bool = False
    """Never touch the network."""
    max_pixels: int = MAX_PIXELS
    """Larger inputs are refused: they may be decompression bombs."""
    dry_run: bool = False
    """Say what the edit would take, in windows, evaluations, time and memory, and write nothing."""
    resume: bool = False
    """Go on where an edit of the same settings was stopped or killed; the result is the same."""
    verbose: bool = False
    """Show the traceback of an error."""

    def check(self, *sources: Path) -> None:
        """Raise a UserError for what can be seen without reading anything large.

        sources: the files that are read; none of them may be written.
        """
        expect(self.seed >= 0, "seed", "0 or more", self.seed)
        expect(self.preview_every >= 0, "preview_every", "0 or more steps", self.preview_every)
        check_max_batch(self.max_batch)
        expect(self.max_pixels >= 1, "max_pixels", "at least 1", self.max_pixels)
        preview = [self.preview] if self.preview_every else []
        for source in sources:
            check_output(self.output, source, folder_allowed=self.may_be_folder)
            for written in (beside(self.output, ".json"), *preview):
                check_output(written, source)

    @property
    def may_be_folder(self) -> bool:
        """Whether the output is a folder of files."""
        return False

    @property
    def preview(self) -> Path:
        """Where previews are written."""
        return beside(self.output, "preview")

    def check_ranks(self, ranks: "Ranks", method: str) -> None:
        """Raise a UserError where several processes cannot share an edit of that method."""
        shared = ranks.is_alone or not method.startswith("ip2p-")
        told = f"one process for {method}; start it without torchrun"
        expect(shared, "WORLD_SIZE", told, ranks.world_size)

    def edit_settings(self) -> dict[str, Any]:
        """Those of EditConfig, None where left open."""
        names = (
            "guidance_scale",
            "image_guidance_scale",
            "batch_size",
            "learning_rate",
            "t_range",
            "noise_pool",
        )
        return {**{name: getattr(self, name) for name in names}, **self._always()}

    def sampling_settings(self) -> dict[str, Any]:
        """Those of SamplingConfig, None where left open."""
        names = ("guidance_scale", "image_guidance_scale")
        return {**{name: getattr(self, name) for name in names}, **self._always()}

    def _always(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("negative_prompt", "max_batch", "seed")}

    def load(self) -> "InstructPix2Pix":
        """The model.

        Raises:
            UserError: it is unknown, out of reach or of another kind.
        """
        from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
        from csd_core.denoisers.loading import resolve_device

        device = resolve_device(self.device)
        return InstructPix2Pix.from_pretrained(
            self.model,
            torch_dtype=as_dtype(self.dtype, device),
            device=device,
            compile=self.compile,
            offload=self.offload,
            local_files_only=self.local_files_only,
        )

    @property
    def precision(self) -> str:
        """The name of the type that the model computes in."""
        from csd_core.denoisers.loading import resolve_device

        return dtype_name(as_dtype(self.dtype, resolve_device(self.device)))

    def as_json(self) -> dict[str, Any]:
        """All options as JSON values."""
        return json.loads(json.dumps(asdict(self), default=str))

    @property
    def incidental(self) -> set[str]:
        """The options that the edited canvas does not hang on."""
        machine = {"max_batch", "compile", "offload", "device", "local_files_only", "max_pixels"}
        return machine | {"output", "preview_every", "dry_run", "resume", "verbose"}

    def identity(self) -> dict[str, Any]:
        """The options that the edited canvas hangs on."""
        decisive = {key: value for key, value in self.as_json().items() if key not in self.incidental}
        return {**decisive, "dtype": self.precision}


def beside(output: Path, ending: str) -> Path:
    """A file next to the output: snow.png -> snow.png.json, or snow.preview.png."""
    if ending.startswith("."):
        return output.with_name(output.name + ending)
    if not output.suffix:  # a folder: what follows a dot would be taken for its suffix
        return output.with_name(f"{output.name}-{ending}")
    return output.with_name(f"{output.stem}.{ending}{output.suffix}")


def selection(frames: str) -> slice:
    """START:STOP:STEP as a slice.

    Raises:
        UserError: it is not that.
    """
    parts = frames.split(":")
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    good = 2 <= len(numbers) <= 3 and all(n is None or n >= 0 for n in numbers) and numbers[2:] != [0]
    expect(good, "frames", "START:STOP or START:STOP:STEP in whole numbers, such as 0:48", frames)
    return slice(*numbers)
