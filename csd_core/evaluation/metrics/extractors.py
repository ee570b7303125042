"""Features of images and captions by models of open_clip, for the measures of clip.py.

One of them is the scorer, a small model that ships with this package (mini_editor/scorer). It was trained on
the mini editor's instructions alone, so its numbers are never labelled CLIP.
"""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csd_core.denoisers.runtime.device import resolve_device
from csd_core.errors import UserError, expect
from csd_core.evaluation.metrics.features_cache import FeaturesCache
from csd_core.io.files import file_hash
from csd_core.io.images import quantise

DEFAULT_CLIP = "ViT-bigG-14"
"""As in the paper (appendix B)."""
DEFAULT_TAGS = {DEFAULT_CLIP: "laion2b_s39b_b160k"}
SCORER = "mini"
SCORER_FOLDER = Path(__file__).parents[2] / "mini_editor" / "scorer"

CONFIG, WEIGHTS, WORDS = "open_clip_config.json", "open_clip_model.safetensors", "words.json"
_WAY_OUT = "give a file with --clip-weights, or use --clip mini, which ships with this package"


@dataclass(frozen=True)
class _Source:
    """The parts of a model, for open_clip."""

    architecture: str
    """The name of its config in open_clip."""
    weights: str
    """A file, or a tag of open_clip."""
    name: str
    identity: str
    preprocess: dict[str, Any] | None = None
    quick_gelu: bool = False
    """The weights were trained with QuickGELU, which open_clip's config of that name may not say."""
    words: frozenset[str] | None = None


class ClipExtractor:
    """Features of images and captions.

    Attributes:
        name: of the model, for reports.
        label: of its numbers: "CLIP", or "scorer" for the model that ships.
        identity: differs wherever features may differ.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Callable[[list[str]], Tensor],
        source: _Source,
        label: str,
        batch_size: int,
        cache: Path | None,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name, self.label, self.identity = source.name, label, source.identity
        self._network, self._tokenizer = network.eval().requires_grad_(False), tokenizer
        settings = PreprocessCfg(**network.visual.preprocess_cfg)
        self._preprocess: Any = image_transform_v2(settings, is_train=False)
        self._device: torch.device = next(network.parameters()).device
        self._words, self._batch_size = source.words, batch_size
        self._cache = FeaturesCache(cache, source.identity) if cache else None

    @classmethod
    def from_pretrained(
        cls,
        model: str = DEFAULT_CLIP,
        *,
        weights: Path | None = None,
        device: str | None = None,
        batch_size: int = 16,
        cache: Path | None = None,
        local_files_only: bool = False,
    ) -> "ClipExtractor":
        """Load a model.

        Args:
            model: a name of open_clip, such as ViT-B-32, or name/tag; hf-hub:owner/name; a folder in the
                layout of open_clip's hub; or mini, the scorer that ships.
            weights: a checkpoint file of that architecture, safetensors or torch's.
            device: None: CUDA where there is one.
            batch_size: images at a time.
            cache: folder where features of images are kept, by hash of image and model.
            local_files_only: do not use the network.

        Raises:
            UserError: an unknown name, or weights that are missing, out of reach or of another architecture.
        """
        import open_clip

        expect(batch_size >= 1, "batch-size", "at least 1", batch_size)
        where = resolve_device(device)
        found = _find(model, weights, local_files_only)
        for package in ("open_clip", "huggingface_hub"):
            logging.getLogger(package).setLevel(logging.ERROR)
        try:
            network: Any = open_clip.create_model(
                found.architecture,
                found.weights,
                device=where,
                force_quick_gelu=found.quick_gelu,
                force_preprocess_cfg=found.preprocess,
            )
            tokenizer = _tokenizer(found.architecture, local_files_only)
        except Exception as error:  # torch, safetensors, the hub, odd configs: each has its own types
            raise UserError(_load_error(found, error)) from error
        label = "scorer" if model == SCORER else "CLIP"
        return cls(network, tokenizer, found, label, batch_size, cache)

    @torch.no_grad()
    def images(self, images: Iterable[Tensor]) -> Tensor:
        """Features of images.

        Args:
            images: (3, H, W) in [0, 1] each, of any sizes; batch_size of them are held at a time.

        Returns:
            (N, D) float32 on the CPU.
        """
        waiting, features = iter(images), []
        while batch := list(islice(waiting, self._batch_size)):
            features += self._batch(batch)
        expect(len(features) > 0, "images", "at least one", "none")
        return torch.stack(features)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features (N, D) of captions, float32 on the CPU."""
        return self._network.encode_text(self._tokenizer(list(texts)).to(self._device)).float().cpu()

    def unknown_words(self, text: str) -> list[str]:
        """Words that the scorer was not trained on, which it ignores; none for other models."""
        if self._words is None:
            return []
        return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in self._words]

    def _batch(self, images: Sequence[Tensor]) -> list[Tensor]:
        """A row for each image, from the cache where it is there."""
        pictures = [quantise(image.detach().cpu(), np.uint8) for image in images]
        rows = [self._cache.read(picture) if self._cache else None for picture in pictures]
        missing = [k for k, row in enumerate(rows) if row is None]
        if missing:
            inputs = torch.stack([self._preprocess(Image.fromarray(pictures[k])) for k in missing])
            fresh = self._network.encode_image(inputs.to(self._device)).float().cpu()
            for k, row in zip(missing, fresh, strict=True):
                rows[k] = row
                if self._cache:
                    self._cache.write(pictures[k], row)
        return [row for row in rows if row is not None]


