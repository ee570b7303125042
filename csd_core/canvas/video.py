"""A video: particles are its frames (Sec. 3.3, appendix B.2).

frames   (H, W, 3) uint8, read anew whenever they are needed, never all at once
canvas   latents (N, C, h, w) of the frames at the resolution of the edit, all there is in memory of the video
detail   how an edit made at that resolution comes back to H x W
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from csd_core.baselines import SamplingConfig, check_settings, ip2p_frames
from csd_core.canvas.detail import DETAIL, Detail, carried
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.batching import at_a_time, in_chunks
from csd_core.engine.config import EditConfig
from csd_core.engine.layout import Stack
from csd_core.engine.prepared import PreparedEdit
from csd_core.engine.progress import ProgressBar
from csd_core.errors import expect
from csd_core.image_ops import blend, editor_size, pad_to_multiple, resize
from csd_core.presets import Preset, scheduled

Method = Literal["csd", "ip2p-frame", "sds", "dds", "no-svgd"]

VARIANTS: dict[str, dict[str, object]] = {
    "csd": {},
    "sds": {"baseline": "noise"},
    "dds": {"baseline": "prompt"},
    "no-svgd": {"mixing": False},
}
"""How the methods that optimise differ. Table 3 leaves out SVGD (no-svgd) or the image baseline (sds)."""

PREVIEW_FRAMES = 8


class Clip(Protocol):
    """What a video has to be; io.videos.Video is one."""

    @property
    def num_frames(self) -> int:
        """N."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        ...

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, (H, W, 3) uint8, from the beginning at every call."""
        ...


Masks = Iterable[np.ndarray]
"""One mask (H, W) in [0, 1] for each frame, from the beginning at every iteration."""


class VideoEdit(PreparedEdit):
    """A video made ready for an edit: checks at once, latents when first asked for.

    Args:
        denoiser: the model.
        clip: the video.
        prompt: the instruction.
        edit: settings; its num_steps and lr_decay_every are replaced, see scheduled.
        preset: says how many steps are enough where num_steps is None.
        num_steps: optimisation steps.
        resolution: short side of the edit, in pixels. Default: what the model was trained at.
        detail: how the edit comes back to the frames' own size, see detail.py.
        masks: where 0, pixels stay exactly.

    Raises:
        UserError: a setting out of range, or no prompt.
    """

    def __init__(
        self,
        denoiser: InstructPix2Pix,
        clip: Clip,
        prompt: str,
        edit: EditConfig,
        preset: Preset,
        *,
        num_steps: int | None = None,
        resolution: int | None = None,
        detail: Detail = DETAIL,
        masks: Masks | None = None,
    ) -> None:
        super().__init__(denoiser)
        self._clip, self._masks = clip, masks
        self._detail: Detail = detail
        expect(bool(prompt.strip()), "prompt", "an instruction", "nothing")
        expect(clip.num_frames >= 1, "video", "at least one frame", "none")
        known = get_args(Detail)
        expect(detail in known, "detail", f"one of {', '.join(known)}", detail)
        least = denoiser.downscale
        short = denoiser.native_size if resolution is None else resolution
        expect(short >= least, "resolution", f"at least {least} pixels", short)
        edit.check()
        self.size = editor_size(*clip.size, short)
        """Height and width of the edit, in pixels."""
        self.frames = Frames(clip.num_frames, edit.batch_size)
        self.prompt, self.prompts = prompt, {prompt: [1.0] * clip.num_frames}
        self.edit = scheduled(edit, self.frames, preset, num_steps)
        self.edit.check()

    @property
    def layout(self) -> "Frames":
        """See PreparedEdit."""
        return self.frames

    @property
    def particle_size(self) -> tuple[int, int]:
        """Height and width of a frame, in latent pixels."""
        height, width = (math.ceil(side / self._denoiser.downscale) for side in self.size)
        return height, width

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of one frame."""
        return self._denoiser.latent_channels, *self.particle_size

    @property
    def nbytes(self) -> int:
        """Bytes of what grows with the number of frames: latents of source, condition, canvas and result."""
        return 4 * 4 * self.num_particles * math.prod(self.latent_shape)

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """Source latents and image condition, each (N, C, h, w), on the model's device. Computed once."""
        condition = torch.empty(self.num_particles, *self.latent_shape, device=self._denoiser.device)
        for chunk, images in self._batches():
            padded = pad_to_multiple(
                torch.cat([resize(x, self.size) for x in images]), self._denoiser.downscale
            )
            condition[chunk] = in_chunks(self._denoiser.encode_condition, self.edit.max_batch, padded)
        return self._denoiser.latents_of(condition), condition

    def sample(self, config: SamplingConfig, *, progress: bool = False) -> Tensor:
        """A canvas of frames edited each by itself, all from the same noise, by diffusers' pipeline."""
        check_settings(self._denoiser, config)
        condition = self.latents[1]
        with ProgressBar(self.num_particles, None, progress, unit="frame") as report:

            def done(frame: int) -> None:
                report(frame, condition)

            return ip2p_frames(self._denoiser, condition, self.prompt, config, callback=done)

    def decode(self, canvas: Tensor) -> Tensor:
        """Latents (n, C, h, w) as images (n, 3, height, width) at the resolution of the edit."""
        height, width = self.size
        return in_chunks(self._denoiser.decode, self.edit.max_batch, canvas)[..., :height, :width]

    def finish(self, canvas: Tensor, detail: Detail | None = None) -> Iterator[Tensor]:
        """The edited frames one by one, (3, H, W) in [0, 1] on the CPU; where a mask is 0, the source.

        detail: how they come back to their size. Default: as the edit was made ready.
        """
        detail = self._detail if detail is None else detail
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
        device, count = self._denoiser.device, min(at_a_time(self.edit.max_batch), self.num_particles)
        frames = torch.ones(count, 3, *self._clip.size, device=device)
        zeros = torch.zeros(count, *self.latent_shape, device=device)
        edited = self.decode(zeros)
        before = self.decode(zeros) if self._detail != "none" else edited
        return carried(frames[:1], before[:1], edited[:1], self._detail)

    def _batches(self) -> Iterator[tuple[slice, list[Tensor]]]:
        """The frames as images (1, 3, H, W) in [0, 1] on the device, max_batch at a time; their numbers."""
        start, frames = 0, self._clip.frames()
        while images := [
            as_image(frame, self._denoiser.device) for frame in islice(frames, at_a_time(self.edit.max_batch))
        ]:
            end = start + len(images)
            yield slice(start, end), images
            images.clear()  # before the next are decoded
            start = end


