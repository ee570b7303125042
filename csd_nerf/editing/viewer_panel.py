"""The panel in the training viewer: prompt, both guidance scales, "edit now"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerNumber, ViewerText
from torch import nn


@dataclass
class LiveSettings:
    """Settings that can be changed while training runs; the next round uses them."""

    prompt: str
    guidance_scale: float
    image_guidance_scale: float


class EditPanel(nn.Module):
    """A module without weights: the viewer looks for panels among the pipeline's modules.

    Args:
        live: the settings that the panel shows and changes.
        edit_now: called when the button is pressed.
    """

    def __init__(self, live: LiveSettings, edit_now: Callable[[], None]) -> None:
        super().__init__()

        def set_live(name: str) -> Callable[[Any], None]:
            return lambda element: setattr(live, name, element.value)

        self.prompt = ViewerText("Prompt", live.prompt, cb_hook=set_live("prompt"))
        self.guidance_scale = ViewerNumber(
            "Guidance scale", live.guidance_scale, cb_hook=set_live("guidance_scale")
        )
        self.image_guidance_scale = ViewerNumber(
            "Image guidance scale", live.image_guidance_scale, cb_hook=set_live("image_guidance_scale")
        )
        self.edit_now = ViewerButton("Edit now", cb_hook=lambda _: edit_now())

    def show(self, live: LiveSettings) -> None:
        """Show settings that changed elsewhere, for example when a run is resumed."""
        self.prompt.value = live.prompt
        self.guidance_scale.value = live.guidance_scale
        self.image_guidance_scale.value = live.image_guidance_scale
