"""Edits sets of images that must agree with each other (Collaborative Score Distillation, arXiv:2307.04787).

Importing this package loads neither diffusers nor nerfstudio: its public names are fetched at first use.
"""

from importlib import import_module

_HOME = {
    "UserError": "errors",
    "NonFiniteError": "errors",
    "KernelConfig": "method.svgd",
    "csd_gradient": "method.csd",
    "csd_edit_gradient": "method.csd",
    "Schedule": "method.schedule",
    "VariancePreserving": "method.schedule",
    "RectifiedFlow": "method.schedule",
    "Denoiser": "denoisers.base",
    "Conditioning": "denoisers.base",
    "load_denoiser": "denoisers.families",
    "EditConfig": "engine.config",
    "edit_images": "engine.loop",
    "edit_latents": "engine.loop",
    "InstructPix2Pix": "denoisers.instruct_pix2pix",
    "PanoramaEditor": "editors",
    "VideoEditor": "editors",
    "Region": "canvas.regions",
}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
