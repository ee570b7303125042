"""An edit made ready: latents, instructions, settings and layout; what Panorama and VideoEdit share."""

import math
from abc import ABC, abstractmethod
from functools import cached_property

from torch import Tensor

from csd_core.denoisers.base import Conditioning, Denoiser, PromptWeights
from csd_core.engine.config import EditConfig, MethodConfig
from csd_core.engine.layout import Layout
from csd_core.engine.loop import edit_latents
from csd_core.engine.progress import Callback
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.presets import Preset


class PreparedEdit(ABC):
    """Checked, and ready to be run once or several times.

    Attributes:
        prompts: the instruction, or several with their shares.
        edit: settings.
    """

    prompts: PromptWeights
    edit: EditConfig

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How particles lie in the canvas."""

    @cached_property
    @abstractmethod
    def latents(self) -> tuple[Tensor, Conditioning]:
        """Latents of the source, of the shape of the canvas, and its condition. Computed once."""

    @property
    @abstractmethod
    def particle_size(self) -> tuple[int, int]:
        """Height and width of a particle, in latent pixels."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what grows with the size of the input, except the condition."""

    @abstractmethod
    def decode_one_tile(self) -> Tensor:
        """Decode as much as is decoded at a time, to measure its memory."""

    @property
    def num_particles(self) -> int:
        """N."""
        return self.layout.num_particles

    def run(
        self,
        canvas: Tensor | None = None,
        *,
        start_step: int = 0,
        callback: Callback | None = None,
        ranks: Ranks = ALONE,
    ) -> Tensor:
        """The edited canvas; see loop.edit_latents.

        canvas: where to continue. Default: the source.
        ranks: share the evaluations. Only rank 0 needs to have the input.
        """
        source, condition = ranks.broadcast(lambda: self.latents, _on_cpu)
        return edit_latents(
            self._denoiser,
            source if canvas is None else canvas,
            source,
            condition,
            self.prompts,
            self.edit,
            self.layout,
            callback=callback,
            start_step=start_step,
            ranks=ranks,
        )


def with_steps(
    method: MethodConfig,
    preset: Preset,
    num_steps: int | None,
    steps_per_round: int,
    updates_per_round: float,
) -> EditConfig:
    """The settings with their number of steps.

    By default whole rounds, so many that every pixel is expected to move as often as the preset says.

    Args:
        method: settings of the method.
        preset: how often every pixel moves, and the steps at least.
        num_steps: None: the default.
        steps_per_round: steps in which every particle is sampled once.
        updates_per_round: how often a pixel moves in these, in the mean.
    """
    needed = math.ceil(preset.updates * steps_per_round / updates_per_round - 1e-6)
    least = max(preset.least_steps, needed)
    edit = method.in_steps(num_steps or steps_per_round * math.ceil(least / steps_per_round))
    edit.check()
    return edit


def _on_cpu(latents: tuple[Tensor, Conditioning]) -> tuple[Tensor, Conditioning]:
    source, condition = latents
    return source.cpu(), condition.to("cpu")
