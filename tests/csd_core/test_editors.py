"""PanoramaEditor and VideoEditor: what both promise is one test, run for each."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csd_core.canvas.regions import Region
from csd_core.canvas.video import VideoEdit
from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.cli.video import VideoOptions, edit_video
from csd_core.command import run_command
from csd_core.denoisers import families
from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.denoisers.runtime.device import default_dtype, dtype_name, resolve_device
from csd_core.editors import Editor, PanoramaEditor, VideoEditor, prepare_panorama, prepare_video
from csd_core.engine.prepared import PreparedEdit
from csd_core.errors import UserError
from csd_core.io.arrays import as_clip, as_image_tensor
from tests.models import load

Kind = Literal["panorama", "video"]

EDITORS: dict[Kind, type[Editor]] = {"panorama": PanoramaEditor, "video": VideoEditor}
QUICK: dict[Kind, dict[str, Any]] = {
    "panorama": {"num_inference_steps": 3, "stride": 4},
    "video": {"num_inference_steps": 3},
}
OPTIMISE = ("csd", "no-svgd", "sds", "dds")
PROMPT = "make it red"
COUNT, HEIGHT, WIDTH = 5, 33, 45
SIZE = (HEIGHT, WIDTH)


def moving() -> np.ndarray:
    """Frames (COUNT, H, W, 3) cut one after the other, 3 pixels apart, from blurred noise."""
    wide = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 3 * COUNT, 3), np.uint8)
    wide = cv2.blur(wide, (5, 5))
    return np.stack([wide[:, 3 * k : 3 * k + WIDTH] for k in range(COUNT)])


FRAMES = moving()
IMAGE = FRAMES[0]
SOURCES: dict[Kind, np.ndarray] = {"panorama": IMAGE, "video": FRAMES}


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).movedim(-1, -3) / 255


@pytest.fixture(scope="module")
def model(tiny_epsilon: Path) -> InstructPix2Pix:
    return load(tiny_epsilon)


@pytest.fixture(params=EDITORS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def editor(kind: Kind, model: InstructPix2Pix) -> Editor:
    return quiet(EDITORS[kind](model))


@pytest.fixture(autouse=True)
def global_random_numbers() -> Iterator[None]:
    """No editor draws from the global generators of torch and numpy."""
    state: Any = np.random.get_state
    before, numbers = torch.random.get_rng_state(), state()[1].copy()
    yield
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(state()[1], numbers)


def quiet(editor: Editor) -> Editor:
    editor.set_progress_bar_config(disable=True)
    return editor


def edit(editor: Editor, source: Any = None, prompt: Any = PROMPT, **settings: Any) -> Any:
    """A short edit; by default as tensor (n, 3, H, W), of a video (n, N, 3, H, W)."""
    kind: Kind = "panorama" if isinstance(editor, PanoramaEditor) else "video"
    called: Any = editor
    source = SOURCES[kind] if source is None else source
    output = called(source, prompt, **{"output_type": "pt", **QUICK[kind], **settings})
    return output.images if kind == "panorama" else output.frames


def prepared(editor: Editor, **given: Any) -> PreparedEdit:
    if isinstance(editor, PanoramaEditor):
        image = as_image_tensor(IMAGE)
        return prepare_panorama(editor.denoiser, image, PROMPT, given, num_steps=3, stride=4)
    return prepare_video(editor.denoiser, as_clip(FRAMES, slice(None)), PROMPT, given, num_steps=3)


def finished(job: Any, canvas: Tensor) -> Tensor:
    """What the editor returns for a canvas."""
    made = job.finish(canvas)
    return made if isinstance(made, Tensor) else torch.stack(list(made))[None]


# Loading.


@pytest.mark.parametrize("cls", EDITORS.values())
def test_the_device_is_chosen_as_commands_do_and_named_in_one_line(
    cls: type[Editor],
    tiny_epsilon: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        families, "resolve_device", lambda device: asked.append(device) or resolve_device(device)
    )
    editor = cls.from_pretrained(str(tiny_epsilon))
    device = resolve_device(None)
    assert isinstance(editor, cls)
    assert asked == [None]
    assert (editor.denoiser.device, editor.denoiser.dtype) == (device, default_dtype(device))
    note = f"note: the model computes on {device} in {dtype_name(default_dtype(device))}\n"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", note)


def test_the_precision_can_be_changed(kind: Kind, tiny_epsilon: Path) -> None:
    editor = quiet(EDITORS[kind](load(tiny_epsilon)))
    exact = edit(editor)
    assert editor.to("cpu") is editor
    assert editor.denoiser.dtype == torch.float32
    assert torch.equal(edit(editor), exact)
    editor.to("cpu", torch.bfloat16)
    rounded = edit(editor)
    assert editor.denoiser.dtype == torch.bfloat16
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.02
    with pytest.raises(UserError, match="device"):
        editor.to("abacus")


# In and out.


def test_outputs_of_all_types_agree(editor: Editor, kind: Kind) -> None:
    tensor, array = edit(editor), edit(editor, output_type="np")
    called: Any = editor
    output = called(SOURCES[kind], PROMPT, **QUICK[kind])  # pil is the default
    assert isinstance(tensor, Tensor)
    assert tensor.dtype == torch.float32
    assert tensor.shape == (1, *SOURCES[kind].shape[:-3], 3, HEIGHT, WIDTH)
    assert 0 <= tensor.min() <= tensor.max() <= 1
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, tensor.movedim(-3, -1).numpy())
    pictures = output.images if kind == "panorama" else output.frames[0]
    assert all((picture.mode, picture.size) == ("RGB", (WIDTH, HEIGHT)) for picture in pictures)
    bytes_ = np.rint(array.reshape(-1, HEIGHT, WIDTH, 3) * 255)
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in pictures]), bytes_)


def test_inputs_of_all_types_give_one_result_and_are_not_changed(
    editor: Editor, kind: Kind, tmp_path: Path
) -> None:
    pictures = [Image.fromarray(frame) for frame in FRAMES]
    for k, picture in enumerate(pictures):
        picture.save(tmp_path / f"{k}.png")
    tensor, mask, expected = as_tensor(SOURCES[kind]), torch.ones(SIZE), edit(editor)
    before = tensor.clone()
    sources = [tensor, *([pictures[0]] if kind == "panorama" else [pictures, tmp_path])]
    for source in sources:
        assert torch.equal(edit(editor, source, mask=mask), expected)
    assert torch.equal(tensor, before)
    assert mask.min() == 1


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (70, 33)])
@pytest.mark.parametrize("method", ["csd", "ip2p-resize", "ip2p-patch", "ip2p-overlap"])
def test_images_of_any_size(model: InstructPix2Pix, size: tuple[int, int], method: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    edited = edit(quiet(PanoramaEditor(model)), image, method=method, num_inference_steps=1)
    assert edited.shape == (1, 3, *size)


def test_a_part_of_the_frames(model: InstructPix2Pix) -> None:
    editor = quiet(VideoEditor(model))
    assert torch.equal(edit(editor, frames=slice(1, 4)), edit(editor, FRAMES[1:4]))


@pytest.mark.parametrize(("output_type", "most"), [("pil", 2), ("pt", COUNT)])
def test_only_tensors_hold_all_frames_as_floats(
    model: InstructPix2Pix, output_type: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one frame while the next is computed, for PIL."""
    alive: list[weakref.ref[np.ndarray]] = []
    counts: list[int] = []
    finish = VideoEdit.finish

    def counting(self: VideoEdit, canvas: Tensor) -> Iterator[Tensor]:
        for frame in finish(self, canvas):
            memory = (
                frame.numpy().copy()
            )  # a tensor over it keeps it alive, and so do all views of the tensor
            alive.append(weakref.ref(memory))
            counts.append(sum(ref() is not None for ref in alive))
            yield torch.from_numpy(memory)

    monkeypatch.setattr(VideoEdit, "finish", counting)
    gc.disable()
    try:
        made = edit(quiet(VideoEditor(model)), output_type=output_type)
    finally:
        gc.enable()
    assert len(made[0]) == len(counts) == COUNT
    assert max(counts) == most


