from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_core.cli.video import VideoOptions, edit_video
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.editors import VideoEditor
from csd_core.errors import UserError
from csd_core.io.arrays import as_clip, as_masks

COUNT, HEIGHT, WIDTH = 5, 33, 45
SETTINGS: dict[str, Any] = {"num_inference_steps": 2}
PROMPT = "make it red"


def moving(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Frames (count, H, W, 3) cut one after the other, 3 pixels apart, from blurred noise."""
    wide = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH + 3 * count, 3), np.uint8)
    wide = cv2.blur(wide, (5, 5))
    return np.stack([wide[:, 3 * k : 3 * k + WIDTH] for k in range(count)])


def folder(path: Path, frames: np.ndarray) -> Path:
    path.mkdir()
    for k, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{k}.png")
    return path


def tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def model(tiny_epsilon: Path) -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained(str(tiny_epsilon))


@pytest.fixture
def editor(model: InstructPix2Pix) -> VideoEditor:
    made = VideoEditor(model)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(autouse=True)
def global_random_numbers() -> Iterator[None]:
    """No editor draws from torch's global generator, nor numpy's."""
    state: Any = np.random.get_state
    before, numbers = torch.random.get_rng_state(), state()[1].copy()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(state()[1], numbers)


def edit(editor: VideoEditor, video: Any = None, prompt: Any = PROMPT, **settings: Any) -> Any:
    chosen = {"output_type": "pt", **SETTINGS, **settings}
    return editor(moving() if video is None else video, prompt, **chosen).frames


# In and out.


def test_outputs_of_all_types_agree(editor: VideoEditor) -> None:
    made, array = edit(editor), edit(editor, output_type="np")
    (pictures,) = editor(moving(), PROMPT, **SETTINGS).frames  # pil is the default
    assert isinstance(made, Tensor)
    assert made.shape == (1, COUNT, 3, HEIGHT, WIDTH)
    assert made.dtype == torch.float32
    assert 0 <= made.min() <= made.max() <= 1
    assert isinstance(array, np.ndarray)
    assert array.shape == (1, COUNT, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(array, made.permute(0, 1, 3, 4, 2).numpy())
    assert isinstance(pictures, list)
    assert all((picture.mode, picture.size) == ("RGB", (WIDTH, HEIGHT)) for picture in pictures)
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pictures]), np.rint(array[0] * 255))


FORMS: dict[str, Callable[[Path], Any]] = {
    "uint8": lambda _: moving(),
    "float64": lambda _: moving().astype(np.float64) / 255,
    "uint16": lambda _: moving().astype(np.uint16) * 257,
    "Fortran": lambda _: np.asfortranarray(moving()),
    "list of arrays": lambda _: list(moving()),
    "PIL": lambda _: [Image.fromarray(frame) for frame in moving()],
    "RGBA": lambda _: tuple(Image.fromarray(frame).convert("RGBA") for frame in moving()),
    "tensor": lambda _: tensor(moving()),
    "uint8 tensor": lambda _: torch.from_numpy(moving()).permute(0, 3, 1, 2),
    "list of tensors": lambda _: [frame[None].double() for frame in tensor(moving())],
    "folder": lambda path: folder(path / "in", moving()),
    "name": lambda path: str(folder(path / "in", moving())),
}


@pytest.mark.parametrize("form", FORMS)
def test_inputs_of_all_types_agree(form: str, tmp_path: Path) -> None:
    clip = as_clip(FORMS[form](tmp_path), slice(None))
    assert (clip.num_frames, clip.size) == (COUNT, (HEIGHT, WIDTH))
    for _ in range(2):  # from the beginning every time
        frames = list(clip.frames())
        assert all(frame.dtype == np.uint8 for frame in frames)
        np.testing.assert_array_equal(np.stack(frames), moving())


@pytest.mark.parametrize("form", ["PIL", "tensor", "folder"])
def test_inputs_of_all_types_give_one_result(editor: VideoEditor, form: str, tmp_path: Path) -> None:
    assert torch.equal(edit(editor, FORMS[form](tmp_path)), edit(editor))


@pytest.mark.parametrize("form", ["uint8", "PIL", "tensor", "folder"])
def test_a_part_of_the_frames(form: str, tmp_path: Path) -> None:
    clip = as_clip(FORMS[form](tmp_path), slice(1, None, 2))
    np.testing.assert_array_equal(np.stack(list(clip.frames())), moving()[1::2])


def test_the_editor_takes_a_part_of_the_frames(editor: VideoEditor) -> None:
    assert torch.equal(edit(editor, frames=slice(1, 4)), edit(editor, moving()[1:4]))


def test_inputs_are_not_changed(editor: VideoEditor) -> None:
    for form in (moving(), tensor(moving())):
        before = form.copy() if isinstance(form, np.ndarray) else form.clone()
        mask = np.ones((HEIGHT, WIDTH)) if isinstance(form, np.ndarray) else torch.ones(COUNT, HEIGHT, WIDTH)
        edit(editor, form, mask=mask)
        assert np.array_equal(np.asarray(form), np.asarray(before))
        assert mask.min() == 1


# The same as the command.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 4.0, "image_guidance_scale": 1.2, "batch_size": 3, "resolution": 20},
        {"t_range": (0.1, 0.6), "negative_prompt": "a", "max_batch": 4, "detail": "none"},
        {"method": "no-svgd", "batch_size": 3, "detail": "residual"},
        {"method": "no-svgd", "learning_rate": 0.7},
        {"method": "sds"},
        {"method": "dds", "source_prompt": "a film"},
        {"method": "ip2p-frame"},
    ],
)
def test_the_command_gives_the_same_pixels(
    editor: VideoEditor, tiny_epsilon: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :30], mask[:, 30:35] = 255, 100
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = {"--video": folder(tmp_path / "in", moving()), "--output": tmp_path / "out"}
    given |= {"--mask": tmp_path / "mask.png", "--model": tiny_epsilon, "--device": "cpu", "--prompt": PROMPT}
    given |= {"--dtype": "float32"}  # as the editor's
    args = [str(part) for pair in given.items() for part in pair]
    for name, value in {**SETTINGS, **settings}.items():
        flag = "--num-steps" if name == "num_inference_steps" else f"--{name.replace('_', '-')}"
        args += [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    assert run_command(VideoOptions, edit_video, args) == 0
    (pictures,) = edit(editor, mask=mask, output_type="pil", **settings)
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == COUNT
    for path, picture in zip(written, pictures, strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(image))


def test_the_methods_differ(editor: VideoEditor) -> None:
    methods: Any = ("csd", "no-svgd", "sds", "dds", "ip2p-frame")
    made = [edit(editor, method=method, source_prompt="a film") for method in methods]
    assert all(not torch.equal(one, other) for k, one in enumerate(made) for other in made[:k])


# Prompts.


def count_encodings(model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("encode", "encode_condition"):
        function = getattr(InstructPix2Pix, name)

        def called(images: Tensor, name: str = name, function: Any = function) -> Tensor:
            calls.append(name)
            return function(model, images)

        monkeypatch.setattr(model, name, called)
    return calls


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_several_prompts_share_one_encoding(
    editor: VideoEditor, model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    each = [edit(editor, prompt=prompt, method=method) for prompt in (PROMPT, "snow")]
    calls = count_encodings(model, monkeypatch)
    both = edit(editor, prompt=[PROMPT, "snow"], method=method)
    assert calls == ["encode_condition"]
    assert torch.equal(both, torch.cat(each))
    assert not torch.equal(both[0], both[1])


def test_several_prompts_are_several_videos(editor: VideoEditor) -> None:
    shape = (2, COUNT, HEIGHT, WIDTH, 3)
    assert edit(editor, prompt=("red", "snow"), output_type="np").shape == shape
    made = edit(editor, prompt=["red", "snow"], output_type="pil")
    assert [len(video) for video in made] == [COUNT, COUNT]


# Masks.


def stripes() -> np.ndarray:
    """A mask (N, H, W) for each frame, uint8."""
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for k, mask in enumerate(masks):
        mask[4 * k : 4 * k + 8], mask[4 * k + 8 : 4 * k + 12] = 255, 51
    return masks


@pytest.mark.parametrize(
    "masks",
    [
        stripes(),
        stripes() / 255,
        list(stripes()),
        [Image.fromarray(mask) for mask in stripes()],
        torch.from_numpy(stripes()),
        tuple(torch.from_numpy(stripes()) / 255),
    ],
    ids=["uint8", "float64", "list of arrays", "PIL", "uint8 tensor", "tuple of tensors"],
)
def test_masks_of_all_types_agree(masks: Any) -> None:
    made = as_masks(masks, as_clip(moving(), slice(None)))
    assert all(mask.dtype == np.float32 for mask in made)
    np.testing.assert_allclose(np.stack(made), stripes() / 255, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, Image.fromarray, torch.from_numpy])
def test_one_mask_is_for_all_frames(kind: Callable[[np.ndarray], Any]) -> None:
    made = as_masks(kind(stripes()[0]), as_clip(moving(), slice(None)))
    assert len(made) == COUNT
    for mask in made:
        np.testing.assert_allclose(mask, stripes()[0] / 255, atol=1e-6)


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_where_the_mask_is_0_pixels_stay(editor: VideoEditor, method: str) -> None:
    masks = torch.from_numpy(stripes())[None, :, None].expand(1, -1, 3, -1, -1)
    edited, free = edit(editor, mask=stripes(), method=method), edit(editor, method=method)
    source = tensor(moving())[None]
    assert torch.equal(edited[masks == 0], source[masks == 0])
    assert torch.equal(edited[masks == 255], free[masks == 255])
    soft = masks == 51
    torch.testing.assert_close(edited[soft], (0.8 * source + 0.2 * free)[soft])
    assert (free[masks == 255] != source[masks == 255]).float().mean() > 0.9


# Randomness.


@pytest.mark.parametrize("method", ["csd", "ip2p-frame"])
def test_the_generator_is_the_seed(editor: VideoEditor, method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    first = edit(editor, method=method, generator=generator)
    again = edit(editor, method=method, generator=generator)  # it was drawn from
    assert torch.equal(first, edit(editor, method=method, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(first, again)
    assert not torch.equal(first, edit(editor, method=method))


# Callbacks, progress, stopping.


def test_the_callback_sees_every_step(editor: VideoEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, int, int, Tensor]] = []
    asked: list[int] = []
    schedule, sample = editor.denoiser.schedule, type(editor.denoiser.schedule).sample_timestep

    def sampled(t_range: tuple[float, float], generator: torch.Generator) -> int:
        asked.append(sample(schedule, t_range, generator))
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "sample_timestep", sampled)
        silent = edit(editor, num_inference_steps=3)
    watched = edit(
        editor,
        num_inference_steps=3,
        callback_on_step_end=lambda editor, step, t, tensors: seen.append(
            (editor, step, t, tensors["latents"].clone())
        ),
    )
    assert [step for _, step, _, _ in seen] == [0, 1, 2]
    assert [t for _, _, t, _ in seen] == asked
    assert all(given is editor for given, *_ in seen)
    assert all(latents.shape == (COUNT, 4, 8, 11) for *_, latents in seen)
    assert len({latents.sum().item() for *_, latents in seen}) == 3
    assert torch.equal(watched, silent)


def test_the_callback_may_replace_the_latents(editor: VideoEditor) -> None:
    def replace(_: Any, step: int, _t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    replaced = edit(editor, callback_on_step_end=replace, detail="none")
    decoded = editor.denoiser.decode(torch.zeros(1, 4, 8, 11))[..., :32, :44]
    enlarged = torch.nn.functional.interpolate(decoded, size=(HEIGHT, WIDTH), mode="bilinear")
    torch.testing.assert_close(replaced, enlarged.expand(COUNT, -1, -1, -1)[None])


def test_interrupt_ends_after_the_step_at_work(editor: VideoEditor) -> None:
    steps: list[int] = []

    def stop(given: VideoEditor, step: int, *_: Any) -> None:
        steps.append(step)
        given.interrupt = step == 1

    early = edit(editor, num_inference_steps=5, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert editor.interrupt
    whole = edit(editor, num_inference_steps=5)  # the next edit begins anew
    assert not editor.interrupt
    assert not torch.equal(early, whole)


@pytest.mark.parametrize(("method", "total"), [("csd", "2/2"), ("ip2p-frame", "5/5")])
def test_progress_is_shown_unless_switched_off(
    model: InstructPix2Pix, method: str, total: str, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = VideoEditor(model)
    edit(editor, method=method)
    assert total in capsys.readouterr().err
    editor.set_progress_bar_config(disable=True)
    edit(editor, method=method)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


# What does not fit.


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"video": moving()[0]}, "image"),
        ({"video": moving()[..., :2]}, "image"),
        ({"video": moving().astype(np.float32)}, "image"),
        ({"video": moving().astype(np.int64)}, "image"),
        ({"video": np.full((2, HEIGHT, WIDTH, 3), np.nan)}, "image"),
        ({"video": torch.rand(2, HEIGHT, WIDTH, 3)}, "image"),
        ({"video": tensor(moving()) + 0.5}, "image"),
        ({"video": moving()[:0]}, "video"),
        ({"video": []}, "video"),
        ({"video": ["in.png"]}, "image"),
        ({"video": 3}, "video"),
        ({"video": {}}, "video"),
        ({"video": Image.fromarray(moving()[0])}, "video"),
        ({"video": iter(moving())}, "video"),
        ({"video": [moving()[0], moving()[0][:9]]}, "video"),
        ({"video": "/no/such/video.mp4"}, "/no/such/video.mp4"),
        ({"frames": slice(9, None)}, "video"),
        ({"frames": slice(None, None, -1)}, "frames"),
        ({"video": tensor(moving()), "frames": slice(None, None, -1)}, "frames"),
        ({"frames": slice(None, None, 0)}, "frames"),
        ({"mask": np.ones((HEIGHT, WIDTH - 1))}, "mask"),
        ({"mask": np.zeros((HEIGHT, WIDTH))}, "mask"),
        ({"mask": np.full((HEIGHT, WIDTH), 2.0)}, "mask"),
        ({"mask": np.ones((COUNT - 1, HEIGHT, WIDTH))}, "mask"),
        ({"mask": [np.ones((HEIGHT, WIDTH))] * (COUNT + 1)}, "mask"),
        ({"mask": []}, "mask"),
        ({"mask": 3}, "mask"),
        ({"mask": "mask.png"}, "mask"),
        ({"mask": np.ones(WIDTH)}, "mask"),
        ({"mask": torch.ones(())}, "mask"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["red", " "]}, "prompt"),
        ({"method": "sdedit"}, "method"),
        ({"method": "dds"}, "source_prompt"),
        ({"detail": "sharp"}, "detail"),
        ({"output_type": "latent"}, "output_type"),
        ({"resolution": 3}, "resolution"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_batch": 0}, "max_batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"t_range": (0.5, 0.2)}, "t_range"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": 0.5, "method": "ip2p-frame"}, "guidance_scale"),
        ({"num_inference_steps": 1000, "method": "ip2p-frame"}, "num_inference_steps"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(
    editor: VideoEditor,
    model: InstructPix2Pix,
    settings: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_encodings(model, monkeypatch)
    with pytest.raises(ValueError, match=f"^{name}.*: expected ") as raised:
        edit(editor, **settings)
    assert isinstance(raised.value, UserError)
    assert "\n" not in str(raised.value)
    assert calls == []
