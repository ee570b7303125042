"""Everything that can be known before training starts, in seconds, before anything is written."""

import copy
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from csd_core.errors import UserError, expect
from csd_nerf.console import CONSOLE
from csd_nerf.csd_datamanager import CSDDataManagerConfig
from csd_nerf.csd_model import CSDModelConfig
from csd_nerf.runs.base_run import adopt_architecture, check_same_scene, check_weights_fit
from csd_nerf.runs.checkpoint import STATE, find_checkpoint, read_checkpoint

if TYPE_CHECKING:
    from csd_nerf.csd_trainer import CSDTrainerConfig

_SIZE_TOLERANCE = 2  # pixels that rounding may add when a folder of smaller images is used


def prepare(config: "CSDTrainerConfig") -> None:
    """Check a run and fit its settings to the checkpoint that it starts from, if any. May be called again.

    Raises:
        UserError: in one line what was expected, what came, what to do.
    """
    datamanager = cast(CSDDataManagerConfig, config.pipeline.datamanager)
    _take_prompt_alias(config, datamanager)
    path = find_checkpoint(config.load_dir, config.load_step, config.load_checkpoint)
    checkpoint = None if path is None else read_checkpoint(path)
    check_settings(config, datamanager, checkpoint)
    check_devices(config, datamanager)
    check_writable(config.get_base_dir())
    outputs = check_data(datamanager)
    if path is not None and checkpoint is not None:
        config.load_dir, config.load_step, config.load_checkpoint = None, None, path
        _fit_to_checkpoint(config, path, checkpoint, outputs)
    check_model(datamanager)
    views, batch = len(outputs.image_filenames), datamanager.edit.batch_size
    if views < batch:
        CONSOLE.print(
            f"The capture has {views} training views, fewer than the batch of {batch}: every round edits all."
        )


def _take_prompt_alias(config: "CSDTrainerConfig", datamanager: CSDDataManagerConfig) -> None:
    """nerfstudio's --prompt goes to the model, which knows nothing of it; here it means the instruction."""
    if not config.prompt:
        return
    if datamanager.prompt.strip() not in ("", config.prompt.strip()):
        raise UserError(
            f"two prompts: --prompt {config.prompt!r} and --pipeline.datamanager.prompt "
            f"{datamanager.prompt!r}; give one"
        )
    datamanager.prompt = config.prompt


def check_settings(
    config: "CSDTrainerConfig", datamanager: CSDDataManagerConfig, checkpoint: dict[str, Any] | None
) -> None:
    """Numbers and the prompt. A run that goes on brings its prompt along."""
    resumed = (checkpoint or {}).get(STATE)
    if not datamanager.prompt.strip():
        if resumed is None:
            raise UserError(
                'no prompt: say what to change with --pipeline.datamanager.prompt "make it snowy" '
                "(before the data parser)"
            )
        datamanager.prompt = resumed["edit"]["configured"]["prompt"]
    datamanager.edit.check()
    if datamanager.edit_interval < 1:
        raise UserError(
            f"edit_interval: expected at least 1 step between two rounds, got {datamanager.edit_interval}"
        )
    low, high = datamanager.sampling_range
    expect(0 < low <= high <= 1, "sampling_range", "0 < low <= high <= 1", datamanager.sampling_range)
    expect(datamanager.sampling_steps >= 1, "sampling_steps", "at least 1", datamanager.sampling_steps)
    if datamanager.edit_size is not None and datamanager.edit_size < 8:
        raise UserError(f"edit_size: expected at least 8 pixels, got {datamanager.edit_size}")
    if config.base_steps < 0:
        raise UserError(f"base_steps: expected 0 or more, got {config.base_steps}")
    if checkpoint is None and config.max_num_iterations < config.base_steps:
        raise UserError(
            f"max_num_iterations: expected at least base_steps ({config.base_steps}), for it counts all "
            f"steps of the run, got {config.max_num_iterations}"
        )
    if config.max_num_iterations < 1:
        raise UserError(f"max_num_iterations: expected at least 1, got {config.max_num_iterations}")
    if datamanager.train_num_images_to_sample_from != -1:
        raise UserError("train_num_images_to_sample_from: edits need all views in memory; leave it at -1")
    if datamanager.train_num_rays_per_batch < 2 or datamanager.train_num_rays_per_batch % 2:
        rays = datamanager.train_num_rays_per_batch
        raise UserError(f"train_num_rays_per_batch: expected an even number, at least 2, got {rays}")


def check_devices(config: "CSDTrainerConfig", datamanager: CSDDataManagerConfig) -> None:
    """That what is asked for is there."""
    from csd_core.denoisers.loading import resolve_device

    machine = config.machine
    if machine.device_type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "cuda is asked for, but this machine has no CUDA device; use ns-train csd-nerf2nerf-tiny, or "
            "--machine.device-type cpu --pipeline.model.implementation torch"
        )
    if machine.device_type == "mps" and not torch.backends.mps.is_available():
        raise UserError("mps is asked for, but this machine has none; use --machine.device-type cpu")
    _check_number_of_devices(machine, datamanager)
    if datamanager.model_device != "auto":
        device = resolve_device(datamanager.model_device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"model_device: {device} is asked for, but there are {torch.cuda.device_count()} GPUs"
            )


