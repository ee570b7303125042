import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import csd_core
from csd_core.denoisers import families, instruct_pix2pix
from csd_core.denoisers.instruct_pix2pix import COMPONENTS
from csd_core.denoisers.runtime.device import resolve_device
from csd_core.errors import UserError
from tests.conftest import NATIVE_SIZE
from tests.models import load


@pytest.fixture
def copy(tiny_epsilon: Path, tmp_path: Path) -> Path:
    """A model folder to be damaged."""
    return Path(shutil.copytree(tiny_epsilon, tmp_path / "model"))


def test_mini_is_the_folder_in_the_package(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = Path(csd_core.__file__).parent
    assert package / "mini_editor" / "weights" == families.MINI_FOLDER
    monkeypatch.setattr(families, "MINI_FOLDER", tiny_epsilon)
    assert load("mini").native_size == NATIVE_SIZE
    monkeypatch.setattr(families, "MINI_FOLDER", tmp_path)
    with pytest.raises(UserError, match="lacks its weights"):
        load("mini")


def test_a_hub_id_is_read_from_the_cache_offline(tiny_epsilon: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    shutil.copytree(tiny_epsilon, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    model = load("owner/name", cache_dir=str(tmp_path), local_files_only=True)
    assert model.native_size == NATIVE_SIZE
    with pytest.raises(UserError, match=r"'owner/name'.*mini"):
        load("owner/name", cache_dir=str(tmp_path), revision="v2", local_files_only=True)


def test_a_variant_is_read_from_its_own_files(copy: Path) -> None:
    for component, stem in COMPONENTS.items():
        if stem:
            (copy / component / f"{stem}.safetensors").rename(copy / component / f"{stem}.fp16.safetensors")
    assert load(copy, variant="fp16").native_size == NATIVE_SIZE
    with pytest.raises(UserError, match=r"expected unet/diffusion_pytorch_model.safetensors, found none"):
        load(copy)


# Bad input: one line, and quickly.


def assert_refused(
    folder: Path | str, match: str, monkeypatch: pytest.MonkeyPatch | None = None, **options: Any
) -> None:
    if monkeypatch is not None:
        monkeypatch.setattr(instruct_pix2pix, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=match) as raised:
        load(str(folder), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["owner/unknown", "unknown", "./no/such/folder", "a/b/c", ""])
def test_an_unknown_model_names_mini_as_the_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_refused(name, '"mini"', monkeypatch, cache_dir=str(tmp_path), local_files_only=True)


def test_an_unreachable_hub_names_mini_as_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    assert_refused("owner/name", r'out of reach \(OSError\).*"mini"', monkeypatch)


def test_a_text_to_image_model_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 4}))
    assert_refused(copy, r"UNet takes 8 channels .*, got one that takes 4.*mini", monkeypatch)


@pytest.mark.parametrize("component", list(COMPONENTS))
def test_a_missing_component_is_named(copy: Path, component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / component)
    assert_refused(copy, f"expected a diffusers folder with {component}/", monkeypatch)


@pytest.mark.parametrize(
    "kind", ["StableDiffusionXLInstructPix2PixPipeline", "FluxKontextPipeline", "StableDiffusionPipeline"]
)
def test_an_unknown_family_is_refused_by_name(copy: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": kind}))
    known = "expected one of StableDiffusionInstructPix2PixPipeline"
    assert_refused(copy, rf"{known}.*, got {kind}; .*mini", monkeypatch)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(tmp_path, "expected a diffusers folder", monkeypatch)


def test_pickled_weights_are_never_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    assert_refused(copy, "unet has pickled weights only", monkeypatch)


def test_broken_json_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "vae" / "config.json").write_text("{")
    assert_refused(copy, r"vae/config.json is not valid JSON", monkeypatch)


def test_another_kind_of_prediction_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    assert_refused(copy, "expected prediction_type epsilon or v_prediction, got 'sample'", monkeypatch)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_truncated_weights_are_named(copy: Path, component: str) -> None:
    path = copy / component / f"{COMPONENTS[component]}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert_refused(copy, f"cannot read {component}")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_weights_of_another_model_are_refused(copy: Path, component: str) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / component / f"{COMPONENTS[component]}.safetensors"
    save_file(dict(list(load_file(path).items())[1:]), path, metadata={"format": "pt"})
    assert_refused(copy, f"the weights of {component} do not fit")


def test_an_absent_device_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(copy, "no CUDA device; use cpu", monkeypatch, device="cuda")
    assert_refused(copy, "expected cpu, cuda or cuda:0, got 'gpu'", monkeypatch, device="gpu")
    assert resolve_device(None) == torch.device("cpu")
