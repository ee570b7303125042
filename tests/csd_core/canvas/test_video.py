import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csd_core.canvas import video as module
from csd_core.canvas.detail import DETAIL, Detail
from csd_core.canvas.video import PREVIEW_FRAMES, VideoEdit, as_image
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.loop import edit_images
from csd_core.errors import UserError
from csd_core.image_ops import resize
from csd_core.io.images import quantise
from tests.conftest import DOWNSCALE
from tests.csd_core.canvas.quick import SIZE, moving, video

SPLIT_ERROR = 1e-5


def finished(edit: VideoEdit, canvas: Tensor, detail: Detail = DETAIL) -> Tensor:
    return torch.stack(list(edit.finish(canvas, detail)))


def images(frames: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


# Sizes


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((45, 61), None, (32, 43)),
        ((20, 30), None, (32, 48)),
        ((45, 61), 6, (6, 8)),
        ((1, 1), 5, (5, 5)),
        ((3, 40), 4, (4, 53)),
    ],
)
def test_frames_are_edited_at_the_resolution_and_come_back_in_their_size(
    denoiser: InstructPix2Pix, size: tuple[int, int], resolution: int | None, expected: tuple[int, int]
) -> None:
    edit = video(denoiser, moving(3, size), resolution=resolution, num_steps=1)
    assert edit.size == expected
    assert edit.latent_shape == (4, -(-expected[0] // DOWNSCALE), -(-expected[1] // DOWNSCALE))
    source, condition = edit.latents
    assert source.shape == condition.tensors["image"].shape == (3, *edit.latent_shape)
    assert edit.nbytes == 3 * source.nbytes  # and what the condition takes
    canvas = edit.run()
    assert canvas.shape == source.shape
    assert edit.decode(canvas).shape == (3, 3, *expected)
    for detail in ("none", "guided"):
        edited = finished(edit, canvas, detail)
        assert edited.shape == (3, 3, *size)
        assert edited.dtype == torch.float32
        assert 0 <= edited.min() <= edited.max() <= 1


# The method


@pytest.mark.parametrize("resolution", [45, 33])
def test_it_is_the_edit_of_images_that_agree(denoiser: InstructPix2Pix, resolution: int) -> None:
    frames = moving()
    edit = video(denoiser, frames, resolution=resolution, num_steps=4)
    edited = finished(edit, edit.run(), "none")
    expected = edit_images(denoiser, resize(images(frames), edit.size), "red", edit.edit)
    expected = F.interpolate(expected, size=SIZE, mode="bilinear")
    torch.testing.assert_close(edited, expected, rtol=0, atol=SPLIT_ERROR)
    assert (edited - images(frames)).abs().mean() > 0.02


def test_no_more_is_evaluated_at_a_time_than_allowed(denoiser: InstructPix2Pix) -> None:
    sizes: dict[str, list[int]] = {"unet": [], "encoder": [], "decoder": []}
    pipeline: Any = denoiser.pipeline()
    networks = {"unet": pipeline.unet, "encoder": pipeline.vae.encoder, "decoder": pipeline.vae.decoder}
    hooks = [
        network.register_forward_pre_hook(lambda _, args, name=name: sizes[name].append(len(args[0])))
        for name, network in networks.items()
    ]
    edit = video(denoiser, moving(7), given={"chunk_size": 3}, num_steps=1)
    finished(edit, edit.run())
    edit.decode_one_tile()
    for hook in hooks:
        hook.remove()
    assert all(max(found) == 3 for found in sizes.values())
    assert sizes["encoder"] == [3, 3, 1]  # once for source and condition


def test_without_svgd_a_frame_is_edited_as_if_it_were_alone(denoiser: InstructPix2Pix) -> None:
    """Frame 0 has the noise of frame 0 in a video of one frame; the others have noise of their own."""
    given = {"mixing": False, "batch_size": 6}
    together, alone = (video(denoiser, moving()[:n], given=given, num_steps=3).run() for n in (6, 1))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=SPLIT_ERROR)
    same = video(denoiser, [moving()[0]] * 2, given=given, num_steps=3).run()
    assert (same[0] - same[1]).abs().max() > 0.01


def test_one_frame_is_plain_score_distillation(denoiser: InstructPix2Pix) -> None:
    edits = [video(denoiser, moving(1), given={"mixing": mixing}, num_steps=3) for mixing in (True, False)]
    canvases = [edit.run() for edit in edits]
    assert torch.equal(*canvases)
    assert (canvases[0] - edits[0].latents[0]).abs().max() > 0.1


# Never the whole video


class Counted:
    """A clip that counts its arrays, and how many are alive of those that `track` was given."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self._frames = frames
        self.num_frames, self.size = len(frames), frames[0].shape[:2]
        self.begun = self.most = self.given = 0
        self._alive: list[weakref.ref[Any]] = []

    def frames(self) -> Iterator[np.ndarray]:
        self.begun += 1
        for k in range(self.num_frames):
            self.given += 1
            yield self.track(self._frames[k].copy())

    def track(self, made: Any) -> Any:
        self._alive = [ref for ref in self._alive if ref() is not None] + [weakref.ref(made)]
        self.most = max(self.most, len(self._alive))
        return made

    def alive(self) -> int:
        return sum(ref() is not None for ref in self._alive)


@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize("detail", ["none", "guided"])
def test_only_a_batch_of_frames_is_in_memory(
    denoiser: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch, chunk_size: int, detail: Detail
) -> None:
    clip, whole = Counted(moving(15, (20, 30))), Counted(moving(15, (20, 30)))
    monkeypatch.setattr(module, "as_image", lambda frame, device: whole.track(as_image(frame, device)))
    edit = video(denoiser, clip, given={"chunk_size": chunk_size}, resolution=12, num_steps=1)
    assert clip.begun == 0  # nothing is decoded before it is needed
    gc.disable()  # what waits for the garbage collector is in memory, too
    try:
        _ = edit.latents
        assert clip.begun == 1
        _ = edit.latents
        canvas = edit.run()
        assert clip.begun == 1  # they are computed once
        assert clip.alive() <= 1
        edited = sum(1 for _ in edit.finish(canvas, detail))
    finally:
        gc.enable()
    assert (edited, clip.begun, clip.given) == (15, 2, 30)
    assert clip.most <= 2  # as arrays: one, and the one after it
    assert whole.most <= chunk_size + 1  # as images
    assert whole.alive() == clip.alive() == 0


# Detail and mask


@pytest.mark.parametrize("size", [SIZE, (20, 30)])
@pytest.mark.parametrize("detail", ["residual", "guided"])
def test_without_an_edit_frames_come_back_exactly(
    denoiser: InstructPix2Pix, size: tuple[int, int], detail: Detail
) -> None:
    frames = moving(size=size)
    edit = video(denoiser, frames, given={"chunk_size": 4})
    for frame, kept in zip(frames, edit.finish(edit.latents[0], detail), strict=True):
        np.testing.assert_array_equal(quantise(kept, np.uint8), frame)
    lost = finished(edit, edit.latents[0], "none")  # what this autoencoder loses is much
    assert (lost - images(frames)).abs().mean() > 0.05


@pytest.mark.parametrize("detail", ["none", "guided"])
def test_each_frame_has_its_mask(denoiser: InstructPix2Pix, detail: Detail) -> None:
    masks = [np.zeros(SIZE, np.float32) for _ in range(6)]
    for k, mask in enumerate(masks):
        mask[5 * k : 5 * k + 10], mask[5 * k + 10 : 5 * k + 15] = 1, 0.25
    frames = moving()
    edit, free = video(denoiser, frames, masks=masks, num_steps=3), video(denoiser, frames, num_steps=3)
    canvas = edit.run()
    assert torch.equal(canvas, free.run())  # masks are applied at the end
    source, unmasked, edited = images(frames), *(finished(job, canvas, detail) for job in (free, edit))
    chosen = torch.from_numpy(np.stack(masks))[:, None].expand_as(source)
    assert torch.equal(edited[chosen == 0], source[chosen == 0])
    assert torch.equal(edited[chosen == 1], unmasked[chosen == 1])
    soft = chosen == 0.25
    torch.testing.assert_close(edited[soft], (0.75 * source + 0.25 * unmasked)[soft])
    assert torch.equal(finished(edit, canvas, detail), edited)  # masks start again
    assert (edited[chosen == 1] - source[chosen == 1]).abs().mean() > 0.01


# Previews


@pytest.mark.parametrize(("count", "shown"), [(3, [0, 1, 2]), (15, [0, 2, 4, 6, 8, 10, 12, 14]), (1, [0])])
def test_a_preview_shows_frames_from_all_over(
    denoiser: InstructPix2Pix, count: int, shown: list[int]
) -> None:
    edit = video(denoiser, moving(count))
    canvas = edit.latents[0]
    strip = edit.preview(canvas)
    assert len(shown) <= PREVIEW_FRAMES
    assert strip.shape == (3, 32, 43 * len(shown))
    torch.testing.assert_close(strip, torch.cat([edit.decode(canvas)[k] for k in shown], dim=-1))


# Bad input


def test_bad_input_is_reported_at_once(denoiser: InstructPix2Pix) -> None:
    with pytest.raises(UserError, match="video: expected at least one frame, got none"):
        video(denoiser, [])
    with pytest.raises(UserError, match="resolution: expected at least 4 pixels, got 3"):
        video(denoiser, resolution=3)
    with pytest.raises(UserError, match="resolution: expected at most 16384 pixels, got 100"):
        video(denoiser, resolution=10**30)
