"""Phases and checkpoints, in this process: real trainers, a tiny scene, a tiny editor."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from nerfstudio.configs.base_config import MachineConfig

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.ranks import Ranks
from csd_core.errors import UserError
from csd_nerf import csd_trainer
from csd_nerf.csd_trainer import CSDTrainerConfig
from csd_nerf.editing.quality import Quality
from csd_nerf.editing.rounds import Rounds
from csd_nerf.nerfstudio_compat.lpips import LazyLPIPS
from csd_nerf.runs.checkpoint import STATE, read_checkpoint
from csd_nerf.runs.checks import prepare
from tests.csd_nerf.conftest import PROMPT, arguments, parse, train, write_capture

BASE_STEPS = 5


@pytest.fixture(scope="module")
def nerfacto_run(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> Path:
    """Folder of a finished run of nerfstudio's own nerfacto, of other sizes than the tiny preset's."""
    from nerfstudio.configs.method_configs import method_configs
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.scripts.train import _set_random_seed

    config: Any = copy.deepcopy(method_configs["nerfacto"])
    config.output_dir, config.timestamp = tmp_path_factory.mktemp("nerfacto"), "run"
    config.vis, config.mixed_precision, config.max_num_iterations = "none", False, BASE_STEPS
    config.machine.device_type = "cpu"
    config.pipeline.datamanager = VanillaDataManagerConfig(
        dataparser=NerfstudioDataParserConfig(), data=capture, train_num_rays_per_batch=128
    )
    model = config.pipeline.model
    model.implementation, model.log2_hashmap_size, model.num_levels = "torch", 9, 3
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (12, 8), 6
    for net in model.proposal_net_args_list:
        net["log2_hashmap_size"] = 8
    _set_random_seed(0)
    with mock.patch("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", LazyLPIPS):
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        trainer.train()
    return config.get_base_dir()


@pytest.fixture(scope="module")
def edited(
    tmp_path_factory: pytest.TempPathFactory, capture: Path, tiny_epsilon: Path, nerfacto_run: Path
) -> Any:
    """The trainer of a run that started from the nerfacto run."""
    out = tmp_path_factory.mktemp("edited")
    words = arguments(capture, out, tiny_epsilon, "--load-dir", str(nerfacto_run / "nerfstudio_models"))
    return train(parse(words))


def test_only_the_scene_of_a_nerfacto_run_is_taken(edited: Any, nerfacto_run: Path) -> None:
    config = edited.config
    assert config.base_steps == 0
    assert config.max_num_iterations == 13 - 4  # what is left of the arguments' 13 steps
    model = config.pipeline.model
    assert (model.num_levels, model.log2_hashmap_size, model.num_nerf_samples_per_ray) == (3, 9, 6)
    assert model.camera_optimizer.mode == "SO3xR3"
    assert edited.model.steps_before == BASE_STEPS
    assert edited.datamanager.rounds_done == 3
    state = read_checkpoint(max(edited.checkpoint_dir.iterdir()))
    assert state["step"] == 8
    assert state[STATE]["base_steps"] == 0


def test_cameras_are_frozen_while_editing(edited: Any, nerfacto_run: Path) -> None:
    before = read_checkpoint(max((nerfacto_run / "nerfstudio_models").iterdir()))["pipeline"]
    key = "_model.camera_optimizer.pose_adjustment"
    assert before[key].abs().max() > 0, "the base run should have moved its cameras"
    assert torch.equal(edited.pipeline.state_dict()[key], before[key])
    assert "camera_opt" not in edited.optimizers.optimizers
    moved = "_model.field.mlp_head.layers.0.weight"
    assert not torch.equal(edited.pipeline.state_dict()[moved], before[moved])


def test_quality_is_measured_before_the_first_edit_and_of_every_round(edited: Any) -> None:
    quality = Quality.read(edited.base_dir)
    assert quality == edited.datamanager.quality
    assert quality.base is not None
    assert 0 < quality.base < 40
    assert [number for number, value in quality.rounds.items() if 0 < value < 60] == ["1", "2", "3"]
    assert [number for number, value in quality.hues.items() if value >= 0] == ["1", "2", "3"]


def test_training_uses_exactly_the_bytes_on_disk(edited: Any) -> None:
    edits = Rounds(edited.base_dir / "edits").read(edited.datamanager.rounds_done)
    batch = next(iter(edited.datamanager.train_image_dataloader))
    seen = dict(zip(batch["image_idx"].tolist(), batch["image"], strict=True))
    assert len(edits) == 10
    for view, edit in edits.items():
        assert torch.equal((seen[view] * 255).round().to(torch.uint8), edit.permute(1, 2, 0))


def test_a_finished_run_is_not_trained_further(
    edited: Any, capture: Path, tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(capture, tmp_path, tiny_epsilon, "--load-dir", str(edited.checkpoint_dir), prompt="")
    again = train(parse(words))
    assert again.config.pipeline.datamanager.prompt == PROMPT
    assert again.config.max_num_iterations == 9
    assert "All 9 steps are done" in capsys.readouterr().out
    for key, value in edited.pipeline.state_dict().items():
        assert torch.equal(value, again.pipeline.state_dict()[key]), key


def test_settings_changed_in_the_viewer_are_resumed(
    edited: Any, capture: Path, tmp_path: Path, tiny_epsilon: Path
) -> None:
    state = edited.datamanager.edit_state()
    state["live"] |= {"prompt": "night", "guidance_scale": 11.0}
    rounds = Rounds(edited.base_dir / "edits")
    manager = copy.copy(edited.datamanager)
    manager.live = dataclasses.replace(edited.datamanager.live)
    manager.config = copy.deepcopy(edited.datamanager.config)
    manager.config.edit.guidance_scale = 3.0  # as if given on the command line
    manager.load_edit_state(state, rounds)
    assert manager.live.prompt == "night"
    assert manager.live.guidance_scale == 3.0


@pytest.mark.parametrize(("views", "radius"), [(11, 4.5), (14, 3.0)])
def test_base_of_another_scene_is_refused(
    nerfacto_run: Path, tmp_path: Path, tiny_epsilon: Path, views: int, radius: float
) -> None:
    other = write_capture(tmp_path / "scene", [(32, 32)] * views, radius=radius)
    words = arguments(other, tmp_path / "out", tiny_epsilon, "--load-dir", str(nerfacto_run))
    with pytest.raises(UserError, match="another scene"):
        prepare(parse(words))
    assert not (tmp_path / "out").exists()


def test_base_of_another_method_is_refused(capture: Path, tmp_path: Path, tiny_epsilon: Path) -> None:
    run = tmp_path / "splat"
    (run / "nerfstudio_models").mkdir(parents=True)
    content = {"step": 9, "pipeline": {"_model.gauss_params.means": torch.zeros(4, 3)}}
    torch.save(content, run / "nerfstudio_models" / "step-000000009.ckpt")
    tag = "!!python/object:nerfstudio.models.splatfacto.SplatfactoModelConfig"
    (run / "config.yml").write_text(f"pipeline:\n  model: {tag}\n    sh_degree: 3\n")
    with pytest.raises(UserError, match="expected a run of nerfacto, got one of Splatfacto"):
        prepare(parse(arguments(capture, tmp_path / "out", tiny_epsilon, "--load-dir", str(run))))


def test_a_checkpoint_without_its_config_that_does_not_fit_is_one_line(
    nerfacto_run: Path,
    capture: Path,
    tmp_path: Path,
    tiny_epsilon: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = Path(shutil.copytree(nerfacto_run / "nerfstudio_models", tmp_path / "base" / "nerfstudio_models"))
    with pytest.raises(SystemExit) as stopped:
        train(parse(arguments(capture, tmp_path, tiny_epsilon, "--load-dir", str(alone))))
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "does not fit" in line


def test_a_state_that_is_not_whole_is_one_line(
    edited: Any, capture: Path, tmp_path: Path, tiny_epsilon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(edited.base_dir, tmp_path / "run"))
    path = max((run / "nerfstudio_models").iterdir())
    content = read_checkpoint(path)
    del content[STATE]["sampler"]
    torch.save(content, path)
    words = arguments(capture, tmp_path / "out", tiny_epsilon, "--load-dir", str(run), "--base-steps", "0")
    with pytest.raises(SystemExit) as stopped:
        train(parse(words))
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"{path}: expected a whole checkpoint, got one that is damaged" in line


def test_sizes_of_a_run_that_are_none_are_refused(
    nerfacto_run: Path, capture: Path, tmp_path: Path, tiny_epsilon: Path
) -> None:
    run = Path(shutil.copytree(nerfacto_run, tmp_path / "base"))
    config = run / "config.yml"
    config.write_text(config.read_text().replace("num_levels: 3", "num_levels: many"))
    with pytest.raises(UserError, match="expected num_levels as int"):
        prepare(parse(arguments(capture, tmp_path / "out", tiny_epsilon, "--load-dir", str(run))))


def test_the_device_of_a_rank_is_set_before_groups_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(Ranks, "joined", lambda: calls.append("groups"))
    config = CSDTrainerConfig(machine=MachineConfig(device_type="cuda"))
    csd_trainer._join(config, 1)
    assert calls == [1, "groups"]


def test_nan_stops_with_the_step_named_and_the_last_state_kept(
    capture: Path,
    tmp_path: Path,
    tiny_epsilon: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict = InstructPix2Pix.predict_noise

    def fail_in_round_2(self: InstructPix2Pix, x_t: torch.Tensor, *rest: Any) -> torch.Tensor:
        failing = (tmp_path / "scene" / "csd-nerf2nerf-tiny" / "run" / "edits" / "round_0001").exists()
        return predict(self, x_t, *rest) * (float("nan") if failing else 1.0)

    monkeypatch.setattr(InstructPix2Pix, "predict_noise", fail_in_round_2)
    with pytest.raises(SystemExit) as stopped:
        train(parse(arguments(capture, tmp_path, tiny_epsilon)))
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "step 0" in line
    run = tmp_path / "scene" / "csd-nerf2nerf-tiny" / "run"
    assert f"--load-dir {run / 'nerfstudio_models'}" in line
    state = read_checkpoint(max((run / "nerfstudio_models").iterdir()))
    assert state[STATE]["next_step"] == 7
    assert state[STATE]["edit"]["rounds_done"] == 1
    assert sorted(path.name for path in (run / "edits").iterdir()) == ["round_0001"]