# The same as the command.

RICH: dict[str, Any] = {
    "guidance_scale": 4.0,
    "image_guidance_scale": 1.2,
    "negative_prompt": "a",
    "learning_rate": 1.0,
    "batch_size": 3,
    "t_range": (0.1, 0.6),
    "bandwidth_factor": 3.0,
    "shared_noise": True,
    "noise_pool": 1,
    "chunk_size": 4,
}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("panorama", {}),
        ("panorama", RICH),
        ("panorama", {"wrap": True, "stride": 8}),
        ("panorama", {"method": "no-svgd"}),
        ("panorama", {"method": "dds", "source_prompt": "a photo"}),
        ("panorama", {"method": "ip2p-resize"}),
        ("panorama", {"method": "ip2p-overlap"}),
        ("video", {}),
        ("video", {**RICH, "resolution": 20}),
        ("video", {"method": "no-svgd", "batch_size": 3}),
        ("video", {"method": "dds", "source_prompt": "a film"}),
        ("video", {"method": "ip2p-frame"}),
    ],
)
def test_the_command_gives_the_same_pixels(
    editor: Editor, kind: Kind, tiny_epsilon: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :30], mask[:, 30:35] = 255, 100
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "in").mkdir()
    for k, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / "in" / f"{k}.png")
    name = "out.png" if kind == "panorama" else "out"
    given = {"--image": tmp_path / "in/0.png"} if kind == "panorama" else {"--video": tmp_path / "in"}
    given |= {"--output": tmp_path / name, "--mask": tmp_path / "mask.png", "--model": tiny_epsilon}
    given |= {"--device": "cpu", "--dtype": "float32", "--prompt": PROMPT}
    args = [str(part) for pair in given.items() for part in pair]
    for option, value in {**QUICK[kind], **settings}.items():
        flag = "--num-steps" if option == "num_inference_steps" else f"--{option.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        args += [flag, *(str(part) for part in values if part is not True)]
    if kind == "panorama":
        assert run_command(PanoramaOptions, edit_panorama, args) == 0
        (pictures, written) = edit(editor, mask=mask, output_type="pil", **settings), [tmp_path / name]
    else:
        assert run_command(VideoOptions, edit_video, args) == 0
        (pictures,) = edit(editor, mask=mask, output_type="pil", **settings)
        written = sorted((tmp_path / name).iterdir())
    for path, picture in zip(written, pictures, strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(image))