class Frames(Stack):
    """The layout of frames: a stack, each of which moves once a round."""

    def __init__(self, num_particles: int, batch_size: int) -> None:
        super().__init__(num_particles)
        self.steps_per_round = math.ceil(num_particles / batch_size)
        """Steps until every frame was drawn once."""

    def steps_for(self, updates: float) -> int:
        """Steps in which every frame moves that often."""
        return math.ceil(updates * self.steps_per_round)


def with_method(
    edit: EditConfig, method: Method, source_prompt: str, *, num_frames: int, scaled: bool
) -> EditConfig:
    """The settings of a method that optimises.

    source_prompt: what the video shows; for dds.
    num_frames: N.
    scaled: fit the learning rate. B particles that share gradients under the median bandwidth move by about
        2 / (B + 1) of what each of them would move by itself.
    """
    expect(method in VARIANTS, "method", f"one of {', '.join(VARIANTS)}", method)
    varied = replace(edit, **VARIANTS[method], source_prompt=source_prompt)  # pyright: ignore[reportArgumentType]
    if method == "no-svgd" and scaled:
        shared = num_frames / math.ceil(num_frames / edit.batch_size)  # by the frames of a step, in the mean
        return replace(varied, learning_rate=edit.learning_rate * 2 / (shared + 1))
    return varied


@dataclass(frozen=True)
class ArrayClip:
    """A video that is in memory."""

    arrays: Sequence[np.ndarray]
    """(H, W, 3) uint8 each, all of one size."""

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.arrays)

    @property
    def size(self) -> tuple[int, int]:
        """H, W."""
        height, width = self.arrays[0].shape[:2]
        return height, width

    def frames(self) -> Iterator[np.ndarray]:
        """See Clip."""
        return iter(self.arrays)


def as_image(frame: np.ndarray, device: torch.device) -> Tensor:
    """A frame (H, W, 3) uint8 as (1, 3, H, W) in [0, 1] on a device."""
    pixels = torch.tensor(frame, device=device)
    return pixels.permute(2, 0, 1)[None].float().contiguous() / 255
