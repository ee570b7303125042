"""The edits that are timed, and the network alone on the inputs that an edit gave it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from csd_core.baselines import ip2p_overlap, sampling_config
from csd_core.bench import models
from csd_core.bench.config import BenchConfig, ModelName, Size
from csd_core.bench.models import Setup, TimedModel, seeded
from csd_core.bench.timing import Contender
from csd_core.canvas.panorama import Panorama
from csd_core.canvas.video import VideoEdit
from csd_core.engine.config import EditConfig, MethodConfig
from csd_core.engine.loop import edit_latents
from csd_core.engine.plan import count_evaluations
from csd_core.engine.progress import Callback
from csd_core.engine.ranks import ALONE, Ranks
from csd_core.image_ops import resize
from csd_core.method.schedule import step_generator

PROMPT = "make it night"


class Recorder:
    """Remembers how a network is called, and calls it again with nothing around it.

    Of calls alike in shape, type and memory format the inputs of the first are kept, for all of them.

    Args:
        network: the one to watch.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._inputs: dict[object, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._keys: list[object] = []

    @property
    def calls(self) -> list[int]:
        """Rows of each call of the last recording."""
        return [len(self._inputs[key][0][0]) for key in self._keys]

    @property
    def evaluations(self) -> int:
        """Rows of all calls together."""
        return sum(self.calls)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Remember the calls inside the block, and forget those before it."""
        self.clear()
        hook = self._network.register_forward_pre_hook(self._record, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def clear(self) -> None:
        """Forget the calls."""
        self._keys.clear()

    @torch.no_grad()
    def replay(self) -> None:
        """The same calls again, one after the other."""
        for key in tuple(self._keys):  # inside `recording` the calls below are added
            args, kwargs = self._inputs[key]
            self._network(*args, **kwargs)

    @torch.no_grad()
    def replay_rows(self, rows: int, times: int) -> None:
        """So many calls with the first rows of the first call, which is repeated where it has fewer."""
        args, kwargs = self._inputs[self._keys[0]]
        chosen = torch.arange(rows, device=args[0].device) % len(args[0])

        def of(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) else value

        for _ in range(times):
            self._network(*map(of, args), **{name: of(value) for name, value in kwargs.items()})

    def _record(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = (*args, *kwargs.values())
        key = tuple((v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) else v for v in values)
        self._inputs.setdefault(key, (args, kwargs))
        self._keys.append(key)


def short_edit(config: BenchConfig, model: ModelName, setup: Setup) -> "ShortEdit":
    """An edit that is timed whole, so that what is saved later pays for what is spent earlier."""
    pool = min(setup.noise_pool, config.steps // 2)  # each pair is used twice at least
    setup = replace(setup, noise_pool=pool)
    # Random weights: at the learning rates of the presets the latents would diverge.
    edit = EditConfig(num_steps=config.steps, batch_size=config.particles, learning_rate=1.0, noise_pool=pool)
    return ShortEdit(models.load_model(model, config.device, setup), edit)


@dataclass(frozen=True)
class ShortEdit:
    """An edit of random latents, all of them in every step."""

    model: TimedModel
    config: EditConfig

    @cached_property
    def latents(self) -> Tensor:
        """Of the source, where the edit starts: (N, C, h, w)."""
        shape = self.config.batch_size, *self.model.latent_shape
        return seeded(0, shape, self.model.denoiser.device)

    @cached_property
    def recorder(self) -> Recorder:
        """The calls of the network when the edit was run last."""
        return Recorder(self.model.unet)

    @property
    def particle_steps(self) -> int:
        """Steps times particles."""
        return self.config.num_steps * self.config.batch_size

    @property
    def evaluations(self) -> int:
        """Of the whole edit, counted without running it."""
        particles = self.config.batch_size
        return count_evaluations(self.model.denoiser, self.config, {PROMPT: [1.0] * particles}, particles)

    def run(self, callback: Callback | None = None, ranks: Ranks = ALONE) -> Tensor:
        """The edited latents."""
        x, denoiser = self.latents, self.model.denoiser
        images = x.new_zeros(len(x), 3, *(side * denoiser.downscale for side in x.shape[-2:]))
        condition = denoiser.encode_condition(images, x)
        with self.recorder.recording():
            return edit_latents(
                denoiser, x, x, condition, PROMPT, self.config, callback=callback, ranks=ranks
            )

    def warm_up(self) -> None:
        """Two steps, in which the network is compiled and memory allocated."""
        self.run(lambda step, _: step == 1)

    @property
    def engine(self) -> Contender:
        """The edit."""
        return Contender(self.run, self.particle_steps)

    @property
    def network(self) -> Contender:
        """The calls of the network alone."""
        return Contender(self.recorder.replay, self.particle_steps)

    def __str__(self) -> str:
        edit, (_, height, width) = self.config, self.model.latent_shape
        return (
            f"{self.model.name}, {self.model.denoiser.device.type}, {edit.batch_size} particles, "
            f"{edit.num_steps} steps, latents {height} x {width}, {edit.chunk_size} evaluations at a time"
        )


def panorama_edit(model: TimedModel, size: Size) -> Panorama:
    """The edit of a smooth image, as csd-edit-panorama does it by default."""
    method = MethodConfig.from_preset(model.denoiser.presets["panorama"])
    return Panorama(model.denoiser, smooth_image(size), PROMPT, method)


def overlap_steps(model: TimedModel, size: Size, steps: int, callback: Callable[[int], None]) -> None:
    """Some sampling steps of ip2p-overlap on a smooth image."""
    preset = model.denoiser.presets["panorama"]
    sampling = sampling_config(preset, num_inference_steps=steps)
    image = smooth_image(size)
    ip2p_overlap(model.denoiser, image, PROMPT, sampling, stride=preset.stride, callback=callback)


def video_edit(model: TimedModel, frames: int, size: Size) -> VideoEdit:
    """The edit of a synthetic video, as csd-edit-video does it by default."""
    method = MethodConfig.from_preset(model.denoiser.presets["video"])
    return VideoEdit(model.denoiser, SyntheticClip(frames, size), PROMPT, method)


def smooth_image(size: Size) -> Tensor:
    """A random image (1, 3, H, W) in [0, 1] without detail, the same every time."""
    width, height = size
    coarse = torch.rand(1, 3, height // 64 + 2, width // 64 + 2, generator=step_generator(0))
    return resize(coarse, (height, width))


class SyntheticClip:
    """A video whose frames are computed as they are read: a bright square moves over a smooth ground.

    Attributes:
        num_frames: N.
        size: H, W.
    """

    def __init__(self, num_frames: int, size: Size) -> None:
        self.num_frames, self.size = num_frames, (size[1], size[0])

    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 each."""
        height, width = self.size
        side = min(self.size) // 4
        ground = np.linspace(40, 200, width, dtype=np.uint8)[None, :, None].repeat(height, 0).repeat(3, 2)
        for k in range(self.num_frames):
            frame = ground.copy()
            left = 7 * k % (width - side)
            frame[side : 2 * side, left : left + side] = (230, 120, 40)
            yield frame
