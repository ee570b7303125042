"""Checks a finished run whose scene is to be edited: its method, architecture and cameras.

nerfstudio's config.yml consists of tags for Python objects; here they are read as plain data, nothing is
executed.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.models.nerfacto import NerfactoModelConfig
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor

from csd_core.errors import UserError

# Settings on which shapes and meaning of the weights depend. Losses and schedules stay the new run's.
ARCHITECTURE = (
    *("near_plane", "far_plane", "background_color"),
    *("hidden_dim", "hidden_dim_color", "hidden_dim_transient"),
    *("num_levels", "base_res", "max_res", "log2_hashmap_size", "features_per_level"),
    *("num_proposal_samples_per_ray", "num_nerf_samples_per_ray", "num_proposal_iterations"),
    *("use_same_proposal_network", "proposal_net_args_list", "proposal_initial_sampler"),
    *("use_appearance_embedding", "use_average_appearance_embedding", "appearance_embed_dim"),
    *("predict_normals", "disable_scene_contraction", "average_init_density"),
)
_POSES = "_model.camera_optimizer.pose_adjustment"
_TAG = "tag"


class _PlainLoader(yaml.SafeLoader):
    """Reads Python tags as dicts, lists and strings."""


def _plain(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {_TAG: tag, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return tag


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_model_settings(run: Path) -> dict[str, Any] | None:
    """pipeline.model of a run's config.yml as plain data, its class under "tag"; None without config.yml.

    Raises:
        UserError: config.yml is damaged, or not a nerfstudio run's.
    """
    path = run / "config.yml"
    if not path.is_file():
        return None
    try:
        model = yaml.load(path.read_text(), Loader=_PlainLoader)["pipeline"]["model"]
        return dict(model)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the config of a nerfstudio run ({type(error).__name__})") from error


def adopt_architecture(config: NerfactoModelConfig, run: Path, weights: dict[str, Tensor]) -> list[str]:
    """Give `config` the sizes of the scene that a run trained, so that its weights fit.

    Args:
        config: changed in place.
        run: folder of the run.
        weights: the checkpoint's "pipeline".

    Returns:
        The changes, in words.

    Raises:
        UserError: the run was of another method, or needs tinycudann, which is not available.
    """
    settings = read_model_settings(run) or {}
    method = str(settings.get(_TAG, "")).rsplit(".", 1)[-1].removesuffix("ModelConfig")
    is_nerfacto = any(key.startswith("_model.proposal_networks.") for key in weights)
    if not is_nerfacto or method not in ("", "Nerfacto", "CSD"):
        got = method or "another method"
        raise UserError(
            f"{run}: expected a run of nerfacto, got one of {got}; train one with ns-train nerfacto"
        )
    changes = []
    for name in [name for name in ARCHITECTURE if name in settings]:
        here, there = getattr(config, name), settings[name]
        there = tuple(there) if isinstance(here, tuple) and isinstance(there, list) else there
        alike = (int, float) if isinstance(here, float) else type(here)
        if not isinstance(there, alike):
            expected = f"{name} as {type(here).__name__} in config.yml"
            raise UserError(
                f"{run}: expected {expected}, got {there!r}; write it as it was, or name another run"
            )
        if there != here:
            setattr(config, name, there)
            changes.append(f"{name} {there}")
    if (_POSES in weights) != (config.camera_optimizer.mode != "off"):
        mode = _pose_mode(settings) if _POSES in weights else "off"
        config.camera_optimizer = dataclasses.replace(config.camera_optimizer, mode=mode)
        changes.append(f"camera optimizer {mode}")
    config.implementation = _implementation(run, weights)
    return changes


def _pose_mode(settings: dict[str, Any]) -> Any:
    mode = settings.get("camera_optimizer", {}).get("mode", "SO3xR3")
    return mode if mode != "off" else "SO3xR3"


def _implementation(run: Path, weights: dict[str, Tensor]) -> Any:
    if not any("tcnn_encoding" in key for key in weights):
        return "torch"
    if not (TCNN_EXISTS and torch.cuda.is_available()):
        raise UserError(
            f"{run}: its scene runs on tinycudann, which does not work here; install it on a CUDA "
            "machine, or train the base with --pipeline.model.implementation torch"
        )
    return "tcnn"


def check_same_scene(run: Path, outputs: DataparserOutputs, weights: dict[str, Tensor]) -> None:
    """Compare the views and cameras of the run with those of this one.

    Raises:
        UserError: they differ.
    """
    fix = "give --data and the settings of its data parser as that run had them"
    images = len(outputs.image_filenames)
    embedding = weights.get("_model.field.embedding_appearance.embedding.weight", weights.get(_POSES))
    if embedding is not None and len(embedding) != images:
        trained = f"it was trained on {len(embedding)} views, this data has {images}"
        raise UserError(f"{run}: a run of another scene, or with another choice of views: {trained}; {fix}")
    path = run / "dataparser_transforms.json"
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text())
        same = np.allclose(
            there["transform"], outputs.dataparser_transform.tolist(), atol=1e-4
        ) and np.isclose(there["scale"], float(outputs.dataparser_scale), rtol=1e-4)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__})") from error
    if not same:
        raise UserError(
            f"{run}: a run of another scene, or with other poses: its cameras lie elsewhere; {fix}"
        )
