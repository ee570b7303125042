import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_core.errors import UserError
from csd_core.evaluation.metrics.extractors import ClipExtractor
from tests.csd_core.evaluation.drawn import CLIP_CONFIG, tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def extractor(folder: Path) -> ClipExtractor:
    return ClipExtractor.from_pretrained(str(folder), device="cpu")


def pictures(count: int = 3, height: int = 40, width: int = 56) -> list[Tensor]:
    drawn = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
    return list((drawn * 255).round() / 255)


def test_features_are_those_of_open_clip(folder: Path, extractor: ClipExtractor) -> None:
    """By its own transform of a PIL image and its own tokenizer, called by hand."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import load_file

    model: Any = open_clip.CLIP(**CLIP_CONFIG["model_cfg"]).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    settings = PreprocessCfg(size=32, **CLIP_CONFIG["preprocess_cfg"])
    transform: Any = image_transform_v2(settings, is_train=False)
    shown = [Image.fromarray((p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for p in pictures()]
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a photo", "a sketch"])
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(p) for p in shown]))
        texts = model.encode_text(tokens)
    assert torch.allclose(extractor.images(pictures()), images, atol=1e-5)
    assert torch.allclose(extractor.texts(["a photo", "a sketch"]), texts, atol=1e-5)


def test_features_do_not_depend_on_the_batch(folder: Path, extractor: ClipExtractor) -> None:
    single = ClipExtractor.from_pretrained(str(folder), device="cpu", batch_size=1)
    assert torch.allclose(single.images(iter(pictures())), extractor.images(pictures()), atol=1e-6)


def test_pictures_of_any_sizes(extractor: ClipExtractor) -> None:
    mixed = [*pictures(1), *pictures(1, 20, 90), *pictures(1, 8, 8)]
    assert extractor.images(mixed).shape == (3, 16)
    with pytest.raises(UserError, match="at least one"):
        extractor.images([])


def test_features_are_read_back(folder: Path, tmp_path: Path) -> None:
    cached = ClipExtractor.from_pretrained(str(folder), device="cpu", cache=tmp_path)
    fresh = cached.images(pictures())
    (first, *others) = sorted(tmp_path.glob("*/*.npy"))
    assert len(others) == 2
    np.save(first, np.full(16, 7, np.float32))
    again = cached.images(pictures())
    poisoned = (again == 7).all(dim=1)
    assert int(poisoned.sum()) == 1
    assert torch.equal(again[~poisoned], fresh[~poisoned])


def test_features_of_another_model_are_not_read_back(folder: Path, tmp_path: Path) -> None:
    ClipExtractor.from_pretrained(str(folder), device="cpu", cache=tmp_path / "c").images(pictures())
    other = tiny_clip(tmp_path / "other", seed=1)
    cached = ClipExtractor.from_pretrained(str(other), device="cpu", cache=tmp_path / "c")
    plain = ClipExtractor.from_pretrained(str(other), device="cpu")
    assert torch.equal(cached.images(pictures()), plain.images(pictures()))
    assert cached.identity != ClipExtractor.from_pretrained(str(folder), device="cpu").identity


def test_a_checkpoint_of_torch(folder: Path, extractor: ClipExtractor, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "model.pt"
    torch.save(load_file(folder / "open_clip_model.safetensors"), path)
    given = ClipExtractor.from_pretrained(str(folder), weights=path, device="cpu")
    assert torch.equal(given.images(pictures()), extractor.images(pictures()))
    assert "model.pt" in given.name


def test_a_pickle_is_not_executed(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match=r"bomb\.pt"):
        ClipExtractor.from_pretrained(str(folder), weights=tmp_path / "bomb.pt", device="cpu")
    assert not (tmp_path / "executed").exists()


def refused(model: str, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        ClipExtractor.from_pretrained(model, device="cpu", **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_of_another_architecture(folder: Path, tmp_path: Path) -> None:
    other = tiny_clip(tmp_path / "wide", embed_dim=24)
    said = refused(str(folder), weights=other / "open_clip_model.safetensors")
    assert "size mismatch" in said or "shape" in said


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("ViT-B-33", {}, "near it are ViT-B-32"),
        ("ViT-B-32/nonsense", {}, "openai"),
        ("ViT-B-32", {"weights": Path("/nowhere.pt")}, "/nowhere.pt"),
        ("ViT-bigG-14", {"local_files_only": True}, "not in the local cache"),
        ("ViT-bigG-14", {"local_files_only": True}, "--clip mini"),
        ("hf-hub:nobody/nothing", {"local_files_only": True}, "not in the local cache"),
    ],
)
def test_models_that_are_not_available(model: str, given: dict[str, Any], said: str) -> None:
    assert said in refused(model, **given)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    assert "open_clip_config.json" in refused(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("[]")
    (tmp_path / "open_clip_model.safetensors").write_text("")
    assert "model_cfg" in refused(str(tmp_path))


@pytest.mark.parametrize("model", [7, {"embed_dim": 16}, {**CLIP_CONFIG["model_cfg"], "other": 1}])
def test_a_config_of_something_else(model: Any, tmp_path: Path) -> None:
    folder = tiny_clip(tmp_path)
    (folder / "open_clip_config.json").write_text(json.dumps({**CLIP_CONFIG, "model_cfg": model}))
    assert "expected" in refused(str(folder))


@pytest.mark.parametrize("content", [[1, 2], {"layer": torch.zeros(1)}])
def test_a_checkpoint_of_something_else(content: Any, folder: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    said = refused(str(folder), weights=tmp_path / "other.pt")
    assert "other.pt: expected weights" in said
    assert len(said) < 600


def test_a_batch_of_pictures_is_held_at_a_time(folder: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def stream() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(9):
            picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(len(alive)))
            alive.append(weakref.ref(picture))
            most = max(most, sum(known() is not None for known in alive))
            yield picture

    by_two = ClipExtractor.from_pretrained(str(folder), device="cpu", batch_size=2)
    assert len(by_two.images(stream())) == 9
    assert most <= 4  # a batch, and the one before until its name is taken


@pytest.mark.parametrize("local", [True, False])
def test_a_tag_brings_its_preprocessing_and_activation(
    local: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's cache, with and without leave to ask the hub; OpenAI's weights need QuickGELU."""
    import huggingface_hub.constants
    import open_clip
    from open_clip.pretrained import _PRETRAINED
    from safetensors.torch import load_file

    mean = (0.1, 0.2, 0.3)
    tag = {"url": "", "hf_hub": "nobody/tiny/", "mean": mean, "std": (1.0, 1.0, 1.0), "quick_gelu": True}
    monkeypatch.setitem(_PRETRAINED, "tiny", {"first": {}, "random": tag})
    (tmp_path / "tiny.json").write_text(json.dumps(CLIP_CONFIG["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    stored = tmp_path / "models--nobody--tiny"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("abc")
    shutil.copytree(folder, stored / "snapshots" / "abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    ours = ClipExtractor.from_pretrained("tiny", device="cpu", local_files_only=local)
    model: Any = open_clip.CLIP(**CLIP_CONFIG["model_cfg"], quick_gelu=True).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    shown = torch.stack(list(pictures(3, 32, 32)))
    with torch.no_grad():
        expected = model.encode_image(shown - torch.tensor(mean)[:, None, None])
    assert torch.allclose(ours.images(shown), expected, atol=1e-5)
    assert ours.name == "tiny (random)"


def test_the_scorer_that_ships(extractor: ClipExtractor) -> None:
    scorer = ClipExtractor.from_pretrained("mini", device="cpu")
    assert (scorer.name, scorer.label) == ("mini scorer", "scorer")
    assert extractor.label == "CLIP"
    assert extractor.unknown_words("a fox") == []
    assert scorer.unknown_words("a fox in the Snow") == ["fox"]
    texts = scorer.texts(["a photo of a fox in the snow", "a photo in the snow", "a photo at night"])
    alike = torch.cosine_similarity(texts[:1], texts[1:])
    assert float(alike[0]) > float(alike[1])