# What changes the result.


@pytest.mark.parametrize(("kind", "sampled"), [("panorama", "ip2p-resize"), ("video", "ip2p-frame")])
def test_the_methods_differ(editor: Editor, sampled: str) -> None:
    made = [edit(editor, method=method, source_prompt="a film") for method in (*OPTIMISE, sampled)]
    assert all(not torch.equal(one, other) for k, one in enumerate(made) for other in made[:k])


@pytest.mark.parametrize("setting", [{"bandwidth_factor": 9.0}, {"shared_noise": True}, {"noise_pool": 1}])
def test_settings_of_the_method_reach_it(editor: Editor, setting: dict[str, Any]) -> None:
    edits = [edit(editor, batch_size=16, **{"noise_pool": 0, **given}) for given in ({}, setting)]
    assert (edits[0] - edits[1]).abs().max() > 1e-4


def test_max_batch_is_the_former_name_of_chunk_size(editor: Editor, model: InstructPix2Pix) -> None:
    batches: list[int] = []
    hook = model.pipeline().unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    named = edit(editor, chunk_size=3)
    expected = batches.copy()
    batches.clear()
    with pytest.warns(UserWarning, match="max_batch is now called chunk_size") as warned:
        former = edit(editor, max_batch=3)
    hook.remove()
    assert max(batches) == 3
    assert batches == expected
    assert torch.equal(former, named)
    assert len(warned) == 1
    assert warned[0].filename == __file__  # it names the call, not a line of the package


