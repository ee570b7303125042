"""Checks of a run before training starts, in seconds, before anything is written."""

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from nerfstudio.configs.base_config import MachineConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from csd_core.denoisers.runtime.device import resolve_device
from csd_core.errors import UserError, expect, expect_text
from csd_core.io.files import check_writable
from csd_nerf.console import CONSOLE
from csd_nerf.csd_datamanager import CSDDataManagerConfig
from csd_nerf.editing.edit import check_editor
from csd_nerf.nerfstudio_compat.captures import SmallerPhotosError, reading_captures
from csd_nerf.nerfstudio_compat.transforms import first_line
from csd_nerf.runs.base_run import adopt_architecture, check_same_scene
from csd_nerf.runs.capture import check_views, print_warnings
from csd_nerf.runs.checkpoint import STATE, find_checkpoint, read_checkpoint

if TYPE_CHECKING:
    from csd_nerf.csd_model import CSDModelConfig
    from csd_nerf.csd_trainer import CSDTrainerConfig


def prepare(config: "CSDTrainerConfig") -> None:
    """Check a run and fit its settings to the checkpoint that it starts from, if any. May be called again.

    Raises:
        UserError: one line: what was expected, what was found, what to do.
    """
    datamanager = cast(CSDDataManagerConfig, config.pipeline.datamanager)
    _take_prompt_alias(config, datamanager)
    path = find_checkpoint(config.load_dir, config.load_step, config.load_checkpoint)
    checkpoint = None if path is None else read_checkpoint(path)
    _take_prompt_of_checkpoint(datamanager, checkpoint)
    _check_settings(config, datamanager, is_new=checkpoint is None)
    _check_devices(config.machine, datamanager)
    check_writable(config.get_base_dir() / "config.yml")
    outputs = _check_data(datamanager)
    if path is not None and checkpoint is not None:
        config.load_dir, config.load_step, config.load_checkpoint = None, None, path
        _fit_to_checkpoint(config, path, checkpoint, outputs)
    if unknown_prompt := check_editor(datamanager):
        CONSOLE.print(f"warning: {unknown_prompt}", style="yellow")
    views, batch = len(outputs.image_filenames), datamanager.edit.batch_size
    if views < batch:
        CONSOLE.print(
            f"note: the capture has {views} training views, fewer than the batch of {batch}: every round "
            "edits all."
        )


def _take_prompt_alias(config: "CSDTrainerConfig", datamanager: CSDDataManagerConfig) -> None:
    """Use nerfstudio's --prompt, which it passes to the model, as the instruction."""
    if not config.prompt:
        return
    if datamanager.prompt.strip() not in ("", config.prompt.strip()):
        raise UserError(
            f"two prompts: --prompt {config.prompt!r} and --pipeline.datamanager.prompt "
            f"{datamanager.prompt!r}; give one"
        )
    datamanager.prompt = config.prompt


def _take_prompt_of_checkpoint(datamanager: CSDDataManagerConfig, checkpoint: dict[str, Any] | None) -> None:
    if datamanager.prompt.strip():
        return
    resumed = (checkpoint or {}).get(STATE)
    if resumed is None:
        raise UserError(
            'no prompt: describe the edit with --pipeline.datamanager.prompt "make it snowy" '
            "(before the data parser)"
        )
    datamanager.prompt = resumed["edit"]["configured"]["prompt"]


def _check_settings(config: "CSDTrainerConfig", manager: CSDDataManagerConfig, *, is_new: bool) -> None:
    manager.edit.check()
    for name, text in (("prompt", manager.prompt), ("negative_prompt", manager.edit.negative_prompt)):
        expect_text(name, text)
    low, high = manager.sampling_range
    rays, size = manager.train_num_rays_per_batch, manager.edit_size
    steps, sampled = config.max_num_iterations, manager.train_num_images_to_sample_from
    expect(manager.edit_interval >= 1, "edit_interval", "at least 1 step", manager.edit_interval)
    expect(0 < low <= high <= 1, "sampling_range", "0 < low <= high <= 1", manager.sampling_range)
    expect(manager.sampling_steps >= 1, "sampling_steps", "at least 1", manager.sampling_steps)
    expect(size is None or size >= 8, "edit_size", "at least 8 pixels", size)
    expect(config.base_steps >= 0, "base_steps", "0 or more", config.base_steps)
    expect(steps >= 1, "max_num_iterations", "at least 1", steps)
    all_steps = f"at least base_steps ({config.base_steps}), since it counts all steps of the run"
    expect(not is_new or steps >= config.base_steps, "max_num_iterations", all_steps, steps)
    expect(sampled == -1, "train_num_images_to_sample_from", "-1, since edits need all views", sampled)
    expect(rays >= 2 and rays % 2 == 0, "train_num_rays_per_batch", "an even number, at least 2", rays)


