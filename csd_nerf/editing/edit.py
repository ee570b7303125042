"""The edit of a round's views: together by score distillation, or a single view by sampling.

The only module of csd_nerf that loads an editor and passes images to it. Images are (3, H, W) in [0, 1], of
any size each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from csd_core.engine.config import EditConfig
from csd_core.engine.ranks import ALONE, Ranks
from csd_nerf.editing.progress import RunProgress
from csd_nerf.editing.views import pad_to_one_shape

if TYPE_CHECKING:
    from csd_core.denoisers.base import Denoiser
    from csd_nerf.csd_datamanager import CSDDataManagerConfig


@dataclass(frozen=True)
class Editing:
    """What a round edits with, the same on all ranks."""

    denoiser: "Denoiser"
    prompt: str
    settings: EditConfig
    progress: RunProgress
    ranks: Ranks = ALONE


def check_editor(config: "CSDDataManagerConfig") -> str | None:
    """Check that the editor exists, download it; a note where it was not trained on the prompt.

    Raises:
        UserError: the model is unknown or incomplete.
    """
    from csd_core.denoisers import families

    folder, _ = families.locate(
        config.model,
        variant=config.model_variant,
        revision=config.model_revision,
        local_files_only=config.model_local_files_only,
    )
    language = families.read_language(folder)
    return families.unknown_prompt_message(config.prompt, language) if language else None


def load_editor(config: "CSDDataManagerConfig", scene: Any) -> "Denoiser":
    """Load the editor; `scene`: the device of the scene.

    Raises:
        UserError: the model cannot be loaded.
    """
    from csd_core.denoisers.families import load_denoiser
    from csd_core.denoisers.runtime.device import as_dtype, resolve_device

    device = resolve_device(scene if config.model_device == "auto" else config.model_device)
    return load_denoiser(
        config.model,
        torch_dtype=as_dtype(config.model_dtype, device),
        device=device,
        compile=config.model_compile,
        offload=config.model_offload,
        variant=config.model_variant,
        revision=config.model_revision,
        local_files_only=config.model_local_files_only,
    )


def edit_together(sources: Sequence[Tensor], starts: Sequence[Tensor], editing: Editing) -> Tensor:
    """Collaborative score distillation; the views are its particles.

    Args:
        sources: the photos, at the size at which they are edited.
        starts: where each edit starts, of the sizes of `sources`.
        editing: editor, instruction, settings.

    Returns:
        (N, 3, H, W) in [0, 1], H and W the largest of `sources`; smaller views lie at the upper left.
    """
    from csd_core.engine.loop import edit_images

    with editing.progress.task("editing", editing.settings.num_steps) as advance:
        return edit_images(
            editing.denoiser,
            pad_to_one_shape(sources),
            editing.prompt,
            editing.settings,
            init=pad_to_one_shape(starts),
            callback=lambda step, canvas: advance(1),
            ranks=editing.ranks,
        )


def edit_by_sampling(
    sources: Sequence[Tensor],
    starts: Sequence[Tensor],
    editing: Editing,
    *,
    steps: int,
    noise_range: tuple[float, float],
) -> Tensor:
    """Instruct-NeRF2NeRF's edit (arXiv:2303.12789, section 4.2): noise the start in part, then denoise it.

    Args:
        sources, starts, editing: as for edit_together.
        steps: denoising steps.
        noise_range: share of the noise schedule at which they begin, sampled uniformly between these two.

    Returns:
        As edit_together.
    """
    from csd_core.baselines import ip2p_renewed
    from csd_core.denoisers.base import SamplingConfig
    from csd_core.image_ops import pad_to_multiple
    from csd_core.method.schedule import step_generator

    settings, (low, high) = editing.settings, noise_range
    share = float(torch.rand((), generator=step_generator(settings.seed, 0, 0)))
    sampling = SamplingConfig(
        steps,
        settings.guidance_scale,
        settings.image_guidance_scale,
        settings.negative_prompt,
        settings.chunk_size,
        settings.seed,
    )
    whole = pad_to_one_shape(sources)
    condition, start = (
        pad_to_multiple(x, editing.denoiser.multiple) for x in (whole, pad_to_one_shape(starts))
    )
    with editing.progress.task("editing", 1) as advance:
        edits = ip2p_renewed(
            editing.denoiser,
            start,
            condition,
            editing.prompt,
            sampling,
            level=low + share * (high - low),
        )
        advance(1)
    return edits[..., : whole.shape[-2], : whole.shape[-1]]
