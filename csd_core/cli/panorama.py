"""csd-edit-panorama: edit one image of any size by an instruction."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csd_core.cli.command import run_command
from csd_core.cli.options import EditOptions, beside
from csd_core.cli.watch import Watch
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.errors import NonFiniteError, UserError, expect
from csd_core.images import blend
from csd_core.io.files import file_hash, written_beside
from csd_core.io.images import (
    Picture,
    check_can_hold,
    quantise,
    read_mask,
    read_picture,
    write_picture,
)
from csd_core.machine import describe_machine, versions
from csd_core.panorama import Borders, Method, Panorama, sample_panorama
from csd_core.plan import count_evaluations, measure_evaluation
from csd_core.presets import panorama_preset
from csd_core.regions import Region, mask_files, read_regions
from csd_core.resume import Checkpoint
from csd_core.wording import duration


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
    inputs = Inputs.read(options)
    for hint in hints(options, inputs):
        print(f"note: {hint}", file=sys.stderr)
    denoiser = options.load()
    edit = run_csd if options.method == "csd" else run_sampling
    begun = time.perf_counter()
    with denoiser.count_evaluations() as evaluations:
        edited, settings = edit(options, inputs, denoiser)
    if edited is None:
        return
    write_edited(options.output, inputs.picture, edited)
    seconds = round(time.perf_counter() - begun, 2)
    figures = {"inputs": inputs.sha256, **settings, "evaluations": evaluations.count, "seconds": seconds}
    write_manifest(options, figures)
    if options.method == "csd":
        forget(options)
    print(f"{options.output}: {evaluations.count} evaluations in {duration(seconds)}")


Outcome = tuple[Tensor | None, dict[str, Any]]


def run_sampling(options: PanoramaOptions, inputs: Inputs, denoiser: InstructPix2Pix) -> Outcome:
    """Edit by one of the usual ways; the image (1, 3, H, W), and settings for the manifest."""
    given = {**options.sampling_settings(), "num_inference_steps": options.num_steps}
    sampling = panorama_preset(denoiser).with_sampling(**given)
    image = inputs.picture.to_tensor()[None]
    edited = sample_panorama(options.method, denoiser, image, options.prompt, sampling, stride=options.stride)
    return blend(image, edited.cpu(), inputs.mask), {"sampling": vars(sampling)}


def run_csd(options: PanoramaOptions, inputs: Inputs, denoiser: InstructPix2Pix) -> Outcome:
    """Edit by CSD, or with --dry-run say what it takes; the image (1, 3, H, W), and its settings."""
    panorama = prepare(options, inputs, denoiser)
    if options.dry_run:
        print(describe_plan(panorama, denoiser, options))
        return None, {}
    edited = run(panorama, options, inputs)
    return edited, {"edit": vars(panorama.edit), "windows": panorama.windows.num_particles}


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


def run(panorama: Panorama, options: PanoramaOptions, inputs: Inputs) -> Tensor:
    """Run the edit under watch; the edited image (1, 3, H, W).

    Raises:
        KeyboardInterrupt: someone stopped it; what there is was written beside the output.
        UserError: a step gave NaN; the state before it was written beside the output.
    """
    checkpoint = Checkpoint(unfinished(options), identity(panorama, options, inputs))
    start, canvas = begin(checkpoint, options)
    preview = beside(options.output, "preview")
    show = partial(write_canvas, panorama, inputs, preview)
    watch = Watch(panorama.edit.num_steps, checkpoint, show, options.preview_every)
    with watch.watching(start) as callback:
        try:
            canvas = panorama.run(canvas, start_step=start, callback=callback)
        except NonFiniteError as error:
            partly = beside(options.output, f"step-{error.step}")
            write_canvas(panorama, inputs, partly, error.canvas)
            raise UserError(f"{error} It was written to {partly}.") from error
    if watch.stopped and watch.steps_done < panorama.edit.num_steps:
        partly = beside(options.output, f"step-{watch.steps_done}")
        write_canvas(panorama, inputs, partly, canvas)
        raise KeyboardInterrupt(
            f"stopped after step {watch.steps_done} of {panorama.edit.num_steps}: so far it is {partly}; "
            "the same command with --resume goes on"
        )
    return panorama.finish(canvas)


def unfinished(options: PanoramaOptions) -> Path:
    """Where an edit is kept that is not finished."""
    return beside(options.output, ".unfinished.safetensors")


def forget(options: PanoramaOptions) -> None:
    """Remove what is of no use once the output is written."""
    unfinished(options).unlink(missing_ok=True)
    if options.preview_every:
        beside(options.output, "preview").unlink(missing_ok=True)


def begin(checkpoint: Checkpoint, options: PanoramaOptions) -> tuple[int, Tensor | None]:
    """Steps done and canvas of an edit that was stopped; 0 and None where there is none."""
    if not options.resume:
        return 0, None
    found = checkpoint.load()
    if found is None:
        print(f"nothing to resume at {checkpoint.path}: beginning anew", file=sys.stderr)
        return 0, None
    print(f"going on after step {found[0]}", file=sys.stderr)
    return found


def identity(panorama: Panorama, options: PanoramaOptions, inputs: Inputs) -> dict[str, Any]:
    """What the result hangs on: options, settings that were left open, and the contents of the files."""
    settings = {name: value for name, value in vars(panorama.edit).items() if name != "max_batch"}
    contents = {f"contents of {path}": digest[:16] for path, digest in inputs.sha256.items()}
    return {**options.identity(), **settings, **contents}


def write_canvas(panorama: Panorama, inputs: Inputs, path: Path, canvas: Tensor) -> None:
    """A canvas as an image file."""
    write_edited(path, inputs.picture, panorama.finish(canvas))


def write_edited(path: Path, picture: Picture, edited: Tensor) -> None:
    """An edited image (1, 3, H, W) with depth, alpha and metadata of the source."""
    write_picture(path, picture.with_pixels(quantise(edited[0].cpu(), picture.pixels.dtype)))


def write_manifest(options: PanoramaOptions, figures: dict[str, Any]) -> None:
    """Every setting and figure of an edit, as JSON beside its output."""
    manifest = {
        "command": "csd-edit-panorama",
        "options": options.as_json(),
        **figures,
        "machine": describe_machine(),
        "versions": versions(),
    }
    with written_beside(beside(options.output, ".json")) as fresh:
        fresh.write_text(json.dumps(manifest, indent=1) + "\n")


def hints(options: PanoramaOptions, inputs: Inputs) -> Iterator[str]:
    """What a user may have overlooked."""
    if inputs.picture.is_full_sphere and not options.wrap and options.method == "csd":
        yield "this is a 360-degree image; with --wrap its left and right ends will fit together"
    if options.mask and options.output.suffix.lower() in (".jpg", ".jpeg"):
        yield "JPEG is lossy: outside the mask pixels change a little; .png or .tif keeps them exactly"
    replaced = options.method == "csd" and not options.resume and not options.dry_run
    if replaced and (found := unfinished(options)).is_file():
        yield f"{found} is an unfinished edit, which this one replaces; --resume would go on with it"


def describe_plan(panorama: Panorama, denoiser: InstructPix2Pix, options: PanoramaOptions) -> str:
    """What the edit will take, in words."""
    edit, windows = panorama.edit, panorama.windows
    total = count_evaluations(edit, panorama.prompts, windows.num_particles)
    cost = measure_evaluation(
        denoiser, next(iter(panorama.prompts)), edit.max_batch, panorama.decode_one_tile
    )
    height, width = panorama.frame.canvas_size
    gib = cost.peak_gib + panorama.nbytes / 2**30
    return "\n".join(
        [
            f"canvas        {width} x {height} pixels, {windows.width} x {windows.height} latents",
            f"windows       {windows.num_particles} of {windows.window} x {windows.window} latents",
            f"steps         {edit.num_steps} with {edit.batch_size} windows each: a pixel moves in "
            f"{windows.updates(edit.num_steps):.1f} of them",
            f"evaluations   {total}",
            f"time          about {duration(total * cost.seconds)} "
            f"({cost.seconds:.4f} s an evaluation on {denoiser.device}, mean of two timed batches)",
            f"memory        about {gib:.1f} GiB on {denoiser.device}, canvas included",
        ]
    )


def main() -> int:
    """Entry point of csd-edit-panorama."""
    return run_command(PanoramaOptions, edit_panorama)


if __name__ == "__main__":
    sys.exit(main())
