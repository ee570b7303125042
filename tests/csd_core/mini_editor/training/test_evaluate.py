"""The evaluation of the mini editor as a user runs it, in miniature; what it makes of pictures."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from csd_core.denoisers.instruct_pix2pix import InstructPix2Pix
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_images
from csd_core.errors import UserError
from csd_core.mini_editor.training import sections as measured
from csd_core.mini_editor.training.evaluate import evaluate, main, merge
from csd_core.mini_editor.training.sampling import EvaluateConfig, held_out, spread, squares
from csd_core.mini_editor.training.sections import single_image_config, unet_flop
from csd_core.mini_editor.training.targets import targets

TINY = (
    *("--steps", "2", "--seeds", "1", "--choice-seeds", "4", "--choice-photographs", "1"),
    *("--language-photographs", "1", "--csd-photographs", "1", "--csd-steps", "2"),
    *("--instructions", "night", "orange to green", "tint"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("evaluation")
    # in two runs, as one does to use several machines
    for sections in (("table", "choice"), ("language", "csd", "sizes")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measured, "SIZES", ((64, 64), (64, 192)))
            patch.setattr("sys.argv", ["evaluate", "--output", str(output), "--sections", *sections, *TINY])
            assert main() == 0
    return output


def test_sections_of_several_runs_are_gathered(report):
    whole = json.loads((report / "table.json").read_text())
    assert set(whole) == {"table", "choice", "language", "csd", "sizes"}
    assert whole["table"]["photographs"] == 2
    assert set(whole["table"]["instructions"]) == {"night", "orange to green", "tint"}
    assert whole["table"]["settings"]["steps"] == 2
    assert whole["table"]["kinds"]["local"]["outside"] > 5
    counts = next(iter(whole["choice"]["instructions"]["tint"].values()))["outcomes"]
    assert sum(counts.values()) == 4
    assert set(whole["csd"]["instructions"]["night"]) == {"kind", "sampled", "csd"}
    assert sorted(path.name for path in report.iterdir()) == ["sheet.png", "table.json", "table.md"]


def test_the_language_section_reads_every_way_to_say_it(report):
    part = json.loads((report / "table.json").read_text())["language"]
    assert set(part["instructions"]["night"]) == {"kind", "gain", "unseen", "capitals", "reversed"}
    assert part["instructions"]["night"]["capitals"]["to_canonical"] == 100  # the tokenizer has no capitals
    assert all(row["warns"] for row in part["unknown"].values())
    assert set(part["shares"]["unseen"]) == {"light", "local", "choice", "all", "mean", "to_canonical"}


def test_a_negative_prompt_is_compared_with_none(report):
    (row,) = json.loads((report / "table.json").read_text())["language"]["negative"]
    assert (row["prompt"], row["negative_prompt"]) == ("give it a tint", "make it black and white")
    assert row["change"] == pytest.approx(row["avoided_with"] - row["avoided_without"], abs=1e-3)
    assert row["change"] != 0


def test_sizes_are_measured_with_the_cost(report):
    part = json.loads((report / "table.json").read_text())["sizes"]
    assert set(part["sizes"]) == {"64 x 64", "64 x 192"}
    assert all(set(row["gains"]) == {"night"} for row in part["sizes"].values())
    files = [path for path in EvaluateConfig(output=report).model.rglob("*") if path.is_file()]
    assert part["megabytes"] == pytest.approx(sum(len(path.read_bytes()) for path in files) / 1e6, abs=1e-3)
    assert part["unet_gflop"] > 1


def test_the_report_has_every_table_and_the_sheet_every_row(report):
    text = (report / "table.md").read_text()
    for title in (
        "Full sampling",
        "Choices",
        "Other words",
        "Unknown prompts",
        "CSD-Edit",
        "Cost",
        "Targets",
    ):
        assert f"### {title}" in text
    with Image.open(report / "sheet.png") as sheet:
        assert sheet.height == 4 * 128  # the sources and three instructions
        assert sheet.width > 2 * 128


def test_a_wide_picture_gives_squares_side_by_side():
    wide = Image.new("RGB", (480, 100))
    for k, colour in enumerate(("red", "lime", "blue", "white")):
        wide.paste(colour, (120 * k, 0, 120 * (k + 1), 100))
    parts = squares(wide.crop((0, 0, 480, 100)))
    assert len(parts) == 5
    assert len(squares(wide.transpose(Image.Transpose.ROTATE_90))) == 5
    assert len(squares(wide.crop((0, 0, 190, 100)))) == 1
    torch.testing.assert_close(parts[0].mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(parts[-1].mean((1, 2)), torch.ones(3), rtol=0, atol=0.05)


def test_pictures_of_a_folder_are_spread_over_it(tmp_path):
    for k in range(9):
        Image.new("RGB", (20, 16), (20 * k, 0, 0)).save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    names, images = held_out(EvaluateConfig(output=tmp_path, photographs=[tmp_path], per_folder=3))
    assert names == ["coffee", "rocket", "0", "4", "8"]
    assert images.shape == (5, 3, 128, 128)
    assert spread(5, 9) == [0, 1, 2, 3, 4]


def test_csd_of_several_images_is_that_of_each_alone(tmp_path, tiny_velocity):
    settings = EvaluateConfig(output=tmp_path, csd_steps=3)
    assert single_image_config(settings, 2).t_range == (0.2, 0.5)
    denoiser = InstructPix2Pix.from_pretrained(str(tiny_velocity))
    images = torch.rand(18, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = edit_images(denoiser, images, "red", single_image_config(settings, len(images)))
    # the engine draws noise per particle: the first of many has that of a single one, kernel and all
    one = replace(single_image_config(settings, 1), mixing=True)
    assert one.kernel == EditConfig().kernel
    alone = edit_images(denoiser, images[:1], "red", one)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    still = denoiser.decode(denoiser.encode(images))
    assert ((together - still).abs().amax((1, 2, 3)) > 1e-4).all()  # none is left out of a step


def test_a_multiply_add_is_two_operations():
    class OneByOne(torch.nn.Conv2d):
        config = {"sample_size": 4, "in_channels": 3, "cross_attention_dim": 5}  # noqa: RUF012

        def forward(self, input: Any, *_: Any) -> torch.Tensor:
            return super().forward(input)

    pipeline = SimpleNamespace(unet=OneByOne(3, 7, 1), tokenizer=SimpleNamespace(model_max_length=6))
    assert unet_flop(pipeline) == 2 * 3 * 7 * 4 * 4


def test_sections_that_end_together_are_all_kept(tmp_path):
    names = [f"section {k}" for k in range(16)]  # of unknown names no table is made
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: merge(tmp_path, name, {"value": 1.0}), names))
    assert set(json.loads((tmp_path / "table.json").read_text())) == set(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"instructions": ("rain",)}, "instructions: expected some of night"),
        ({"photographs": [Path("nowhere")]}, "nowhere does not exist"),
        ({"model": Path("nowhere")}, "model: expected the folder of an editor, got nowhere"),
    ],
)
def test_bad_settings_are_told_before_anything_is_written(tmp_path, change, message):
    output = tmp_path / "report"
    with pytest.raises(UserError, match=message):
        evaluate(replace(EvaluateConfig(output=output), **change))
    assert not output.exists()


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"cannot read .*broken\.png"):
        held_out(EvaluateConfig(output=tmp_path, photographs=[tmp_path]))


def test_what_could_not_be_measured_is_null(tmp_path):
    whole = merge(tmp_path, "csd", {"gain": float("nan"), "rows": [1.23456], "kinds": {"csd": {}}} | _CSD)
    assert whole["csd"]["gain"] is None
    assert whole["csd"]["rows"] == [1.2346]


_CSD = {"instructions": {}, "kinds": {"csd": {}, "sampled": {}}}


def light(gain: float, source: float, result: float) -> dict[str, float]:
    return {"gain": gain, "source": source, "result": result, "edges": 0.5, "outside": 0.0}


@pytest.mark.parametrize(
    ("score", "met"),
    [
        (light(3.0, 10.0, 13.0), True),
        (light(2.9, 10.0, 12.9), False),
        (light(2.0, 18.5, 20.5), True),  # near from the start
        (light(1.0, 18.5, 19.5), False),
    ],
)
def test_every_light_edit_has_a_target(score, met):
    part = {"vae": {"mean": 30.0}, "kinds": {"light": score}, "instructions": {"night": score}}
    found = {target.name: target.met for target in targets({"table": part})}
    assert found["gain of every light edit"] is met
    assert found["VAE reconstruction"]
    assert not found["mean gain, light"]


def test_choices_must_all_be_drawn_and_none_too_often():
    def found(counts: dict[str, int], largest: float) -> list[bool]:
        row = {"outcomes": counts, "largest_share": largest, "result": 20.0}
        return [t.met for t in targets({"choice": {"instructions": {"tint": {"coffee": row}}}})]

    assert found({"red": 30, "blue": 34}, 34 / 64) == [True, True, True]
    assert found({"red": 64, "blue": 0}, 1.0) == [False, False, True]


def test_other_words_and_foreign_prompts_have_targets():
    unknown = {"zebra": {"result_to_vae": 31.0, "vae_to_source": 30.0, "warns": True}}
    negative = [{"change": -0.5}, {"change": 0.1}]
    part = {"shares": {"unseen": {"all": 0.79}}, "unknown": unknown, "negative": negative}
    assert [target.met for target in targets({"language": part})] == [False, True, True, False]
    foreign = unknown | {"castle": {"result_to_vae": 29.0, "vae_to_source": 30.0, "warns": False}}
    part = {"shares": {"unseen": {"all": 0.8}}, "unknown": foreign, "negative": []}
    assert [target.met for target in targets({"language": part})] == [True, False, False]