def _check_devices(machine: MachineConfig, datamanager: CSDDataManagerConfig) -> None:
    kind, number = machine.device_type, machine.num_devices
    expect(machine.num_machines == 1, "machine.num_machines", "1", machine.num_machines)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        raise UserError(
            f"machine.device_type: expected a {kind.upper()} device, found none; use ns-train "
            "csd-nerf2nerf-tiny, or --machine.device-type cpu --pipeline.model.implementation torch"
        )
    most = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, number)
    expect(1 <= number <= max(most, 1), "machine.num_devices", f"1 to the number of {kind} devices", number)
    if datamanager.model_device == "auto":
        return
    device, gpus = resolve_device(datamanager.model_device), torch.cuda.device_count()
    if device.type == "cuda":
        expect((device.index or 0) < gpus, "model_device", f"one of {gpus} CUDA devices", device)
    alike = number == 1 or datamanager.model_device in ("cpu", "cuda")
    several = f"auto with {number} devices, since each holds an editor beside the scene"
    expect(alike, "model_device", several, datamanager.model_device)


def _check_data(datamanager: CSDDataManagerConfig) -> DataparserOutputs:
    """Run the data parser, decode every photo and mask once; returns the training split."""
    parser_config = copy.deepcopy(datamanager.dataparser)
    if datamanager.data is not None:
        parser_config.data = Path(datamanager.data)
    outputs, held_out = _parse(parser_config)
    expect(bool(outputs.image_filenames), str(parser_config.data), "a view for training", "none")
    sizes_known = isinstance(parser_config, NerfstudioDataParserConfig | ColmapDataParserConfig)
    for split in (outputs, held_out):
        check_views(split, datamanager.max_pixels, sizes_known=sizes_known)
    print_warnings(outputs, held_out)
    return outputs


def _parse(parser_config: Any) -> tuple[DataparserOutputs, DataparserOutputs]:
    """The training and the held-out views.

    Raises:
        UserError: the capture cannot be read.
    """
    data, parser = parser_config.data, parser_config.setup()
    try:
        with reading_captures():
            train, held_out = (parser.get_dataparser_outputs(split=split) for split in ("train", "val"))
    except SmallerPhotosError as error:
        factor = parser._downscale_factor
        raise UserError(
            f"{data}: expected smaller photos in {parser_config.images_path}_{factor}, found no such folder; "
            f"make it with ns-process-data, or train at 1/{factor} of the size without it: put "
            f"--pipeline.datamanager.camera-res-scale-factor {1 / factor:g} before colmap, and "
            "--downscale-factor 1 after it"
        ) from error
    except UserError:
        raise
    except ZeroDivisionError as error:
        got = "all of them in one; move the camera between photos, or remove photos without a pose"
        raise UserError(f"{data}: expected cameras in several places, got {got}") from error
    except Exception as error:  # data parsers assert, index and open files
        raise UserError(f"{data}: {_why_unreadable(error, parser)}") from error
    return train, held_out


def _why_unreadable(error: Exception, parser: DataParser) -> str:
    reason = first_line(error)
    # nerfstudio raises these two for a camera model that it does not know, and names it in capitals
    if isinstance(error, KeyError | NotImplementedError) and (model := re.search(r"[A-Z][A-Z_]{2,}", reason)):
        return (
            f"expected a camera model that nerfstudio knows, such as PINHOLE or OPENCV, got {model[0]}; "
            "undistort the photos with COLMAP's image_undistorter"
        )
    return (
        f"expected a capture that {type(parser).__name__} reads, got another ({reason}); check the folder, "
        "or name another data parser at the end of the command"
    )


def _fit_to_checkpoint(
    config: "CSDTrainerConfig", path: Path, checkpoint: dict[str, Any], outputs: DataparserOutputs
) -> None:
    """Take over the architecture of the loaded scene, and count only the steps that remain."""
    run = path.parent.parent
    model = cast("CSDModelConfig", config.pipeline.model)
    changes = adopt_architecture(model, run, checkpoint["pipeline"])
    if changes:
        CONSOLE.print(f"note: the scene is built as in {run}: {', '.join(changes)}.")
    check_same_scene(run, outputs, checkpoint["pipeline"])
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
        f"note: base training is already done: {config.max_num_iterations} steps of the {before} remain, "
        "counted from 0."
    )
