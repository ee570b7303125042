"""The contract: what the engine knows of a diffusion model. One file per family fulfils it.

    x_t            noisy latents (n, C, h, w) of n images of H x W pixels, h = H / downscale
    conditioning   everything else that the network is given, one row per evaluation
    branch         one way of asking the network; a guided prediction is a weighted sum of branches

The engine encodes the source once (`encode`, `encode_condition`), asks the family for the branches of a
guided prediction (`guided`), and for each branch turns a part of the source's condition into the network's
conditioning (`conditioning`). Branches whose conditioning differs in shape are evaluated in groups.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from csd_core.choices import ChunkSize
from csd_core.errors import UserError, expect
from csd_core.method.guidance import Weight
from csd_core.method.schedule import Schedule
from csd_core.presets import Presets

PromptWeights = Mapping[str, Sequence[Weight]]
"""Instruction -> its share of the text guidance for each particle, or for each pixel (h, w) of it. Shares add
up to 1 (alpha_k of appendix C.1); more or less is more or less guidance."""


def check_chunk_size(chunk_size: ChunkSize) -> None:
    """Raise a UserError unless it is a number of evaluations, or auto."""
    expect(chunk_size == "auto" or chunk_size >= 1, "chunk_size", "at least 1, or auto", chunk_size)


class Conditioning:
    """Tensors by name that all have the same number of rows.

    Slicing and indexing by a tensor of row numbers picks rows: `conditioning[2:5]`.

    Args:
        rows: how many rows each tensor has; they need not have any tensor.
        tensors: (rows, ...) each.
    """

    def __init__(self, rows: int, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            if len(tensor) != rows:
                raise ValueError(f"conditioning {name!r}: expected {rows} rows, got {len(tensor)}")
        self.rows, self.tensors = rows, tensors

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice | Tensor) -> "Conditioning":
        count = len(range(self.rows)[rows]) if isinstance(rows, slice) else len(rows)
        return self.map(lambda x: x[rows], count)

    def map(self, function: Callable[[Tensor], Tensor], rows: int | None = None) -> "Conditioning":
        """function of every tensor. rows: how many these have then. Default: as many as now."""
        made = {name: function(tensor) for name, tensor in self.tensors.items()}
        return Conditioning(self.rows if rows is None else rows, **made)

    def to(self, *where: Any, **how: Any) -> "Conditioning":
        """As Tensor.to, of every tensor."""
        return self.map(lambda x: x.to(*where, **how))

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """All rows of several of one signature, in order."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].tensors
        made = {name: torch.cat([part.tensors[name] for part in parts]) for name in names}
        return Conditioning(sum(map(len, parts)), **made)

    @property
    def signature(self) -> tuple[tuple[str, torch.Size], ...]:
        """Names and shapes of a row: what has the same one can be evaluated in one batch."""
        return tuple(sorted((name, tensor.shape[1:]) for name, tensor in self.tensors.items()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class Guidance:
    """How strongly a prediction follows text and image."""

    guidance_scale: float
    """Text (omega_y)."""
    image_guidance_scale: float
    """Image (omega_s); families without such a guidance ignore it."""
    negative_prompt: str = ""
    """Takes the place of the empty prompt."""


@dataclass(frozen=True)
class Branch:
    """One evaluation per particle."""

    image: bool
    """Whether the source image is shown."""
    text: str
    """The prompt."""
    weights: tuple[Weight, ...]
    """For each particle of the canvas, the factor of this prediction."""

    def counts(self, particle: int) -> bool:
        """Whether it has any weight in a particle; if not, it is not evaluated for it."""
        weight = self.weights[particle]
        return bool(weight.any()) if isinstance(weight, Tensor) else weight != 0


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of an edit by the family's own sampler, the same for every baseline."""

    num_inference_steps: int = 100
    """Denoising steps."""
    guidance_scale: float = 7.5
    """Text guidance: how strongly the instruction is followed. 1 or more."""
    image_guidance_scale: float = 1.5
    """Image guidance: how closely the source is kept. 1 or more."""
    negative_prompt: str = ""
    """What the result should not be; takes the place of the empty prompt."""
    chunk_size: ChunkSize = 16
    """Evaluations of the network at a time; auto: as many as fit. The result stays the same."""
    seed: int = 0
    """Seed of the noise."""

    def check(self) -> None:
        """Raise a UserError that names the first setting out of range."""
        expect(self.num_inference_steps >= 1, "num_inference_steps", "at least 1", self.num_inference_steps)
        check_chunk_size(self.chunk_size)
        for name in (
            "guidance_scale",
            "image_guidance_scale",
        ):  # below 1 diffusers silently drops all guidance
            scale = getattr(self, name)
            expect(math.isfinite(scale) and scale >= 1, name, "a finite number, at least 1", scale)
        expect(self.seed >= 0, "seed", "0 or more", self.seed)


@dataclass
class Evaluations:
    """How often the network was evaluated."""

    count: int = 0
    """One for each row of a batch."""


class Denoiser(ABC):
    """A diffusion model that edits images. Never an nn.Module, so that no checkpoint of a scene holds it.

    Attributes:
        downscale: pixels per latent pixel, along one side.
        multiple: sides of images, in pixels, are multiples of it. Default: downscale.
        native_size: side of a training image, in pixels.
        latent_channels: C.
        device: where the network computes.
        dtype: precision of the predictions' network.
        schedule: alpha(t), sigma(t), on the device.
        presets: settings for each kind of input.
        compiled: whether a batch of another size costs time, because the network is compiled for each.
    """

    family: ClassVar[str] = ""
    """Name of the family, for messages."""
    downscale: int
    native_size: int
    latent_channels: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    schedule: Schedule
    presets: Presets
    compiled: bool = False

    @property
    def multiple(self) -> int:
        """See the class."""
        return self.downscale

    @property
    def largest_decode(self) -> int:
        """Longest side, in pixels, of what is decoded at once; larger images pass in tiles."""
        return 2 * self.native_size

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [0, 1] -> latents (n, C, h, w) at the scale of the noise, float32.

        The same images always give the same latents.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents as from encode -> images (n, 3, H, W) in [0, 1], float32."""

    def encode_condition(self, images: Tensor, latents: Tensor) -> Conditioning:
        """What branches with an image are shown of the source: n rows.

        A tensor of four dimensions is a map (n, c, h k, w k) with an integer k, which windows are cut from.
        All others belong to the whole image.

        Args:
            images: (n, 3, H, W) in [0, 1].
            latents: what encode gave for them.
        """
        return Conditioning(len(latents))

    @abstractmethod
    def guided(self, prompts: PromptWeights, num_particles: int, guidance: Guidance) -> list[Branch]:
        """The branches of a guided prediction. Without prompts it is guided by the image alone (Eq. 9)."""

    @abstractmethod
    def conditioning(self, branch: Branch, condition: Conditioning) -> Conditioning:
        """The network's conditioning for a branch: as many rows as `condition`, from encode_condition.

        Each prompt is embedded once. "No image" is the family's business.
        """

    @abstractmethod
    def predict_noise(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The noise in x_t, (n, C, h, w) float32, by one evaluation of the network at batch n.

        Args:
            x_t: (n, C, h, w), noisy latents.
            t: (n,), timesteps of the schedule.
            conditioning: n rows, from `conditioning`.
        """

    def prompt_note(self, prompt: str) -> str | None:
        """What users should know of an instruction, such as that a small model was not taught it."""
        return None

    def warn_of(self, prompts: Iterable[str]) -> None:
        """A warning for each instruction that has a note."""
        for note in filter(None, map(self.prompt_note, prompts)):
            warnings.warn(note, stacklevel=2)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the networks, in place; dtype: of the predictions.

        Raises:
            UserError: the device is unknown or absent, or the family cannot be moved.
        """
        name = self.family or type(self).__name__
        raise UserError(
            f"device: expected a model that can be moved, got {name}; load it on {device} instead"
        )

    @contextmanager
    def count_evaluations(self) -> Iterator[Evaluations]:
        """Counts the evaluations of the network inside the block."""
        counted, predict = Evaluations(), self.predict_noise

        def counting(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            predicted = predict(x_t, t, conditioning)
            counted.count += len(x_t)
            return predicted

        self.predict_noise = counting  # type: ignore[method-assign]
        try:
            yield counted
        finally:
            del self.predict_noise

    # ---- the baselines' way, where the family has one

    def sample(
        self,
        images: Conditioning,
        prompt: str,
        config: SamplingConfig,
        generators: Sequence[torch.Generator],
        *,
        corners: Sequence[tuple[int, int]] | None = None,
        start: tuple[Tensor, float] | None = None,
        callback: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Edit by the pipeline that diffusers has for the family.

        Args:
            images: n rows, from encode_condition.
            prompt: the instruction.
            config: settings; its seed is not used.
            generators: n, of the noise that sampling starts with and of schedulers that add noise.
            corners: top and left, in latent pixels, of windows of native size whose predictions are averaged
                in every step. None: one window, the whole image.
            start: latents (n, C, h, w), and the share of the schedule to which they are noised. None: noise.
            callback: called as callback(step) after every step; see num_sampling_calls.

        Returns:
            (n, C, h, w), latents at the scale of the noise, float32.

        Raises:
            UserError: the family has no such pipeline.
        """
        raise self._cannot_sample()

    def num_sampling_calls(self, config: SamplingConfig) -> int:
        """How often `sample` calls its callback: some schedulers have more timesteps than steps.

        Raises:
            UserError: the family has no pipeline, or there are too many steps.
        """
        raise self._cannot_sample()

    def _cannot_sample(self) -> UserError:
        name = self.family or type(self).__name__
        return UserError(f"method: expected csd, or a model of InstructPix2Pix to compare with, got {name}")
