from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_core.canvas.regions import Region
from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.command import run_command
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.editors import PanoramaEditor, as_image_tensor, as_mask_tensor
from csd_core.errors import UserError

SETTINGS: dict[str, Any] = {"num_inference_steps": 3, "stride": 4}
PROMPT = "make it red"


def noise(height: int = 33, width: int = 45, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def model(tiny_epsilon: Path) -> InstructPix2Pix:
    return InstructPix2Pix.from_pretrained(str(tiny_epsilon))


@pytest.fixture
def editor(model: InstructPix2Pix) -> PanoramaEditor:
    made = PanoramaEditor(model)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(autouse=True)
def global_random_numbers() -> Iterator[None]:
    """No editor draws from torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)


def edit(editor: PanoramaEditor, image: Any = None, prompt: Any = PROMPT, **settings: Any) -> Any:
    chosen = {"output_type": "pt", **SETTINGS, **settings}
    return editor(noise() if image is None else image, prompt, **chosen).images


# In and out.


def test_a_model_is_loaded_and_moved(tiny_epsilon: Path) -> None:
    editor = PanoramaEditor.from_pretrained(str(tiny_epsilon), torch_dtype=torch.bfloat16)
    assert isinstance(editor, PanoramaEditor)
    assert editor.denoiser.dtype == torch.bfloat16
    assert editor.to("cpu") is editor
    with pytest.raises(UserError, match="device"):
        editor.to("abacus")


def test_outputs_of_all_types_agree(editor: PanoramaEditor) -> None:
    tensor, array = edit(editor), edit(editor, output_type="np")
    (picture,) = editor(noise(), PROMPT, **SETTINGS).images  # pil is the default
    assert isinstance(tensor, Tensor)
    assert tensor.shape == (1, 3, 33, 45)
    assert tensor.dtype == torch.float32
    assert 0 <= tensor.min() <= tensor.max() <= 1
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("RGB", (45, 33))
    np.testing.assert_array_equal(np.asarray(picture), np.rint(array[0] * 255))


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(noise()),
        Image.fromarray(np.dstack([noise(), np.full((33, 45), 255, np.uint8)])),
        noise(),
        noise().astype(np.float64) / 255,
        noise().astype(np.uint16) * 257,
        np.asfortranarray(noise()),
        torch.from_numpy(noise()).permute(2, 0, 1),
        torch.from_numpy(noise()).permute(2, 0, 1) / 255,
        torch.from_numpy(noise()).permute(2, 0, 1)[None].double() / 255,
    ],
    ids=["PIL", "RGBA", "uint8", "float64", "uint16", "Fortran", "uint8 tensor", "tensor", "batch of one"],
)
def test_inputs_of_all_types_agree(image: Any) -> None:
    tensor = as_image_tensor(image)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[0].permute(1, 2, 0), torch.from_numpy(noise()) / 255)


def test_inputs_of_all_types_give_one_result(editor: PanoramaEditor) -> None:
    tensor = torch.from_numpy(noise()).permute(2, 0, 1) / 255
    assert torch.equal(edit(editor, Image.fromarray(noise())), edit(editor, noise()))
    assert torch.equal(edit(editor, tensor), edit(editor, noise()))


def test_grey_and_palette_are_pictures_too() -> None:
    picture = Image.fromarray(noise())
    for mode in ("L", "P", "1"):
        assert as_image_tensor(picture.convert(mode)).shape == (1, 3, 33, 45)


def test_masks_of_all_types_agree() -> None:
    levels = noise()[..., 0]
    expected = torch.from_numpy(levels) / 255
    tensors = levels, levels / 255, Image.fromarray(levels), torch.from_numpy(levels), expected
    for mask in tensors:
        torch.testing.assert_close(as_mask_tensor(mask), expected)
    assert torch.equal(as_mask_tensor(levels > 99), (torch.from_numpy(levels) > 99).float())
    assert torch.equal(as_mask_tensor(torch.from_numpy(levels) > 99), (torch.from_numpy(levels) > 99).float())


def test_inputs_are_not_changed(editor: PanoramaEditor) -> None:
    image, mask = torch.from_numpy(noise()).permute(2, 0, 1) / 255, torch.ones(33, 45)
    before = image.clone()
    edit(editor, image, mask=mask)
    assert torch.equal(image, before)
    assert mask.min() == 1


# The same as the command.


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, []),
        ({"guidance_scale": 4.0, "image_guidance_scale": 1.2, "batch_size": 3, "learning_rate": 1.0}, []),
        ({"t_range": (0.1, 0.6), "negative_prompt": "a", "max_batch": 5}, []),
        ({"wrap": True, "stride": 8}, ["--wrap"]),
        ({"method": "ip2p-resize"}, []),
        ({"method": "ip2p-overlap"}, []),
    ],
)
def test_the_command_gives_the_same_pixels(
    editor: PanoramaEditor,
    tiny_epsilon: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    options: list[str],
) -> None:
    mask = np.zeros((33, 45), np.uint8)
    mask[:, :30], mask[:, 30:35] = 255, 100
    Image.fromarray(noise()).save(tmp_path / "in.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = {**SETTINGS, **settings}
    for name, value in given.items():
        if name != "wrap":
            flag = "--num-steps" if name == "num_inference_steps" else f"--{name.replace('_', '-')}"
            options = [*options, flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    files = [
        "--image",
        tmp_path / "in.png",
        "--output",
        tmp_path / "out.png",
        "--mask",
        tmp_path / "mask.png",
    ]
    args = [*map(str, files), "--model", str(tiny_epsilon), "--device", "cpu", "--prompt", PROMPT, *options]
    args += ["--dtype", "float32"]  # as the editor's
    assert run_command(PanoramaOptions, edit_panorama, args) == 0
    with Image.open(tmp_path / "out.png") as written:
        (picture,) = edit(editor, mask=mask, output_type="pil", **settings)
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(written))


# Prompts, regions, masks.


def count_encodings(model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("encode", "encode_condition"):
        function = getattr(InstructPix2Pix, name)

        def called(images: Tensor, name: str = name, function: Any = function) -> Tensor:
            calls.append(name)
            return function(model, images)

        monkeypatch.setattr(model, name, called)
    return calls


def test_several_prompts_share_one_encoding(
    editor: PanoramaEditor, model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = [edit(editor, prompt=prompt) for prompt in (PROMPT, "snow")]
    calls = count_encodings(model, monkeypatch)
    both = edit(editor, prompt=[PROMPT, "snow"])
    assert calls == ["encode_condition"]
    assert torch.equal(both, torch.cat(each))
    assert not torch.equal(both[0], both[1])
    assert edit(editor, prompt=("snow",), output_type="np").shape == (1, 33, 45, 3)
    assert len(edit(editor, prompt=[PROMPT, "snow"], output_type="pil")) == 2


@pytest.mark.parametrize("method", ["csd", "ip2p-patch"])
def test_where_the_mask_is_0_pixels_stay(editor: PanoramaEditor, method: str) -> None:
    mask = np.zeros((33, 45))
    mask[:20] = 1
    (picture,) = edit(editor, mask=mask, method=method, output_type="pil")
    np.testing.assert_array_equal(np.asarray(picture)[20:], noise()[20:])
    assert (np.asarray(picture)[:20] != noise()[:20]).any()


def test_regions_alone_or_with_the_rest(editor: PanoramaEditor) -> None:
    area = torch.zeros(33, 45)
    area[:, 30:] = 1
    alone = edit(editor, prompt=None, regions=[Region("snow", area)])
    source = as_image_tensor(noise())
    assert torch.equal(alone[..., :30], source[..., :30])
    assert not torch.equal(alone[..., 30:], source[..., 30:])
    assert not torch.equal(edit(editor, regions=[Region("snow", area)])[..., :30], source[..., :30])


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (32, 32), (70, 33)])
@pytest.mark.parametrize("method", ["csd", "ip2p-overlap"])
def test_any_size(editor: PanoramaEditor, size: tuple[int, int], method: str) -> None:
    assert edit(editor, noise(*size), method=method, num_inference_steps=1).shape == (1, 3, *size)


# Randomness.


@pytest.mark.parametrize("method", ["csd", "ip2p-resize"])
def test_the_generator_is_the_seed(editor: PanoramaEditor, method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    first = edit(editor, method=method, generator=generator)
    again = edit(editor, method=method, generator=generator)  # it was drawn from
    assert torch.equal(first, edit(editor, method=method, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(first, again)
    assert torch.equal(edit(editor, method=method), edit(editor, method=method))
    assert not torch.equal(first, edit(editor, method=method))


# Callbacks, progress, stopping.


def test_the_callback_sees_every_step(editor: PanoramaEditor) -> None:
    seen: list[tuple[Any, int, int, Tensor]] = []
    asked: list[int] = []
    schedule, sample = editor.denoiser.schedule, type(editor.denoiser.schedule).sample_timestep

    def sampled(t_range: tuple[float, float], generator: torch.Generator) -> int:
        asked.append(sample(schedule, t_range, generator))
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "sample_timestep", sampled)
        silent = edit(editor)
    watched = edit(
        editor,
        callback_on_step_end=lambda editor, step, t, tensors: seen.append(
            (editor, step, t, tensors["latents"].clone())
        ),
    )
    assert [step for _, step, _, _ in seen] == [0, 1, 2]
    assert [t for _, _, t, _ in seen] == asked
    assert all(given is editor for given, *_ in seen)
    assert len({latents.sum().item() for *_, latents in seen}) == 3
    assert torch.equal(watched, silent)


def test_the_callback_may_replace_the_latents(editor: PanoramaEditor) -> None:
    def replace(_: Any, step: int, _t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    def change(_: Any, step: int, _t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 2:
            tensors["latents"].zero_()
        return tensors

    replaced = edit(editor, callback_on_step_end=replace)
    assert not torch.equal(replaced, edit(editor))
    assert torch.equal(replaced, edit(editor, callback_on_step_end=change))
    margin = 16
    canvas = torch.zeros(1, 4, (33 + 2 * margin + 3) // 4, (45 + 2 * margin + 3) // 4)
    decoded = editor.denoiser.decode(canvas)[..., margin : margin + 33, margin : margin + 45]
    assert torch.equal(replaced, decoded)


def test_interrupt_ends_after_the_step_at_work(editor: PanoramaEditor) -> None:
    steps: list[int] = []

    def stop(given: PanoramaEditor, step: int, *_: Any) -> None:
        steps.append(step)
        given.interrupt = step == 1

    early = edit(editor, num_inference_steps=9, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert editor.interrupt
    whole = edit(editor, num_inference_steps=9)  # the next edit begins anew
    assert not editor.interrupt
    assert not torch.equal(early, whole)


@pytest.mark.parametrize("method", ["csd", "ip2p-resize"])
def test_progress_is_shown_unless_switched_off(
    model: InstructPix2Pix, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = PanoramaEditor(model)
    edit(editor, method=method)
    assert "3/3" in capsys.readouterr().err
    editor.set_progress_bar_config(disable=True)
    edit(editor, method=method)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
    editor.set_progress_bar_config()
    edit(editor, method=method)
    assert "3/3" in capsys.readouterr().err


# What does not fit.


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"image": noise()[..., :2]}, "image"),
        ({"image": noise()[..., 0]}, "image"),
        ({"image": noise()[None]}, "image"),
        ({"image": noise().astype(np.float32)}, "image"),
        ({"image": noise().astype(np.int64)}, "image"),
        ({"image": noise()[:0]}, "image"),
        ({"image": np.full((33, 45, 3), np.nan)}, "image"),
        ({"image": torch.rand(2, 3, 33, 45)}, "image"),
        ({"image": torch.rand(33, 45, 3)}, "image"),
        ({"image": torch.rand(33, 45)}, "image"),
        ({"image": torch.full((3, 33, 45), 1.1)}, "image"),
        ({"image": "in.png"}, "image"),
        ({"mask": np.ones((33, 44))}, "mask"),
        ({"mask": np.zeros((33, 45))}, "mask"),
        ({"mask": np.full((33, 45), 2.0)}, "mask"),
        ({"mask": np.ones((33, 45, 1))}, "mask"),
        ({"mask": np.ones((0, 0))}, "mask"),
        ({"mask": [[1]]}, "mask"),
        ({"mask": np.zeros((33, 45)), "method": "ip2p-resize"}, "mask"),
        ({"mask": np.ones((33, 44)), "method": "ip2p-resize"}, "mask"),
        ({"prompt": None}, "prompt"),
        ({"prompt": None, "method": "ip2p-resize"}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["red", " "]}, "prompt"),
        ({"prompt": None, "regions": [Region("a", torch.ones(33, 44))]}, "region 'a'"),
        ({"prompt": None, "regions": [Region("a", torch.zeros(33, 45))]}, "region 'a'"),
        (
            {"prompt": None, "regions": [Region("a", torch.ones(33, 45), 3.0)], "guidance_scale": 0},
            "guidance",
        ),
        ({"regions": [Region("a", torch.ones(33, 45))], "method": "ip2p-patch"}, "regions"),
        ({"wrap": True, "method": "ip2p-patch"}, "wrap"),
        ({"method": "sdedit"}, "method"),
        ({"output_type": "latent"}, "output_type"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": -1}, "num_inference_steps"),
        ({"stride": 0}, "stride"),
        ({"stride": 9}, "stride"),
        ({"batch_size": 0}, "batch_size"),
        ({"max_batch": 0}, "max_batch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"t_range": (0.5, 0.2)}, "t_range"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(
    editor: PanoramaEditor,
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