def _check_number_of_devices(machine: MachineConfig, datamanager: CSDDataManagerConfig) -> None:
    expect(machine.num_machines == 1, "machine.num_machines", "1", machine.num_machines)
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(machine.device_type)
    expected = "at least 1" if there is None else f"1 to {there}, the {machine.device_type} devices here"
    fits = machine.num_devices >= 1 and (there is None or machine.num_devices <= there)
    expect(fits, "machine.num_devices", expected, machine.num_devices)
    if machine.num_devices > 1 and datamanager.model_device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"model_device: expected auto with {machine.num_devices} devices, for each holds an editor "
            f"beside the scene, got {datamanager.model_device}"
        )


def check_writable(folder: Path) -> None:
    """That the folder of the run can be made. Leaves nothing behind."""
    parent = folder.absolute()
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write to {parent}")
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"output folder {folder}: cannot be written ({reason}); choose another --output-dir"
        ) from error


def check_data(datamanager: CSDDataManagerConfig) -> DataparserOutputs:
    """Run the data parser and decode every image once.

    Returns:
        The training split.
    """
    parser_config = copy.deepcopy(datamanager.dataparser)
    if datamanager.data is not None:
        parser_config.data = Path(datamanager.data)
    is_nerfstudio = isinstance(parser_config, NerfstudioDataParserConfig)
    if is_nerfstudio:
        _check_transforms(parser_config.data)
    try:
        parser = parser_config.setup()
        outputs, held_out = (parser.get_dataparser_outputs(split=split) for split in ("train", "val"))
    except Exception as error:  # data parsers assert, index and open files as they go
        raise UserError(f"{parser_config.data}: the capture cannot be read: {_first_line(error)}") from error
    if not outputs.image_filenames:
        raise UserError(f"{parser_config.data}: no view is left for training")
    for split in (outputs, held_out):
        _check_images(split, sizes_of_cameras=is_nerfstudio)
    return outputs


def _check_transforms(data: Path) -> None:
    path = data if data.suffix == ".json" else data / "transforms.json"
    if not path.is_file():
        raise UserError(
            f"--data {data}: no transforms.json; name a capture in nerfstudio's format (ns-process-data "
            "makes one), or name another data parser at the end of the command"
        )
    try:
        frames = json.loads(path.read_text())["frames"]
        names = [path.parent / frame["file_path"] for frame in frames]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a nerfstudio capture ({_first_line(error)})") from error
    if not names:
        raise UserError(f"{path}: it lists no frames")
    _check_image(names[0])  # the data parser opens it to choose a scale


def _check_images(outputs: DataparserOutputs, *, sizes_of_cameras: bool) -> None:
    paths: Sequence[Path] = [*outputs.image_filenames, *(outputs.mask_filenames or [])]
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(_check_image, paths))
    if not sizes_of_cameras:
        return
    cameras = outputs.cameras
    for path, (width, height), camera in zip(
        outputs.image_filenames, sizes, range(len(cameras)), strict=False
    ):
        expected = int(cameras.width[camera]), int(cameras.height[camera])
        if max(abs(width - expected[0]), abs(height - expected[1])) > _SIZE_TOLERANCE:
            raise UserError(
                f"{path}: {width} x {height} pixels, transforms.json says {expected[0]} x {expected[1]}; "
                "mend w and h there, or the image"
            )


def _check_image(path: Path) -> tuple[int, int]:
    """Width and height of an image that decodes."""
    if not path.is_file():
        raise UserError(f"{path}: no such image; put it back, or take its frame out of transforms.json")
    if path.stat().st_size == 0:
        raise UserError(
            f"{path}: an empty file; put the image back, or take its frame out of transforms.json"
        )
    try:
        with Image.open(path) as image:
            image.load()
            return image.size
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error ... for damaged files
        raise UserError(
            f"{path}: a damaged image ({_first_line(error)}); put it back, or take its frame out of "
            "transforms.json"
        ) from error


def check_model(datamanager: CSDDataManagerConfig) -> None:
    """That the editor is there and is an InstructPix2Pix model; a hub id is downloaded now.

    Says so now, before hours of training, when a small editor was not taught the prompt.
    """
    from csd_core.denoisers.loading import locate
    from csd_core.mini_editor.language import read_language, unknown_prompt_message

    folder = locate(
        datamanager.model,
        variant=datamanager.model_variant,
        revision=datamanager.model_revision,
        local_files_only=datamanager.model_local_files_only,
    )
    language = read_language(folder)
    if language and (message := unknown_prompt_message(datamanager.prompt, language)):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _fit_to_checkpoint(
    config: "CSDTrainerConfig", path: Path, checkpoint: dict[str, Any], outputs: DataparserOutputs
) -> None:
    """Take over what belongs to the loaded scene, and count only the steps that are left to do."""
    run = path.parent.parent
    model = cast(CSDModelConfig, config.pipeline.model)
    changes = adopt_architecture(model, run, checkpoint["pipeline"])
    if changes:
        CONSOLE.print(f"The scene is built as in {run}: {', '.join(changes)}.")
    check_same_scene(run, outputs)
    check_weights_fit(run, copy.deepcopy(model), outputs, checkpoint["pipeline"])
    state = checkpoint.get(STATE)
    base_steps = 0 if state is None else state["base_steps"]
    if base_steps == config.base_steps:
        return
    before = config.max_num_iterations
    config.max_num_iterations = max(before - (config.base_steps - base_steps), 0)
    config.base_steps = base_steps
    if config.max_num_iterations == 0:
        raise UserError(
            f"max_num_iterations: {before} leaves no step after the base training that is already done"
        )
    CONSOLE.print(
        f"Base training is already done: {config.max_num_iterations} steps of the {before} remain, "
        "counted from 0."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
