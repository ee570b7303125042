"""The panel in the training viewer: prompt, both guidance scales, "edit now"."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerNumber, ViewerText
from torch import nn


@dataclass
class LiveSettings:
    """What can be changed while training runs; the next round uses it."""

    prompt: str
    guidance_scale: float
    image_guidance_scale: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        return asdict(self)


class EditPanel(nn.Module):
    """The viewer finds the elements of a panel by walking over the pipeline's modules. It holds no weights.

    Args:
        live: the settings that the panel shows and changes.
        edit_now: called when the button is pressed.
    """

    def __init__(self, live: LiveSettings, edit_now: Callable[[], None]) -> None:
        super().__init__()

        def into(name: str) -> Callable[[Any], None]:
            return lambda element: setattr(live, name, element.value)

        self.prompt = ViewerText("Prompt", live.prompt, cb_hook=into("prompt"))
        self.guidance_scale = ViewerNumber(
            "Guidance scale", live.guidance_scale, cb_hook=into("guidance_scale")
        )
        self.image_guidance_scale = ViewerNumber(
            "Image guidance scale", live.image_guidance_scale, cb_hook=into("image_guidance_scale")
        )
        self.edit_now = ViewerButton("Edit now", cb_hook=lambda _: edit_now())

    def show(self, live: LiveSettings) -> None:
        """Bring the panel to settings that changed elsewhere, as on resuming."""
        self.prompt.value = live.prompt
        self.guidance_scale.value = live.guidance_scale
        self.image_guidance_scale.value = live.image_guidance_scale
