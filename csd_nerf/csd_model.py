"""nerfacto, built without network, rendered without depth and normals, its schedules continued."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal
from unittest import mock

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.field_components.field_heads import FieldHeadNames
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from csd_nerf.console import CONSOLE
from csd_nerf.nerfstudio_compat.contraction import speed_up_contraction
from csd_nerf.nerfstudio_compat.hash_encoding import speed_up
from csd_nerf.nerfstudio_compat.lpips import LPIPS_CLASS, LazyLPIPS
from csd_nerf.runs.checkpoint import take_shown_appearance

Implementation = Literal["tcnn", "torch"]

_SAMPLER_STATE = ("_anneal", "_step", "_steps_since_update")


@dataclass
class CSDModelConfig(NerfactoModelConfig):
    """nerfacto's settings."""

    _target: type = field(default_factory=lambda: CSDModel)
    use_appearance_embedding: bool = False
    """Let each photo have an appearance of its own, where exposure changes from photo to photo."""
    appearance_embed_dim: int = 4
    """Numbers of an appearance: few, so that it can hold the exposure and not the scene."""


class CSDModel(NerfactoModel):
    """nerfacto, which needs no network to be built and can render colour alone."""

    config: CSDModelConfig

    steps_before: int = 0
    """Steps that the loaded weights were trained before this run's step 0."""

    def populate_modules(self) -> None:
        """Build the scene on tinycudann where it imports on a CUDA device, otherwise in torch."""
        asked = self.config.implementation
        self.config.implementation = choose_implementation(asked, self.kwargs.get("device", "cpu"))
        with mock.patch(LPIPS_CLASS, LazyLPIPS):
            super().populate_modules()
        if self.field.embedding_appearance is not None:
            # zeros: renders use the average appearance, which training with random ones never shows
            torch.nn.init.zeros_(self.field.embedding_appearance.embedding.weight)
        self.register_load_state_dict_pre_hook(lambda _, weights, *rest: take_shown_appearance(weights))
        moves_cameras = self.config.camera_optimizer.mode != "off"
        speed_up(self, follow_points=moves_cameras or self.config.predict_normals)
        speed_up_contraction(self)

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """nerfacto's schedules of the proposal networks, continued from the step of the loaded weights."""

        def shifted(func: Callable[..., None]) -> Callable[..., None]:
            return lambda step: func(step=step + self.steps_before)

        callbacks = super().get_training_callbacks(training_callback_attributes)
        for callback in callbacks:
            callback.func = shifted(callback.func)
        return callbacks

    def sampler_state(self) -> dict[str, Any]:
        """State of the proposal networks' schedules as plain data; renders depend on it."""
        sampler = self.proposal_sampler
        return {name: float(getattr(sampler, name)) for name in _SAMPLER_STATE}

    def load_sampler_state(self, state: dict[str, Any]) -> None:
        """Restore sampler_state()."""
        for name in _SAMPLER_STATE:
            setattr(self.proposal_sampler, name, state[name])

    @torch.no_grad()
    def render_rgb(self, rays: RayBundle) -> Tensor:
        """Colours (n, 3) in [0, 1] of n rays, without depth and normals. Training is not affected."""
        sampler, training = self.proposal_sampler, self.training
        steps_since_update = sampler._steps_since_update
        self.eval()
        try:
            bundle = self.collider(rays) if self.collider is not None else rays
            samples, _, _ = sampler(bundle, density_fns=self.density_fns)
            outputs = self.field(samples)
            weights = samples.get_weights(outputs[FieldHeadNames.DENSITY])
            return self.renderer_rgb(rgb=outputs[FieldHeadNames.RGB], weights=weights)
        finally:
            self.train(training)
            sampler._steps_since_update = steps_since_update

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """nerfacto's metrics; without LPIPS where its weights are not available."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        if math.isnan(metrics["lpips"]):
            del metrics["lpips"]
        return metrics, images


@cache
def choose_implementation(asked: Implementation, device: Any) -> Implementation:
    """tcnn where it imports on a CUDA device, otherwise torch. Prints which, once."""
    on_cuda = torch.device(device).type == "cuda"
    if asked == "tcnn" and on_cuda and TCNN_EXISTS:
        CONSOLE.print("The scene runs on tinycudann.")
        return "tcnn"
    if asked != "torch":
        reason = "tinycudann does not import" if on_cuda else "no CUDA device"
        CONSOLE.print(f"The scene runs on torch ({reason}).")
    return "torch"
