"""Networks in the memory of the host, except the one at work: for devices that do not hold all of them."""

from typing import Any

import torch


class Offloaded:
    """Accelerate's hooks on the three networks: each moves to the device when it is called.

    VAE and UNet replace each other on the device, so that previews and further rounds fit, too. The text
    encoder runs once per prompt and is moved back at once.

    Args:
        text_encoder, vae, unet: the networks; they are moved to the host.
        device: where they compute.
    """

    def __init__(self, text_encoder: Any, vae: Any, unet: Any, device: torch.device) -> None:
        from accelerate import cpu_offload_with_hook

        _, self._text_encoder = cpu_offload_with_hook(text_encoder.to("cpu"), device)
        _, self._vae = cpu_offload_with_hook(vae.to("cpu"), device)
        _, self._unet = cpu_offload_with_hook(unet.to("cpu"), device, prev_module_hook=self._vae)
        self._vae.hook.prev_module_hook = self._unet

    def text_encoder_done(self) -> None:
        """Move it back."""
        self._text_encoder.offload()

    def remove(self) -> None:
        """Take the hooks off; the networks stay where they are."""
        for hook in (self._text_encoder, self._vae, self._unet):
            hook.remove()
