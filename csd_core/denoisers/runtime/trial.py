"""One tiny evaluation of a model that was just loaded: do its parts fit together, are its weights numbers?"""

from contextlib import nullcontext

import torch
from torch import Tensor

from csd_core.denoisers.base import Denoiser, Guidance
from csd_core.denoisers.runtime.loading import FETCH_AGAIN
from csd_core.errors import UserError

_SIDE = 8
"""Of the image, in multiples of the model's."""


@torch.no_grad()
def check_runs(denoiser: Denoiser, name: str) -> None:
    """Encode, predict and decode once, through the contract alone; milliseconds.

    Raises:
        UserError: a part gives NaN, infinity or another shape than the contract says.
        Exception: what the libraries raise where parts do not fit each other.
    """
    side = _SIDE * denoiser.multiple
    ramp = torch.linspace(0, 1, 3 * side * side, device=denoiser.device).view(1, 3, side, side)
    latents = denoiser.encode(ramp)
    condition = denoiser.encode_condition(ramp, latents)
    branch = denoiser.guided({}, 1, Guidance(guidance_scale=1.0, image_guidance_scale=1.5))[-1]
    t = torch.full((1,), denoiser.schedule.timestep(0.5), device=denoiser.device)
    # its compiled form is of other shapes
    with torch.compiler.set_stance("force_eager") if denoiser.compiled else nullcontext():
        predicted = denoiser.predict_noise(latents, t, denoiser.conditioning(branch, condition))
    small = side // denoiser.downscale
    shape = (1, denoiser.latent_channels, small, small)
    _check(latents, shape, "encode", name)
    _check(predicted, shape, "predict noise", name)
    _check(denoiser.decode(latents), tuple(ramp.shape), "decode", name)


def _check(result: Tensor, shape: tuple[int, ...], what: str, name: str) -> None:
    fits = tuple(result.shape) == shape
    if fits and bool(result.isfinite().all()):
        return
    got = "NaN or infinity" if fits else f"shape {tuple(result.shape)}, not {shape}"
    raise UserError(
        f"model {name!r}: expected weights that {what}, got {got}: its files are damaged or do not belong "
        f"together; {FETCH_AGAIN}"
    )
