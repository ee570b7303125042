"""An edit made ready: latents, instructions, settings and layout; what Panorama and VideoEdit share."""

from abc import ABC, abstractmethod
from functools import cached_property

from torch import Tensor

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.layout import Layout
from csd_core.engine.loop import edit_latents
from csd_core.engine.progress import Callback
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.engine.step import PromptWeights


class PreparedEdit(ABC):
    """Checked, and ready to be run once or several times.

    Attributes:
        prompts: the instruction, or several with their shares.
        edit: settings.
        layout: how particles lie in the canvas.
    """

    prompts: PromptWeights
    edit: EditConfig

    def __init__(self, denoiser: InstructPix2Pix) -> None:
        self._denoiser = denoiser

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """How particles lie in the canvas."""

    @cached_property
    @abstractmethod
    def latents(self) -> tuple[Tensor, Tensor]:
        """Source latents and image condition, of the shape of the canvas."""

    @property
    @abstractmethod
    def particle_size(self) -> tuple[int, int]:
        """Height and width of a particle, in latent pixels."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of what grows with the size of the input."""

    @abstractmethod
    def decode_one_tile(self) -> Tensor:
        """Decode as much as is decoded at a time, to see its memory."""

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
        """The edited canvas; see engine.edit_latents.

        canvas: where to go on. Default: the source.
        ranks: share the evaluations. Only rank 0 needs to have the input.
        """
        source, condition = ranks.from_main(lambda: self.latents, _on_cpu)
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


def _on_cpu(latents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    source, condition = latents
    return source.cpu(), condition.cpu()