def _find(model: str, weights: Path | None, local_files_only: bool) -> _Source:
    """The parts of a model, checked as far as possible without loading it."""
    if weights is not None:
        expect(weights.is_file(), "--clip-weights", "a checkpoint file", f"{weights}, which is not there")
    folder = SCORER_FOLDER if model == SCORER else Path(model)
    if folder.is_dir():
        return _in_folder(model, folder, weights)
    if model.startswith("hf-hub:"):
        from csd_core.denoisers.runtime.hub import fetch_from_hub

        repo = model.removeprefix("hf-hub:")
        folder = fetch_from_hub(repo, [CONFIG, WEIGHTS], local_files_only=local_files_only)
        return _in_folder(model, folder, weights)
    return _by_name(model, weights, local_files_only)


def _in_folder(model: str, folder: Path, weights: Path | None) -> _Source:
    import open_clip

    config, stored, words = folder / CONFIG, weights or folder / WEIGHTS, folder / WORDS
    for path in (config, stored):
        expect(path.is_file(), f"{folder}", f"open_clip's layout, with {path.name}", "none")
    try:
        parts = json.loads(config.read_text())
        architecture, preprocess = parts["model_cfg"], dict(parts["preprocess_cfg"])
        whole = {"embed_dim", "vision_cfg", "text_cfg"} <= set(architecture)  # open_clip ignores others
        known = frozenset(json.loads(words.read_text())) if words.is_file() else None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(
            f"{config}: expected model_cfg and preprocess_cfg as JSON, with a list of words in {WORDS} if "
            "there is one, got something else"
        )
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    name = f"folder-{digest}"
    with tempfile.TemporaryDirectory() as scratch:  # open_clip reads configs from files alone
        (Path(scratch) / f"{name}.json").write_text(json.dumps(architecture))
        open_clip.add_model_config(scratch)
    title = "mini scorer" if model == SCORER else f"{model}{f' with {weights.name}' if weights else ''}"
    return _Source(name, str(stored), title, f"{digest} {file_hash(stored)}", preprocess, words=known)


def _tokenizer(architecture: str, local_files_only: bool) -> Callable[[list[str]], Tensor]:
    import open_clip

    config: dict[str, Any] = open_clip.get_model_config(architecture) or {}
    of_the_hub = bool(config.get("text_cfg", {}).get("hf_tokenizer_name"))
    settings: dict[str, Any] = {"local_files_only": local_files_only} if of_the_hub else {}
    return open_clip.get_tokenizer(architecture, **settings)


def _by_name(model: str, weights: Path | None, local_files_only: bool) -> _Source:
    import open_clip

    architecture, _, tag = model.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        near = get_close_matches(architecture, known, 3, 0.4)
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise UserError(f"--clip: expected a model of open_clip, a folder or mini, got {model!r}{hint}")
    if weights is not None:
        name = f"{weights.name} as {architecture}"
        return _Source(architecture, str(weights), name, f"{architecture} {file_hash(weights)}")
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    expect(bool(tags), "--clip", f"a file with --clip-weights, for {architecture} has no weights", "none")
    tag = tag or DEFAULT_TAGS.get(architecture, tags[-1])
    expect(tag in tags, "--clip", f"{architecture} with one of {', '.join(tags)}", tag)
    stored = _downloaded(architecture, tag) if local_files_only else tag
    # open_clip applies neither preprocessing nor QuickGELU of a tag to weights from a file
    trained: dict[str, Any] = dict(open_clip.get_pretrained_cfg(architecture, tag) or {})
    quick = bool(trained.get("quick_gelu"))
    name, identity = f"{architecture} ({tag})", f"{architecture}/{tag}"
    return _Source(architecture, stored, name, identity, trained, quick)


def _downloaded(architecture: str, tag: str) -> str:
    """The weights of a tag in the hub's cache."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    repo = str((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("hf_hub", "")).strip("/")
    for name in (WEIGHTS, "open_clip_pytorch_model.bin") if repo else ():
        path = try_to_load_from_cache(repo, name)
        if isinstance(path, str):
            return path
    raise UserError(f"--clip: {architecture} ({tag}) is not in the local cache; {_WAY_OUT}")


def _load_error(found: _Source, error: Exception) -> str:
    """The error of open_clip in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if Path(found.weights).is_file():
        mismatch = [type(error).__name__, *lines[:2]][-1]
        return f"{found.weights}: expected weights of {found.name}, got others: {mismatch[:200]}"
    return f"--clip: {found.name} is out of reach ({type(error).__name__}); {_WAY_OUT}"