@pytest.mark.parametrize(("kind", "sampled"), [("panorama", "ip2p-resize"), ("video", "ip2p-frame")])
def test_the_generator_is_the_seed(editor: Editor, sampled: str) -> None:
    for method in ("csd", sampled):
        generator = torch.Generator().manual_seed(3)
        first = edit(editor, method=method, generator=generator)
        again = edit(editor, method=method, generator=generator)  # its state has advanced
        assert torch.equal(first, edit(editor, method=method, generator=torch.Generator().manual_seed(3)))
        assert not torch.equal(first, again)
        assert not torch.equal(first, edit(editor, method=method))


def test_without_a_generator_the_seed_is_0(editor: Editor) -> None:
    by_seed = [finished(job, job.run()) for job in (prepared(editor, seed=seed) for seed in (0, 1))]
    assert torch.equal(edit(editor, generator=None), by_seed[0])
    assert not torch.equal(by_seed[0], by_seed[1])


# Prompts, regions, masks.


def count_encodings(model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("encode", "encode_condition"):
        function = getattr(model, name)

        def called(*args: Tensor, name: str = name, function: Any = function) -> Any:
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(model, name, called)
    return calls


@pytest.mark.parametrize(("kind", "method"), [("panorama", "csd"), ("video", "csd"), ("video", "ip2p-frame")])
def test_several_prompts_share_one_encoding(
    editor: Editor, model: InstructPix2Pix, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = [edit(editor, prompt=prompt, method=method) for prompt in (PROMPT, "snow")]
    calls = count_encodings(model, monkeypatch)
    both = edit(editor, prompt=(PROMPT, "snow"), method=method)
    assert calls == ["encode", "encode_condition"]
    assert torch.equal(both, torch.cat(each))
    assert not torch.equal(both[0], both[1])
    assert len(edit(editor, prompt=[PROMPT, "snow"], output_type="pil")) == 2
    assert edit(editor, prompt=[PROMPT, "snow"], output_type="np").shape[0] == 2


@pytest.mark.parametrize(
    ("kind", "method"),
    [("panorama", "csd"), ("panorama", "ip2p-patch"), ("video", "csd"), ("video", "ip2p-frame")],
)
def test_where_the_mask_is_0_pixels_stay(editor: Editor, kind: Kind, method: str) -> None:
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for k, mask in enumerate(masks):  # another for every frame
        mask[4 * k : 4 * k + 8] = 255
    chosen = masks[0] if kind == "panorama" else masks
    source, edited = as_tensor(SOURCES[kind])[None], edit(editor, mask=chosen, method=method)
    where = torch.from_numpy(chosen).unsqueeze(-3).expand_as(source)
    assert torch.equal(edited[where == 0], source[where == 0])
    assert (edited[where == 255] != source[where == 255]).float().mean() > 0.9


def test_regions_alone_or_with_the_rest(model: InstructPix2Pix) -> None:
    editor, area = quiet(PanoramaEditor(model)), torch.zeros(SIZE)
    area[:, 30:] = 1
    alone = edit(editor, prompt=None, regions=[Region("snow", area)])
    source = as_image_tensor(IMAGE)
    assert torch.equal(alone[..., :30], source[..., :30])
    assert not torch.equal(alone[..., 30:], source[..., 30:])
    assert not torch.equal(edit(editor, regions=[Region("snow", area)])[..., :30], source[..., :30])


# Callbacks, progress, stopping.


def test_the_callback_gets_every_step(
    editor: Editor, model: InstructPix2Pix, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, int, float, Tensor]] = []
    evaluated: dict[float, None] = {}  # timesteps of the network, in order
    predict = model.predict_noise

    def recorded(x_t: Tensor, t: Tensor, conditioning: Any) -> Tensor:
        evaluated.update(dict.fromkeys(t.tolist()))
        return predict(x_t, t, conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(model, "predict_noise", recorded)
        silent = edit(editor)
    watched = edit(
        editor, callback_on_step_end=lambda e, k, t, kept: given.append((e, k, t, kept["latents"].clone()))
    )
    assert [step for _, step, _, _ in given] == [0, 1, 2]
    assert [t for _, _, t, _ in given] == list(evaluated)
    assert all(by is editor for by, *_ in given)
    assert all(latents.shape == prepared(editor).latents[0].shape for *_, latents in given)
    assert len({latents.sum().item() for *_, latents in given}) == 3
    assert torch.equal(watched, silent)


def test_the_callback_may_replace_the_latents(editor: Editor) -> None:
    def replace(_: Any, step: int, _t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    def change(_: Any, step: int, _t: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 2:
            tensors["latents"].zero_()
        return tensors

    job = prepared(editor)
    expected = finished(job, torch.zeros_like(job.latents[0]))
    assert torch.equal(edit(editor, callback_on_step_end=replace), expected)
    assert torch.equal(edit(editor, callback_on_step_end=change), expected)


def test_interrupt_ends_after_the_current_step(editor: Editor) -> None:
    steps: list[int] = []

    def stop(given: Editor, step: int, *_: Any) -> None:
        steps.append(step)
        given.interrupt = step == 1

    early = edit(editor, num_inference_steps=5, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert editor.interrupt
    whole = edit(editor, num_inference_steps=5)  # the next edit starts again
    assert not editor.interrupt
    assert not torch.equal(early, whole)


@pytest.mark.parametrize(
    ("kind", "method", "total"),
    [
        ("panorama", "csd", "3/3"),
        ("panorama", "ip2p-resize", "3/3"),
        ("video", "csd", "3/3"),
        ("video", "ip2p-frame", "5/5"),
    ],
)
def test_progress_is_shown_unless_switched_off(
    editor: Editor, method: str, total: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(editor, method=method)
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""
    editor.set_progress_bar_config()
    edit(editor, method=method)
    assert total in capsys.readouterr().err


# What does not fit.

BOTH: list[tuple[dict[str, Any], str]] = [
    ({"source": np.full((*SIZE, 3), 2.0)}, "image"),
    ({"mask": np.ones((HEIGHT, WIDTH - 1))}, "mask"),
    ({"mask": np.zeros(SIZE)}, "mask"),
    ({"mask": "mask.png"}, "mask"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["red", " "]}, "prompt"),
    ({"method": "sdedit"}, "method"),
    ({"method": "dds"}, "source_prompt"),
    ({"output_type": "latent"}, "output_type"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"batch_size": 0}, "batch_size"),
    ({"chunk_size": 0}, "chunk_size"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
]
PANORAMA: list[tuple[dict[str, Any], str]] = [
    ({"mask": np.zeros(SIZE), "method": "ip2p-resize"}, "mask"),
    ({"mask": np.ones((HEIGHT, WIDTH - 1)), "method": "ip2p-resize"}, "mask"),
    ({"prompt": None}, "prompt"),
    ({"prompt": None, "method": "ip2p-resize"}, "prompt"),
    ({"prompt": None, "regions": [Region("a", torch.ones(SIZE), 3.0)], "guidance_scale": 0}, "guidance"),
    ({"regions": [Region("a", torch.ones(SIZE))], "method": "ip2p-patch"}, "regions"),
    ({"wrap": True, "method": "ip2p-patch"}, "wrap"),
    ({"method": "ip2p-frame"}, "method"),
    ({"stride": 9}, "stride"),
]
VIDEO: list[tuple[dict[str, Any], str]] = [
    ({"frames": slice(9, None)}, "video"),
    ({"method": "ip2p-resize"}, "method"),
    ({"resolution": 3}, "resolution"),
    ({"guidance_scale": 0.5, "method": "ip2p-frame"}, "guidance_scale"),
    ({"num_inference_steps": 1000, "method": "ip2p-frame"}, "num_inference_steps"),
]


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        *((kind, *case) for case in BOTH for kind in EDITORS),
        *(("panorama", *case) for case in PANORAMA),
        *(("video", *case) for case in VIDEO),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(
    editor: Editor,
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
