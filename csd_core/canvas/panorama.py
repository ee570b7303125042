"""A panorama, or any one image of any size: particles are overlapping windows of one canvas (Sec. 3.3).

image    (1, 3, H, W) in [0, 1]
frame    how the image lies on the canvas: enlarged where smaller than a window, a mirrored margin around it
canvas   latents (1, C, h, w) of the framed image; windows of it are the particles (windows.py)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.canvas.regions import Region, share_out
from csd_core.canvas.windows import Windows
from csd_core.denoisers.base import Conditioning, Denoiser
from csd_core.denoisers.runtime.vae import WRAP, around_the_ends
from csd_core.engine.config import MethodConfig
from csd_core.engine.prepared import PreparedEdit, with_steps
from csd_core.errors import expect
from csd_core.image_ops import LUMA, blend, resize
from csd_core.presets import Preset

Borders = Literal["margin", "reweight", "none"]

BEYOND_MASK = 2
"""Latent pixels around a mask that are edited too: what is decoded inside it shall see edited neighbours."""


@dataclass(frozen=True)
class Frame:
    """How an image of H x W pixels lies on the canvas."""

    size: tuple[int, int]
    """H, W."""
    inner: tuple[int, int]
    """Height and width that the image is resized to."""
    margin: tuple[int, int, int, int]
    """Pixels added by mirroring: left, right, top, bottom."""

    @classmethod
    def around(cls, size: tuple[int, int], native: int, downscale: int, margin: int, wrap: bool) -> "Frame":
        """The frame of an image of this size.

        Args:
            size: H, W.
            native: side of a window in pixels; smaller images are enlarged to it.
            downscale: sides of the canvas are multiples of it.
            margin: mirrored pixels on each side, a multiple of downscale.
            wrap: left and right are neighbours, so that nothing is added there.
        """
        scale = max(1.0, native / min(size))
        height, width = (max(native, round(side * scale)) for side in size)
        if wrap:
            width = max(native, round(width / downscale) * downscale)
        left, right = (0, 0) if wrap else (margin, margin + -width % downscale)
        return cls(size, (height, width), (left, right, margin, margin + -height % downscale))

    @property
    def canvas_size(self) -> tuple[int, int]:
        """Height and width of the canvas in pixels."""
        left, right, top, bottom = self.margin
        return self.inner[0] + top + bottom, self.inner[1] + left + right

    def enter(self, image: Tensor) -> Tensor:
        """Image (1, c, H, W) in [0, 1] -> on the canvas's pixels."""
        left, right, top, bottom = self.margin
        inner = resize(image, self.inner)
        rows = _mirrored(-top, self.inner[0] + bottom, self.inner[0]).to(image.device)
        columns = _mirrored(-left, self.inner[1] + right, self.inner[1]).to(image.device)
        return inner.index_select(2, rows).index_select(3, columns) if any(self.margin) else inner

    def leave(self, canvas: Tensor) -> Tensor:
        """The canvas's pixels (1, c, ...) -> image (1, c, H, W)."""
        left, _, top, _ = self.margin
        return resize(canvas[..., top : top + self.inner[0], left : left + self.inner[1]], self.size)


def _mirrored(start: int, stop: int, length: int) -> Tensor:
    """Indices into `length` pixels from start to stop, mirrored at both ends."""
    period = max(1, 2 * (length - 1))
    folded = torch.arange(start, stop).remainder(period)
    return torch.minimum(folded, period - folded).clamp(max=length - 1)


