"""A video: particles are its frames (Sec. 3.3, appendix B.2).

frames   (H, W, 3) uint8, read again whenever they are needed, never all at once
canvas   latents (N, C, h, w) of the frames at the resolution of the edit, all there is in memory of the video
detail   how an edit made at that resolution comes back to H x W
"""

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from csd_core.canvas.detail import DETAIL, Detail, carried
from csd_core.denoisers.base import Conditioning, Denoiser
from csd_core.denoisers.runtime.batching import at_a_time, in_chunks
from csd_core.engine.config import MethodConfig
from csd_core.engine.layout import Stack
from csd_core.engine.loop import encode
from csd_core.engine.prepared import PreparedEdit, with_steps
from csd_core.errors import expect
from csd_core.image_ops import blend, editor_size, pad_to_multiple, resize
from csd_core.io.arrays import Clip
from csd_core.presets import Preset

LARGEST = 16384
"""Short side of an edit, in pixels."""
PREVIEW_FRAMES = 8


MaskFrames = Iterable[np.ndarray]
"""One mask (H, W) in [0, 1] for each frame, from the beginning at every iteration."""


class VideoEdit(PreparedEdit):
    """A video made ready for an edit: checks at once, latents when first asked for.

    Args:
        denoiser: the model.
        clip: the video.
        prompt: the instruction.
        method: settings of the method.
        preset: sets the number of steps where num_steps is None. Default: the model's.
        num_steps: optimisation steps.
        resolution: short side of the edit, in pixels. Default: what the model was trained at.
        masks: where 0, pixels stay exactly.

    Raises:
        UserError: a setting out of range, or no prompt.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        clip: Clip,
        prompt: str,
        method: MethodConfig,
        *,
        preset: Preset | None = None,
        num_steps: int | None = None,
        resolution: int | None = None,
        masks: MaskFrames | None = None,
    ) -> None:
        super().__init__(denoiser)
        self._clip, self._masks = clip, masks
        expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
        expect(clip.num_frames >= 1, "video", "at least one frame", "none")
        least = denoiser.downscale
        short = denoiser.native_size if resolution is None else resolution
        expect(short >= least, "resolution", f"at least {least} pixels", short)
        expect(short <= LARGEST, "resolution", f"at most {LARGEST} pixels", short)
        method.check()
        self.size = editor_size(*clip.size, short)
        """Height and width of the edit, in pixels."""
        self.prompt, self.prompts = prompt, {prompt: [1.0] * clip.num_frames}
        self._stack = Stack(clip.num_frames)
        self.steps_per_round = math.ceil(clip.num_frames / method.batch_size)
        """Steps in which every frame moves once."""
        preset = preset or denoiser.presets["video"]
        self.edit = with_steps(method, preset, num_steps, self.steps_per_round, 1)

    @property
    def layout(self) -> Stack:
        """See PreparedEdit."""
        return self._stack

    @property
    def particle_size(self) -> tuple[int, int]:
        """Height and width of a frame, in latent pixels."""
        pixels, factor = self._denoiser.multiple, self._denoiser.downscale
        height, width = (math.ceil(side / pixels) * pixels // factor for side in self.size)
        return height, width

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of one frame."""
        return self._denoiser.latent_channels, *self.particle_size

    @property
    def nbytes(self) -> int:
        """Bytes of the latents of source, canvas and result."""
        return 3 * 4 * self.num_particles * math.prod(self.latent_shape)

    @cached_property
    def latents(self) -> tuple[Tensor, Conditioning]:
        """See PreparedEdit: N rows each, on the model's device."""
        count, device = self.num_particles, self._denoiser.device
        source, maps = torch.empty(count, *self.latent_shape, device=device), dict[str, Tensor]()
        for chunk, images in self._batches():
            padded = pad_to_multiple(
                torch.cat([resize(x, self.size) for x in images]), self._denoiser.multiple
            )
            source[chunk], condition = encode(self._denoiser, padded, len(padded))
            for name, tensor in condition.tensors.items():
                # all rows at once: parts that are put together in the end would take the memory twice
                whole = maps.setdefault(name, tensor.new_empty(count, *tensor.shape[1:]))
                whole[chunk] = tensor
        return source, Conditioning(count, **maps)

    def decode(self, canvas: Tensor) -> Tensor:
        """Latents (n, C, h, w) as images (n, 3, height, width) at the resolution of the edit."""
        height, width = self.size
        return in_chunks(self._denoiser.decode, self.edit.chunk_size, canvas)[..., :height, :width]

    def finish(self, canvas: Tensor, detail: Detail = DETAIL) -> Iterator[Tensor]:
        """The edited frames one by one, (3, H, W) in [0, 1] on the CPU; where a mask is 0, the source.

        detail: how they come back to their size, see detail.py.
        """
        (source, _), device = self.latents, self._denoiser.device
        masks = iter(self._masks) if self._masks is not None else None
        for chunk, images in self._batches():
            edited = self.decode(canvas[chunk].to(device))
            before = self.decode(source[chunk]) if detail != "none" else edited
            for original, was, now in zip(images, before, edited, strict=True):
                frame = carried(original, was[None], now[None], detail)
                mask = None if masks is None else torch.from_numpy(next(masks)).to(device)
                yield blend(original, frame, mask)[0].cpu()

    def preview(self, canvas: Tensor) -> Tensor:
        """Frames from all over the video side by side, (3, height, PREVIEW_FRAMES * width)."""
        count = min(PREVIEW_FRAMES, self.num_particles)
        some = np.linspace(0, self.num_particles - 1, count).round().astype(int).tolist()
        return torch.cat([self.decode(canvas[k : k + 1])[0] for k in some], dim=-1).cpu()

    def decode_one_tile(self) -> Tensor:
        """Decode as much as is decoded at a time, beside frames at their own size, to see its memory."""
        device, count = self._denoiser.device, min(at_a_time(self.edit.chunk_size), self.num_particles)
        frames = torch.ones(count, 3, *self._clip.size, device=device)
        zeros = torch.zeros(count, *self.latent_shape, device=device)
        edited = self.decode(zeros)
        before = self.decode(zeros)
        return carried(frames[:1], before[:1], edited[:1], DETAIL)

    def _batches(self) -> Iterator[tuple[slice, list[Tensor]]]:
        """The frames as images (1, 3, H, W) in [0, 1] on the device, chunk_size at a time; their numbers."""
        start, frames = 0, self._clip.frames()
        while images := [
            as_image(frame, self._denoiser.device)
            for frame in islice(frames, at_a_time(self.edit.chunk_size))
        ]:
            end = start + len(images)
            yield slice(start, end), images
            images.clear()  # before the next are decoded
            start = end


def as_image(frame: np.ndarray, device: torch.device) -> Tensor:
    """A frame (H, W, 3) uint8 as (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(frame, device=device)
    return pixels.permute(2, 0, 1)[None].float().contiguous() / 255
