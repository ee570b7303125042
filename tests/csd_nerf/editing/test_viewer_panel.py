from types import SimpleNamespace
from typing import Any

from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement
from torch import nn

from csd_nerf.editing.viewer_panel import EditPanel, LiveSettings


def enter(element: Any, value: object) -> None:
    element.gui_handle = SimpleNamespace(value=value)  # viser's handle holds the value that was entered
    element.cb_hook(element)


def test_viewer_finds_four_elements_and_changes_reach_the_settings() -> None:
    live, pressed = LiveSettings("snow", 7.5, 1.5), []
    pipeline = nn.Module()
    pipeline.datamanager = nn.Module()
    pipeline.datamanager.panel = panel = EditPanel(live, lambda: pressed.append(True))
    found = {element.name for _, element in parse_object(pipeline, ViewerElement, "")}
    assert found == {"Prompt", "Guidance scale", "Image guidance scale", "Edit now"}
    enter(panel.prompt, "night")
    enter(panel.guidance_scale, 10.0)
    enter(panel.image_guidance_scale, 2.0)
    panel.edit_now.cb_hook(panel.edit_now)
    assert live == LiveSettings("night", 10.0, 2.0)
    assert pressed == [True]
    panel.show(LiveSettings("snow", 5.0, 3.0))
    assert (panel.prompt.value, panel.guidance_scale.value, panel.image_guidance_scale.value) == (
        "snow",
        5.0,
        3.0,
    )
    assert pipeline.state_dict() == {}
