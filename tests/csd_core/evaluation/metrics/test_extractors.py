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


def load(model: Path | str, **given: Any) -> ClipExtractor:
    return ClipExtractor.from_pretrained(str(model), device="cpu", **given)


def pictures(count: int = 3, height: int = 40, width: int = 56) -> list[Tensor]:
    drawn = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
    return list((drawn * 255).round() / 255)


def plain_clip(folder: Path, **settings: Any) -> Any:
    """The model by open_clip alone."""
    import open_clip
    from safetensors.torch import load_file

    model: Any = open_clip.CLIP(**CLIP_CONFIG["model_cfg"], **settings).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))
    return model


def test_features_are_those_of_open_clip(clip_folder: Path, extractor: ClipExtractor) -> None:
    """By its own transform of a PIL image and its own tokenizer, called by hand."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    model = plain_clip(clip_folder)
    settings = PreprocessCfg(size=32, **CLIP_CONFIG["preprocess_cfg"])
    transform: Any = image_transform_v2(settings, is_train=False)
    shown = [Image.fromarray((p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for p in pictures()]
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a photo", "a sketch"])
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(p) for p in shown]))
        texts = model.encode_text(tokens)
    assert torch.allclose(extractor.images(pictures()), images, atol=1e-5)
    assert torch.allclose(extractor.texts(["a photo", "a sketch"]), texts, atol=1e-5)


def test_pictures_of_any_sizes_and_batches(clip_folder: Path, extractor: ClipExtractor) -> None:
    mixed = [*pictures(1), *pictures(1, 20, 90), *pictures(1, 8, 8)]
    assert extractor.images(mixed).shape == (3, 16)
    single = load(clip_folder, batch_size=1)
    assert torch.allclose(single.images(iter(mixed)), extractor.images(mixed), atol=1e-6)
    with pytest.raises(UserError, match="at least one"):
        extractor.images([])


def test_a_batch_of_pictures_is_held_at_a_time(clip_folder: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def stream() -> Iterator[Tensor]:
        nonlocal most
        for _ in range(9):
            picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(len(alive)))
            alive.append(weakref.ref(picture))
            most = max(most, sum(known() is not None for known in alive))
            yield picture

    assert len(load(clip_folder, batch_size=2).images(stream())) == 9
    assert most <= 4  # a batch, and the one before until its name is taken


def test_features_are_read_back(clip_folder: Path, tmp_path: Path) -> None:
    cached = load(clip_folder, cache=tmp_path)
    fresh = cached.images(pictures())
    (first, *others) = sorted(tmp_path.glob("*/*.npy"))
    assert len(others) == 2
    np.save(first, np.full(16, 7, np.float32))
    again = cached.images(pictures())
    poisoned = (again == 7).all(dim=1)
    assert int(poisoned.sum()) == 1
    assert torch.equal(again[~poisoned], fresh[~poisoned])
    other = tiny_clip(tmp_path / "other", seed=1)  # another model does not read them
    assert torch.equal(load(other, cache=tmp_path).images(pictures()), load(other).images(pictures()))
    assert load(other).identity != cached.identity


def test_a_checkpoint_of_torch(clip_folder: Path, extractor: ClipExtractor, tmp_path: Path) -> None:
    torch.save(plain_clip(clip_folder).state_dict(), tmp_path / "model.pt")
    given = load(clip_folder, weights=tmp_path / "model.pt")
    assert torch.equal(given.images(pictures()), extractor.images(pictures()))
    assert "model.pt" in given.name


def refused(model: Path | str, **given: Any) -> str:
    with pytest.raises(UserError) as error:
        load(model, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoints_of_something_else(clip_folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    path = tmp_path / "other.pt"
    for content in ([1, 2], {"layer": torch.zeros(1)}, {"state_dict": Bomb()}):
        torch.save(content, path)
        message = refused(clip_folder, weights=path)
        assert "other.pt: expected weights" in message
        assert len(message) < 600
    assert not (tmp_path / "executed").exists()
    other = tiny_clip(tmp_path / "wide", embed_dim=24)
    message = refused(clip_folder, weights=other / "open_clip_model.safetensors")
    assert "size mismatch" in message or "shape" in message


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("ViT-B-33", {}, "near it are ViT-B-32"),
        ("ViT-B-32/nonsense", {}, "openai"),
        ("ViT-B-32", {"weights": Path("/nowhere.pt")}, "/nowhere.pt"),
        ("ViT-bigG-14", {"local_files_only": True}, "not in the local cache"),
        ("ViT-bigG-14", {"local_files_only": True}, "--clip mini"),
        ("hf-hub:nobody/nothing", {"local_files_only": True}, "not in the local cache"),
    ],
)
def test_models_that_are_not_available(model: str, given: dict[str, Any], message: str) -> None:
    assert message in refused(model, **given)


def test_folders_of_something_else(tmp_path: Path) -> None:
    assert "open_clip_config.json" in refused(tmp_path)
    config = tiny_clip(tmp_path) / "open_clip_config.json"
    for model in (7, {"embed_dim": 16}, {**CLIP_CONFIG["model_cfg"], "other": 1}):
        config.write_text(json.dumps({**CLIP_CONFIG, "model_cfg": model}))
        assert "expected" in refused(tmp_path)
    config.write_text("[]")
    assert "model_cfg" in refused(tmp_path)


@pytest.mark.parametrize("local", [True, False])
def test_a_tag_brings_its_preprocessing_and_activation(
    local: bool, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's cache, with and without leave to ask the hub; OpenAI's weights need QuickGELU."""
    import huggingface_hub.constants
    import open_clip
    from open_clip.pretrained import _PRETRAINED

    mean = (0.1, 0.2, 0.3)
    tag = {"url": "", "hf_hub": "nobody/tiny/", "mean": mean, "std": (1.0, 1.0, 1.0), "quick_gelu": True}
    monkeypatch.setitem(_PRETRAINED, "tiny", {"first": {}, "random": tag})
    (tmp_path / "tiny.json").write_text(json.dumps(CLIP_CONFIG["model_cfg"]))
    open_clip.add_model_config(tmp_path)
    stored = tmp_path / "models--nobody--tiny"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("abc")
    shutil.copytree(clip_folder, stored / "snapshots" / "abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    ours = load("tiny", local_files_only=local)
    shown = torch.stack(pictures(3, 32, 32))
    with torch.no_grad():
        expected = plain_clip(clip_folder, quick_gelu=True).encode_image(
            shown - torch.tensor(mean)[:, None, None]
        )
    assert torch.allclose(ours.images(shown), expected, atol=1e-5)
    assert ours.name == "tiny (random)"


def test_the_scorer_that_ships(extractor: ClipExtractor) -> None:
    scorer = load("mini")
    assert (scorer.name, scorer.label, extractor.label) == ("mini scorer", "scorer", "CLIP")
    assert extractor.unknown_words("a fox") == []
    assert scorer.unknown_words("a fox in the Snow") == ["fox"]
    texts = scorer.texts(["a photo of a fox in the snow", "a photo in the snow", "a photo at night"])
    alike = torch.cosine_similarity(texts[:1], texts[1:])
    assert float(alike[0]) > float(alike[1])
