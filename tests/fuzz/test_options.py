"""Options that are out of range, of a wrong kind, or contradict each other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.cli.video import VideoOptions, edit_video
from tests.fuzz.outcome import Fuzzed
from tests.fuzz.test_images import FILES, encoded

NUMBERS = ["-1", "0", "1", "2", "3", "7", "0.5", "-0.5", "1e-300", "1e30", "1e308", "nan", "inf", "-inf"]
NUMBERS += ["", "x", "None", "1,5", "9" * 30]
PATHS = [
    "",
    ".",
    "..",
    "/",
    "/dev/null",
    "/proc/1/x.png",
    "nowhere/at/all.png",
    "image.png",
    "image.png/x.png",
]
PATHS += [
    "out/e.png",
    "out/e.jpg",
    "out/e.tif",
    "out/e.xyz",
    "out/e",
    "frames",
    "frames/e.png",
    "~/",
    "ü 'x'.png",
]
PATHS += [
    "a" * 300 + ".png",
    "a" * 240 + ".png",
    "out/e.mp4",
    "out/e.gif",
    "out/e.webm",
    "out/.png",
    "regions.json",
]
PATHS += ["\udc80.png", "out/\udc80.png", "\udc80"]
SWITCHES = ["--shared-noise", "--offload", "--resume", "--dry-run"]
CHOICES: dict[str, list[str]] = {
    "--num-steps": ["-1", "0", "1", "2", "x", "1.5"],
    "--prompt": ["make it red", "", " ", "\n", "x" * 5000, "\udc80", "🦊 <|endoftext|>"],
    "--negative-prompt": ["", "blue", "x" * 5000],
    "--source-prompt": ["", "a picture"],
    "--frames": [
        "",
        ":",
        "0",
        "0:1",
        "1:0",
        "::2",
        "::0",
        "::-1",
        "-1:",
        "9:",
        "x",
        "0:1:1:1",
        "9" * 30 + ":",
    ],
    "--chunk-size": ["auto", *NUMBERS],
    "--model": ["nowhere/at-all", "", "/dev/null", ".", "image.png", "a" * 300, "a/b/c"],
    "--device": ["cpu", "cuda", "cuda:9", "cuda:-1", "gpu", "meta", "mps", "", "cpu:1"],
    "--dtype": ["float16", "bfloat16", "float32", "float64", "x"],
    "--codec": ["ffv1", "libx264", "libx265", "png", "aac", "x", ""],
    "--method": ["csd", "sds", "dds", "no-svgd", "ip2p-resize", "ip2p-patch", "ip2p-overlap", "ip2p-frame"],
    **dict.fromkeys(["--output", "--mask", "--regions"], PATHS),
}
METHOD = [
    "guidance-scale",
    "image-guidance-scale",
    "learning-rate",
    "batch-size",
    "bandwidth-factor",
    "noise-pool",
]
METHOD += ["seed", "max-pixels", "preview-every"]
PANORAMA = ["--image", "--mask", "--regions", "--stride", "--wrap"]
VIDEO = ["--video", "--mask", "--frames", "--resolution", "--max-frames", "--codec", "--crf", "--no-sound"]
BOTH = [f"--{name}" for name in METHOD] + [
    *("--output", "--prompt", "--method", "--num-steps", "--negative-prompt", "--source-prompt"),
    *("--chunk-size", "--model", "--device", "--dtype", "--t-range", *SWITCHES),
]


def values(option: str) -> st.SearchStrategy[list[str]]:
    """What may follow an option."""
    if option in (*SWITCHES, "--wrap", "--no-sound"):
        return st.just([])
    if option in ("--image", "--video"):
        return st.sampled_from(PATHS).map(lambda path: [path])
    count = 2 if option == "--t-range" else 1
    return st.lists(st.sampled_from(CHOICES.get(option, NUMBERS)), min_size=count, max_size=count)


def options(names: list[str]) -> st.SearchStrategy[dict[str, list[str]]]:
    """One option or a few, with values."""
    chosen = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda some: st.fixed_dictionaries({name: values(name) for name in some}))


def run(
    fuzzed: Fuzzed, monkeypatch: pytest.MonkeyPatch, config: type, command, given_: dict[str, list[str]]
) -> None:
    """The command in the folder of the example, so that paths are relative to it."""
    output = fuzzed.folder / given_["--output"][0]
    words = [word for name, of in given_.items() for word in (name, *of)]
    monkeypatch.chdir(fuzzed.folder)
    fuzzed.run(config, command, [*words, "--local-files-only"], output)


def prepare(folder: Path) -> None:
    """The files that options name."""
    (folder / "image.png").write_bytes(FILES["rgb.png"])
    (folder / "corner.png").write_bytes(encoded("PNG", "L"))
    (folder / "regions.json").write_text('[{"prompt": "make it blue", "strip": ["50%", "100%"]}]')
    (folder / "frames").mkdir()
    for k in range(2):
        (folder / "frames" / f"{k}.png").write_bytes(FILES["rgb.png"])


@given(given_=options([*PANORAMA, *BOTH]))
def test_options_of_panoramas(
    fuzzed: Fuzzed, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, given_: dict[str, list[str]]
) -> None:
    usual = {
        "--image": ["image.png"],
        "--output": ["out/e.png"],
        "--prompt": ["make it red"],
        "--num-steps": ["1"],
        "--stride": ["4"],
    }
    usual |= {"--model": [str(tiny_epsilon)], "--device": ["cpu"]}
    with fuzzed.example() as folder:
        prepare(folder)
        run(fuzzed, monkeypatch, PanoramaOptions, edit_panorama, usual | given_)


@given(given_=options([*VIDEO, *BOTH]))
def test_options_of_videos(
    fuzzed: Fuzzed, tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch, given_: dict[str, list[str]]
) -> None:
    usual = {"--video": ["frames"], "--output": ["out/e"], "--prompt": ["make it red"], "--num-steps": ["1"]}
    usual |= {"--model": [str(tiny_epsilon)], "--device": ["cpu"]}
    with fuzzed.example() as folder:
        prepare(folder)
        run(fuzzed, monkeypatch, VideoOptions, edit_video, usual | given_)
