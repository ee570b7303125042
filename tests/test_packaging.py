"""What an installation holds: pins, ranges, entry points, files, and the targets of the Makefile."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
NOT_NEEDED = {"pyliblzfse"}
"""Required by a dependency for something that is never used here; needs a compiler to install."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN_LINES = [
    line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in PIN_LINES}
DECLARED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]


def test_pins_are_names_and_versions_alone():
    for line in PIN_LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
    assert len(PINS) == len(PIN_LINES)


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_stated_range_admits_the_pin(requirement: Requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def needs(name: str, extras: set[str]) -> list[Requirement]:
    """What an installed package requires here."""
    environments = [{**default_environment(), "extra": extra} for extra in {"", *extras}]
    found = [Requirement(line) for line in importlib.metadata.requires(name) or []]
    return [r for r in found if r.marker is None or any(r.marker.evaluate(e) for e in environments)]


def test_pins_are_complete_and_agree_with_each_other():
    """Installed without a resolver, they must need no other package and contradict none."""
    waiting, seen = list(DECLARED), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in NOT_NEEDED:
            continue
        assert name in PINS, f"{requirement} is not pinned"
        assert requirement.specifier.contains(PINS[name], prereleases=True), (
            f"{requirement}: pin {PINS[name]}"
        )
        if (name, frozenset(requirement.extras)) not in seen:
            seen.add((name, frozenset(requirement.extras)))
            waiting += needs(name, requirement.extras)


def test_the_environment_is_the_pinned_one():
    different = {
        name: importlib.metadata.version(name)
        for name, version in PINS.items()
        if importlib.metadata.version(name) != version
    }
    assert not different, "run make install"


def test_methods_are_registered_under_their_names():
    entries = importlib.metadata.entry_points(group="nerfstudio.method_configs")
    ours = {entry.name: entry for entry in entries if entry.value.startswith("csd_nerf")}
    assert set(ours) == {"csd-nerf2nerf", "csd-nerf2nerf-small", "csd-nerf2nerf-tiny"}
    for name, entry in ours.items():
        assert entry.load().config.method_name == name


def test_console_commands_can_be_called():
    entries = importlib.metadata.entry_points(group="console_scripts")
    ours = [entry for entry in entries if entry.name.startswith("csd-")]
    assert {entry.name for entry in ours} == set(PROJECT["scripts"])
    for entry in ours:
        assert callable(entry.load())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("csd_core", {"diffusers", "transformers", "nerfstudio"}),
        ("csd_core.command", {"diffusers", "transformers", "nerfstudio"}),
        ("csd_nerf.commands.demo", {"diffusers", "transformers", "nerfstudio"}),
        ("csd_nerf.csd_config", {"diffusers", "transformers"}),
    ],
)
def test_importing_stays_light(module: str, absent: set[str]):
    program = f"import sys, {module}; print(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1:] in ([], [""])


def test_wheel_holds_every_file_of_both_packages(tmp_path: Path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {
        str(path.relative_to(ROOT))
        for package in ("csd_core", "csd_nerf")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(files) > 20
    assert files <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests") for name in names)


# ---- the Makefile


def make(*words: str) -> str:
    done = subprocess.run(["make", "-s", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_names_every_target():
    text = (ROOT / "Makefile").read_text()
    listed = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert listed is not None
    shown = make("help")
    for target in listed.group(1).split():
        assert re.search(rf"make {target}\s+\w", shown), target


def test_demo_passes_data_and_prompt_on_as_they_are(tmp_path: Path):
    fake = tmp_path / "csd-demo"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "offline=$HF_HUB_OFFLINE" "$@"\n')
    fake.chmod(0o755)
    stamp = tmp_path / "installed"
    stamp.touch()
    settings = [
        f"BIN={tmp_path}",
        f"STAMP={stamp}",
        "--assume-old=requirements.txt",
        "--assume-old=pyproject.toml",
    ]
    assert make("demo", *settings).split() == ["offline=1"]
    prompt = """make "it" snow; it's cold"""
    given = make("demo", *settings, "DATA=my scene", f"PROMPT={prompt}").splitlines()
    assert given == ["offline=1", "--data", "my scene", "--prompt", prompt]


def test_ci_checks_everything():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert re.findall(r"^make (\w+)$", text, re.MULTILINE) == ["install", "lint", "types", "test"]