class Panorama(PreparedEdit):
    """An image made ready for an edit: checks, windows and prompts at once, latents when first asked for.

    Args:
        denoiser: the model.
        image: (1, 3, H, W) in [0, 1].
        prompt: the instruction for the image, or for what no region covers; None with regions: only these
            change.
        method: settings of the method.
        preset: what suits the model, for the settings that are None. Default: the model's.
        num_steps: optimisation steps.
        stride: latent pixels from window to window. Default: the preset's.
        regions: instructions for parts of the image (appendix C.1).
        mask: (H, W) in [0, 1]; where 0 nothing changes.
        wrap: left and right are neighbours, as in a 360-degree image.
        borders: how pixels near borders come to the same expected total step: windows that reach over the
            border onto a mirrored margin, longer steps (see windows.py), or not at all.

    Raises:
        UserError: a setting out of range, no prompt, a region or mask that does not fit.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        image: Tensor,
        prompt: str | None,
        method: MethodConfig,
        *,
        preset: Preset | None = None,
        num_steps: int | None = None,
        stride: int | None = None,
        regions: Sequence[Region] = (),
        mask: Tensor | None = None,
        wrap: bool = False,
        borders: Borders = "margin",
    ) -> None:
        super().__init__(denoiser)
        self._image, self._wrap = image, wrap
        preset = preset or denoiser.presets["panorama"]
        window = denoiser.native_size // denoiser.downscale
        stride = preset.stride if stride is None else stride
        expect(1 <= stride <= window, "stride", f"1 to {window} latent pixels, the side of a window", stride)
        method.check()
        size = (image.shape[-2], image.shape[-1])
        margin = (window - stride) * denoiser.downscale if borders == "margin" else 0
        self.frame = Frame.around(size, denoiser.native_size, denoiser.downscale, margin, wrap)
        areas = self._areas(prompt, regions, method, size)
        self.mask = changing(mask, None if prompt else regions, size)
        height, width = (side // denoiser.downscale for side in self.frame.canvas_size)
        self.windows = Windows(
            height,
            width,
            window,
            stride,
            batch_size=method.batch_size,
            wrap=wrap,
            origin=brightest_column(image, width) if wrap else 0,
            moves=None if self.mask is None else self._moves(self.mask, BEYOND_MASK),
            needed=None if self.mask is None else self._moves(self.mask, 0),
            reweight_borders=borders != "none",
            fade=preset.fade if 4 * stride <= window and borders != "none" else 0,
        )
        framed = [(text, self.frame.enter(area), guidance) for text, area, guidance in areas]
        self.prompts = share_out(framed, self.windows, denoiser.downscale, fade=window // 4 | 1)
        rounds = self.windows.steps_per_round, self.windows.updates_per_round
        self.edit = with_steps(method, preset, num_steps, *rounds)

    @property
    def layout(self) -> Windows:
        """See PreparedEdit."""
        return self.windows

    @property
    def particle_size(self) -> tuple[int, int]:
        """Height and width of a window, in latent pixels."""
        return self.windows.window, self.windows.window

    @cached_property
    def latents(self) -> tuple[Tensor, Conditioning]:
        """See PreparedEdit: one row each."""
        images, width = self.frame.enter(self._image), self.frame.canvas_size[1]
        ends = min(WRAP * self._denoiser.downscale, width) if self._wrap else 0
        wide = around_the_ends(images, ends)
        latents = self._denoiser.encode(wide)
        condition = self._denoiser.encode_condition(wide.to(latents.device), latents)

        def without_ends(x: Tensor) -> Tensor:
            """Maps are cut; what belongs to the whole image stays."""
            if x.ndim != 4 or not ends:
                return x
            share = x.shape[-1] / wide.shape[-1]
            return x[..., round(ends * share) : round((ends + width) * share)]

        return without_ends(latents), condition.map(without_ends)

    def decode(self, canvas: Tensor) -> Tensor:
        """A canvas as image (1, 3, H, W) in [0, 1], nothing masked."""
        ends = min(WRAP, canvas.shape[-1]) if self._wrap else 0
        decoded = self._denoiser.decode(around_the_ends(canvas, ends))
        left, width = ends * self._denoiser.downscale, canvas.shape[-1] * self._denoiser.downscale
        return self.frame.leave(decoded[..., left : left + width])

    def finish(self, canvas: Tensor) -> Tensor:
        """A canvas as image (1, 3, H, W) in [0, 1] on the CPU; where the mask is 0, exactly the source."""
        return blend(self._image.cpu(), self.decode(canvas).cpu(), self.mask)

    def decode_one_tile(self) -> Tensor:
        """Decode as much as is decoded at a time, for the sake of its memory."""
        side = min(self._denoiser.largest_decode, *self.frame.canvas_size) // self._denoiser.downscale
        zeros = torch.zeros(1, self._denoiser.latent_channels, side, side, device=self._denoiser.device)
        return self._denoiser.decode(zeros)

    @property
    def nbytes(self) -> int:
        """Bytes of images (source, framed, decoded, blended) and latents (source, canvas, result)."""
        height, width = self.frame.canvas_size
        images, latents = 4 * 3, 3 * self._denoiser.latent_channels / self._denoiser.downscale**2
        return int(4 * height * width * (images + latents))

    def _areas(
        self, prompt: str | None, regions: Sequence[Region], method: MethodConfig, size: tuple[int, int]
    ) -> list[tuple[str, Tensor, float]]:
        """Prompt, area (1, 1, H, W), guidance over that of the edit; the prompt has what no region covers."""
        for region in regions:
            region.check(size)
            own = region.guidance_scale is None or method.guidance_scale != 0
            expect(own, "guidance_scale", "another than 0, where regions have their own", 0)
        areas = [
            (
                region.prompt,
                region.area[None, None],
                1.0 if region.guidance_scale is None else region.guidance_scale / method.guidance_scale,
            )
            for region in regions
        ]
        if prompt is not None or not regions:
            expect(bool((prompt or "").strip()), "prompt", "an instruction", "nothing")
            covered = [region.area for region in regions] or [torch.zeros(size)]
            rest = 1 - torch.stack(covered).amax(dim=0)
            if rest.any():
                areas.append((prompt or "", rest[None, None], 1.0))
        return areas

    def _moves(self, mask: Tensor, beyond: int) -> Tensor:
        """Where latents may move (h, w): wherever a pixel of theirs may change, and so many around."""
        framed = F.max_pool2d(self.frame.enter(mask[None, None]), self._denoiser.downscale)
        around = F.pad(framed, (beyond, beyond, 0, 0), mode="circular" if self._wrap else "constant")
        grown = F.max_pool2d(F.pad(around, (0, 0, beyond, beyond)), 2 * beyond + 1, stride=1)
        return (grown[0, 0] > 0).float()


def changing(mask: Tensor | None, regions: Sequence[Region] | None, size: tuple[int, int]) -> Tensor | None:
    """Where an image may change, (H, W) in [0, 1]: in the mask, and in a region if only these count."""
    if mask is not None:
        expect(tuple(mask.shape) == size, "mask", f"the image's size {size}", tuple(mask.shape))
        expect(bool(mask.any()), "mask", "pixels that may change", "none")
    areas = [region.area for region in regions or ()]
    parts = [torch.stack(areas).amax(dim=0)] if areas else []
    parts += [] if mask is None else [mask]
    return torch.stack(parts).amin(dim=0) if parts else None


def brightest_column(image: Tensor, width: int) -> int:
    """Where on a ring of `width` columns an image (1, 3, H, W) is bright: the crest of its first harmonic.

    Counting windows from here makes an edit of a 360-degree image the same wherever the image begins.
    """
    if image.shape[-1] == 1:
        return 0
    luma = (image[0] * image.new_tensor(LUMA)[:, None, None]).sum(dim=0).mean(dim=0)
    crest = -torch.fft.rfft(luma.double())[1].angle() / (2 * torch.pi)
    return round(float(crest) * width) % width
