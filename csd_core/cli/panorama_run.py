"""What csd-edit-panorama does once its options are good: read, edit, write."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.baselines import sample_panorama, sampling_config
from csd_core.canvas.panorama import Panorama
from csd_core.canvas.regions import Region, mask_files, read_regions
from csd_core.cli.options import PanoramaOptions
from csd_core.cli.run import EditRun, check_ranks, print_notes, replaced_note
from csd_core.editors import prepare_panorama
from csd_core.engine.ranks import current
from csd_core.image_ops import blend
from csd_core.io.files import file_hash
from csd_core.io.images import Picture, check_can_hold, quantise, read_mask, read_picture, write_picture


@dataclass(frozen=True)
class Inputs:
    """The files of the options, read and checked."""

    picture: Picture
    regions: list[Region]
    mask: Tensor | None
    """(H, W) in [0, 1]."""
    sha256: dict[str, str]
    """Path -> hash of each file, as it was when the edit began."""
    notes: list[str]
    """What the output does not keep."""

    @classmethod
    def read(cls, options: PanoramaOptions) -> "Inputs":
        """Read image, mask and regions.

        Raises:
            UserError: one of them cannot be read or does not fit, or the output cannot hold the result.
        """
        files, given, limit = options.sources, options.edit, options.memory.max_pixels
        options.check(*files)
        picture = read_picture(options.image, max_pixels=limit)
        lost = [*picture.notes, *check_can_hold(options.output, picture)]
        mask, regions = None, []
        if given.mask:
            mask = torch.from_numpy(read_mask(given.mask, size=picture.size, max_pixels=limit))
        if given.regions:
            regions = read_regions(given.regions, picture.size, wrap=given.wrap, max_pixels=limit)
            files += mask_files(given.regions)
            options.check(*files)
        return cls(picture, regions, mask, {str(path): file_hash(path) for path in files}, lost)


def run(options: PanoramaOptions) -> None:
    """Read, edit and write."""
    ranks = current()
    check_ranks(options, ranks)
    inputs = ranks.broadcast(lambda: Inputs.read(options))
    print_notes(notes(options, inputs), ranks)
    this = EditRun.start("csd-edit-panorama", options, inputs.sha256, ranks)
    with this.denoiser.count_evaluations() as evaluations:
        edited, settings = (sample if options.is_sampled else optimise)(this, options, inputs)
    total = ranks.total(evaluations.count)
    if edited is not None:
        with this.keeping_the_edit():
            write_edited(options.output, inputs.picture, edited)
        this.conclude(settings, total)


def sample(this: EditRun, options: PanoramaOptions, inputs: Inputs) -> tuple[Tensor, dict[str, Any]]:
    """Edit by a baseline; the image (1, 3, H, W), and settings for the manifest."""
    preset, given = this.denoiser.presets["panorama"], options.edit
    config = sampling_config(preset, **given.sampling(options.memory.chunk_size))
    image = inputs.picture.to_tensor()[None]
    edited = sample_panorama(
        options.method, this.denoiser, image, options.prompt, config, stride=given.stride
    )
    return blend(image, edited.cpu(), inputs.mask), {"sampling": vars(config)}


def optimise(this: EditRun, options: PanoramaOptions, inputs: Inputs) -> tuple[Tensor | None, dict[str, Any]]:
    """Edit by the method, or with --dry-run print what it takes; as sample, the image on rank 0 alone."""
    given = options.edit
    panorama = prepare_panorama(
        this.denoiser,
        inputs.picture.to_tensor()[None],
        options.prompt if options.prompt.strip() else None,
        given.settings(options.memory.chunk_size),
        method=options.method,
        source_prompt=given.source_prompt,
        num_steps=given.num_steps,
        stride=given.stride,
        regions=inputs.regions,
        mask=inputs.mask,
        wrap=given.wrap,
    )
    if options.writing.dry_run:
        this.print_plan(panorama, describe(panorama))
        return None, {}
    write = partial(write_canvas, panorama, inputs.picture)
    canvas = this.edit(panorama, write, write)
    edited = panorama.finish(canvas) if this.ranks.is_main else None
    return edited, {"edit": vars(panorama.edit), "windows": panorama.num_particles}


def write_canvas(panorama: Panorama, picture: Picture, path: Path, canvas: Tensor) -> None:
    """A canvas as an image file."""
    write_edited(path, picture, panorama.finish(canvas))


def write_edited(path: Path, picture: Picture, edited: Tensor) -> None:
    """An edited image (1, 3, H, W) with depth, alpha and metadata of the source."""
    write_picture(path, picture.with_pixels(quantise(edited[0].cpu(), picture.pixels.dtype)))


def notes(options: PanoramaOptions, inputs: Inputs) -> Iterator[str]:
    """What a user may have overlooked."""
    yield from inputs.notes
    if inputs.picture.is_full_sphere and not options.edit.wrap and not options.is_sampled:
        yield "this is a 360-degree image; with --wrap its left and right ends will fit together"
    if options.edit.mask and options.output.suffix.lower() in (".jpg", ".jpeg"):
        yield "JPEG is lossy: outside the mask pixels change a little; .png or .tif keeps them exactly"
    yield from replaced_note(options)


def describe(panorama: Panorama) -> list[tuple[str, str]]:
    """Canvas, windows and steps of an edit: names and figures."""
    edit, windows = panorama.edit, panorama.windows
    height, width = panorama.frame.canvas_size
    moves = f"a pixel moves in {windows.updates(edit.num_steps):.1f} of them"
    return [
        ("canvas", f"{width} x {height} pixels, {windows.width} x {windows.height} latents"),
        ("windows", f"{windows.num_particles} of {windows.window} x {windows.window} latents"),
        ("steps", f"{edit.num_steps} with {edit.batch_size} windows each: {moves}"),
    ]
