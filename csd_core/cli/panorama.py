"""csd-edit-panorama: edit one image of any size by an instruction."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from csd_core.choices import PanoramaMethod
from csd_core.cli.options import EditOptions, MethodOptions
from csd_core.command import run_command
from csd_core.errors import expect


@dataclass(kw_only=True)
class PanoramaMethodOptions(MethodOptions):
    """Settings of the edit. Those left out suit the model."""

    stride: int | None = None
    """Latent pixels from window to window. Smaller: smoother, and more steps. Default: 16; mini 8."""
    regions: Path | None = None
    """JSON list of {"prompt", and "box": [left, top, right, bottom], "strip": [left, right] or
    "mask": "file.png", optionally "guidance_scale"}, in pixels or "25%". --prompt is for the rest;
    without one the rest stays."""
    mask: Path | None = None
    """Grey image of the input's size: black stays exactly as it is, white is edited, grey is in between."""
    wrap: bool = False
    """Left and right are neighbours: a 360-degree image."""

    def check(self) -> None:
        """See MethodOptions.check."""
        super().check()
        expect(self.stride is None or self.stride >= 1, "stride", "1 latent pixel or more", self.stride)


@dataclass(kw_only=True)
class PanoramaOptions(EditOptions):
    """Options of csd-edit-panorama."""

    image: Path
    """Image to edit: PNG, JPEG, WebP or TIFF, of any size."""
    output: Path
    """File to write. A file of this name is replaced when the edit is done, not before."""
    prompt: str = ""
    """The instruction, such as "make it snowy"."""
    method: PanoramaMethod = "csd"
    """csd; for comparison without the exchange between windows (no-svgd), with another baseline (sds, dds),
    the whole image resized to the model's size (ip2p-resize), windows one by one (ip2p-patch), or overlapping
    windows averaged at every sampling step (ip2p-overlap: MultiDiffusion)."""
    edit: PanoramaMethodOptions = field(default_factory=PanoramaMethodOptions)

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        super().check(*sources)
        given = bool(self.prompt.strip()) or self.edit.regions is not None
        expect(given, "prompt", "an instruction", "nothing")
        if self.is_sampled:
            for name in ("regions", "wrap"):
                expect(
                    not getattr(self.edit, name), name, "a method that optimises, such as csd", self.method
                )

    @property
    def sources(self) -> list[Path]:
        """The files that are read."""
        return [path for path in (self.image, self.edit.mask, self.edit.regions) if path]


def edit_panorama(options: PanoramaOptions) -> None:
    """Edit one image of any size by an instruction: overlapping windows, edited so that they agree."""
    options.check()
    from csd_core.cli.panorama_run import run

    run(options)


def main() -> int:
    """Entry point of csd-edit-panorama."""
    return run_command(PanoramaOptions, edit_panorama, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
