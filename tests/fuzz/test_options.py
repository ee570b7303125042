"""Options that are out of range, of a wrong kind, or contradict each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csd_core.cli.panorama import PanoramaOptions, edit_panorama
from csd_core.cli.video import VideoOptions, edit_video
from tests.fuzz.outcome import Fuzzed, Outcome
from tests.fuzz.test_images import FILES, encoded

PANORAMAS, VIDEOS = (PanoramaOptions, edit_panorama), (VideoOptions, edit_video)
NUMBERS = [
    *("-1", "0", "1", "2", "3", "7", "0.5", "-0.5", "1e-300", "1e30", "1e308", "nan", "inf", "-inf"),
    *("", "x", "None", "1,5", "9" * 30),
]
PATHS = [
    *("", ".", "..", "/", "~/", "/dev/null", "/proc/1/x.png", "nowhere/at/all.png", "regions.json"),
    *("image.png", "image.png/x.png", "corner.png", "frames", "frames/e.png", "out/e", "out/.png"),
    *("out/e.png", "out/e.jpg", "out/e.tif", "out/e.xyz", "out/e.mp4", "out/e.gif", "out/e.webm"),
    *("a" * 300 + ".png", "a" * 240 + ".png", "ü 'x'.png", "\udc80.png", "out/\udc80.png", "\udc80"),
]
CHOICES: dict[str, list[str]] = {
    "num_steps": ["-1", "0", "1", "2", "x", "1.5"],
    "prompt": ["make it red", "", " ", "\n", "x" * 5000, "\udc80", "🦊 <|endoftext|>"],
    "negative_prompt": ["", "blue", "x" * 5000],
    "source_prompt": ["", "a picture"],
    "frames": [
        *("", ":", "0", "0:1", "1:0", "::2", "::0", "::-1", "-1:", "9:", "x", "0:1:1:1", "9" * 30 + ":")
    ],
    "chunk_size": ["auto", *NUMBERS],
    "model": ["nowhere/at-all", "", "/dev/null", ".", "image.png", "a" * 300, "a/b/c"],
    "device": ["cpu", "cuda", "cuda:9", "cuda:-1", "gpu", "meta", "mps", "", "cpu:1"],
    "dtype": ["float16", "bfloat16", "float32", "float64", "x"],
    "codec": ["ffv1", "libx264", "libx265", "png", "aac", "x", ""],
    "method": ["csd", "sds", "dds", "no-svgd", "ip2p-resize", "ip2p-patch", "ip2p-overlap", "ip2p-frame"],
    **dict.fromkeys(["image", "video", "output", "mask", "regions"], PATHS),
}
LEFT_OUT = {"verbose", "compile", "local_files_only"}  # a traceback, minutes, and the network


def values(option: str, usual: object) -> st.SearchStrategy[list[str]]:
    """An option with what may follow it. usual: its default."""
    name = option.replace("_", "-")
    if isinstance(usual, bool):
        return st.just([f"--{'no-' if usual else ''}{name}"])
    texts = st.sampled_from(CHOICES.get(option, NUMBERS))
    count = 2 if option == "t_range" else 1
    return st.lists(texts, min_size=count, max_size=count).map(lambda given_: [f"--{name}", *given_])


def options(kind: type[Any], source: str) -> st.SearchStrategy[list[list[str]]]:
    """One option of a command or a few, with values."""
    every = kind(**{source: Path("in"), "output": Path("out")}).as_json()
    names = st.sampled_from(sorted(every.keys() - LEFT_OUT))
    chosen = st.lists(names, min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda some: st.tuples(*(values(name, every[name]) for name in some)).map(list))


def check(
    fuzzed: Fuzzed,
    monkeypatch: pytest.MonkeyPatch,
    kind: tuple[type[Any], Callable[[Any], None]],
    usual: dict[str, str],
    changed: list[list[str]],
) -> Outcome:
    """The command in a folder with the files that options name."""
    given_ = {name: [name, value] for name, value in usual.items()} | {words[0]: words for words in changed}
    with fuzzed.example() as folder:
        (folder / "image.png").write_bytes(FILES["rgb.png"])
        (folder / "corner.png").write_bytes(encoded("PNG", "L"))
        (folder / "regions.json").write_text('[{"prompt": "make it blue", "strip": ["50%", "100%"]}]')
        (folder / "frames").mkdir()
        for k in range(2):
            (folder / "frames" / f"{k}.png").write_bytes(FILES["rgb.png"])
        monkeypatch.chdir(folder)
        words = [word for of in given_.values() for word in of]
        return fuzzed.run(*kind, [*words, "--local-files-only"], folder / given_["--output"][1])


@pytest.fixture
def usual(tiny_epsilon: Path) -> dict[str, str]:
    """Good options of both commands."""
    good = {"--prompt": "make it red", "--num-steps": "1", "--device": "cpu"}
    return good | {"--model": str(tiny_epsilon)}


@pytest.fixture
def panorama(usual: dict[str, str]) -> dict[str, str]:
    """Good options of csd-edit-panorama."""
    return {"--image": "image.png", "--output": "out/e.png", "--stride": "4"} | usual


@pytest.fixture
def video(usual: dict[str, str]) -> dict[str, str]:
    """Good options of csd-edit-video."""
    return {"--video": "frames", "--output": "out/e"} | usual


def test_the_usual_options_are_good(
    fuzzed: Fuzzed, monkeypatch: pytest.MonkeyPatch, panorama: Any, video: Any
) -> None:
    for kind, words in (PANORAMAS, panorama), (VIDEOS, video):
        assert check(fuzzed, monkeypatch, kind, words, []).code == 0


@given(changed=options(PanoramaOptions, "image"))
def test_options_of_panoramas(
    fuzzed: Fuzzed, monkeypatch: pytest.MonkeyPatch, panorama: Any, changed: list[list[str]]
) -> None:
    check(fuzzed, monkeypatch, PANORAMAS, panorama, changed)


@given(changed=options(VideoOptions, "video"))
def test_options_of_videos(
    fuzzed: Fuzzed, monkeypatch: pytest.MonkeyPatch, video: Any, changed: list[list[str]]
) -> None:
    check(fuzzed, monkeypatch, VIDEOS, video, changed)
