"""csd-edit-panorama: edit one image of any size by an instruction."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.canvas.panorama import Borders, Method, Panorama, sample_panorama
from csd_core.canvas.regions import Region, mask_files, read_regions
from csd_core.cli.job import Job, as_table, conclude, forget, hint, load, unfinished
from csd_core.cli.options import EditOptions
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.ranks import Ranks, current
from csd_core.errors import expect
from csd_core.image_ops import blend
from csd_core.io.files import file_hash
from csd_core.io.images import (
    Picture,
    check_can_hold,
    quantise,
    read_mask,
    read_picture,
    write_picture,
)
from csd_core.presets import panorama_preset


@dataclass(kw_only=True)
class PanoramaOptions(EditOptions):
    """Options of csd-edit-panorama."""

    image: Path
    """Image to edit: PNG, JPEG, WebP or TIFF, of any size."""
    num_steps: int | None = None
    """Optimisation steps (for ip2p methods: sampling steps). Default: 200, and more for very large images, so
    that every pixel is reached; fewer with mini."""
    stride: int | None = None
    """Latent pixels from window to window. Smaller: smoother, and more steps. Default: 16; mini 8."""
    regions: Path | None = None
    """JSON list of {"prompt", and "box": [left, top, right, bottom], "strip": [left, right] or
    "mask": "file.png", optionally "guidance_scale"}, in pixels or "25%". --prompt is for the rest of it;
    without one the rest stays."""
    wrap: bool = False
    """Left and right are neighbours: a 360-degree image."""
    method: Method = "csd"
    """csd; or the usual ways, for comparison: the whole image squeezed to the model's size, windows each by
    itself, or overlapping windows averaged at every sampling step (MultiDiffusion)."""
    borders: Borders = "margin"
    """How pixels near borders are edited as much as others: windows reach onto a mirrored margin, or their
    steps are lifted; none: as in the published code."""

    def check(self, *sources: Path) -> None:
        """See EditOptions.check."""
        super().check(*sources)
        expect(self.num_steps is None or self.num_steps >= 1, "num_steps", "at least 1", self.num_steps)
        expect(bool(self.prompt.strip()) or self.regions is not None, "prompt", "an instruction", "nothing")
        expect(self.stride is None or self.stride >= 1, "stride", "1 latent pixel or more", self.stride)
        if self.method != "csd":
            for name in ("regions", "wrap", "resume", "preview_every", "dry_run"):
                expect(not getattr(self, name), name, "method csd", self.method)


@dataclass(frozen=True)
class Inputs:
    """What the options name, read and checked."""

    picture: Picture
    regions: list[Region]
    mask: Tensor | None
    """(H, W) in [0, 1]."""
    sha256: dict[str, str]
    """Path -> hash of each file, as it was when the edit began."""

    @classmethod
    def read(cls, options: PanoramaOptions) -> "Inputs":
        """Read image, mask and regions.

        Raises:
            UserError: one of them cannot be read or does not fit, or the output cannot hold the result.
        """
        files = [path for path in (options.image, options.mask, options.regions) if path]
        options.check(*files)
        picture = read_picture(options.image, max_pixels=options.max_pixels)
        check_can_hold(options.output, picture)
        mask, regions = None, []
        limit = options.max_pixels
        if options.mask:
            mask = torch.from_numpy(read_mask(options.mask, size=picture.size, max_pixels=limit))
        if options.regions:
            regions = read_regions(options.regions, picture.size, wrap=options.wrap, max_pixels=limit)
            files += mask_files(options.regions)
            options.check(*files)
        return cls(picture, regions, mask, {str(path): file_hash(path) for path in files})


def edit_panorama(options: PanoramaOptions) -> None:
    """Edit one image of any size by an instruction: overlapping windows, edited so that they agree."""
    ranks = current()
    options.check_ranks(ranks, options.method)
    inputs = ranks.from_main(lambda: Inputs.read(options))
    hint(hints(options, inputs), ranks)
    denoiser = load(options, ranks)
    edit = run_csd if options.method == "csd" else run_sampling
    begun = time.perf_counter()
    with denoiser.count_evaluations() as evaluations:
        edited, settings = edit(options, inputs, denoiser, ranks)
    total = ranks.total(evaluations.count)
    if edited is None:
        return
    write_edited(options.output, inputs.picture, edited)
    conclude("csd-edit-panorama", options, inputs.sha256, settings, total, begun, ranks)
    if options.method == "csd":
        forget(options)


Outcome = tuple[Tensor | None, dict[str, Any]]


def run_sampling(options: PanoramaOptions, inputs: Inputs, denoiser: InstructPix2Pix, _: Ranks) -> Outcome:
    """Edit by one of the usual ways; the image (1, 3, H, W), and settings for the manifest."""
    given = {**options.sampling_settings(), "num_inference_steps": options.num_steps}
    sampling = panorama_preset(denoiser).with_sampling(**given)
    image = inputs.picture.to_tensor()[None]
    edited = sample_panorama(options.method, denoiser, image, options.prompt, sampling, stride=options.stride)
    return blend(image, edited.cpu(), inputs.mask), {"sampling": vars(sampling)}


def run_csd(options: PanoramaOptions, inputs: Inputs, denoiser: InstructPix2Pix, ranks: Ranks) -> Outcome:
    """Edit by CSD, or with --dry-run say what it takes; the image (1, 3, H, W), and its settings.

    The image is rank 0's; the others have None.
    """
    panorama = prepare(options, inputs, denoiser)
    write = partial(write_canvas, panorama, inputs)
    job = Job(panorama, options, inputs.sha256, write, write, ranks)
    if options.dry_run:
        if ranks.is_main:
            print(as_table([*describe(panorama), *job.plan(denoiser)]))
        return None, {}
    canvas = job.run()
    return panorama.finish(canvas) if ranks.is_main else None, {
        "edit": vars(panorama.edit),
        "windows": panorama.num_particles,
    }


def prepare(options: PanoramaOptions, inputs: Inputs, denoiser: InstructPix2Pix) -> Panorama:
    """The edit that the options ask for; see Panorama."""
    preset = panorama_preset(denoiser)
    return Panorama(
        denoiser,
        inputs.picture.to_tensor()[None],
        options.prompt if options.prompt.strip() else None,
        preset.with_edit(**options.edit_settings()),
        preset,
        num_steps=options.num_steps,
        stride=options.stride,
        regions=inputs.regions,
        mask=inputs.mask,
        wrap=options.wrap,
        borders=options.borders,
    )


def write_canvas(panorama: Panorama, inputs: Inputs, path: Path, canvas: Tensor) -> None:
    """A canvas as an image file."""
    write_edited(path, inputs.picture, panorama.finish(canvas))


def write_edited(path: Path, picture: Picture, edited: Tensor) -> None:
    """An edited image (1, 3, H, W) with depth, alpha and metadata of the source."""
    write_picture(path, picture.with_pixels(quantise(edited[0].cpu(), picture.pixels.dtype)))


def hints(options: PanoramaOptions, inputs: Inputs) -> Iterator[str]:
    """What a user may have overlooked."""
    if inputs.picture.is_full_sphere and not options.wrap and options.method == "csd":
        yield "this is a 360-degree image; with --wrap its left and right ends will fit together"
    if options.mask and options.output.suffix.lower() in (".jpg", ".jpeg"):
        yield "JPEG is lossy: outside the mask pixels change a little; .png or .tif keeps them exactly"
    replaced = options.method == "csd" and not options.resume and not options.dry_run
    if replaced and (found := unfinished(options)).is_file():
        yield f"{found} is an unfinished edit, which this one replaces; --resume would go on with it"


def describe(panorama: Panorama) -> list[tuple[str, str]]:
    """Canvas, windows and steps of an edit: names and what to say of them."""
    edit, windows = panorama.edit, panorama.windows
    height, width = panorama.frame.canvas_size
    moves = f"a pixel moves in {windows.updates(edit.num_steps):.1f} of them"
    return [
        ("canvas", f"{width} x {height} pixels, {windows.width} x {windows.height} latents"),
        ("windows", f"{windows.num_particles} of {windows.window} x {windows.window} latents"),
        ("steps", f"{edit.num_steps} with {edit.batch_size} windows each: {moves}"),
    ]


def main() -> int:
    """Entry point of csd-edit-panorama."""
    return run_command(PanoramaOptions, edit_panorama, several_ranks=True)


if __name__ == "__main__":
    sys.exit(main())
