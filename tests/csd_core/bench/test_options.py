import pytest
import torch

from csd_core.bench.options import BenchOptions, parse_size
from csd_core.errors import UserError


@pytest.mark.parametrize("text", ["64", "64x", "64x31", "-64x64", "64x64x64", "a4x64", "²00x200"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="compare_sizes: expected WIDTHxHEIGHT"):
        parse_size("compare_sizes", text)
    assert parse_size("sizes", "32X640") == (32, 640)


def test_what_is_given_stands_and_the_rest_is_set():
    settled = BenchOptions(device="cpu", rounds=7, compare_sizes=()).settled()
    assert (settled.rounds, settled.compare_sizes) == (7, [])
    assert settled.sizes == [(1920, 640), (3968, 4352), (8192, 4096)]
    assert (settled.models, settled.particles, settled.steps) == (("mini",), 8, None)
    assert settled.device == torch.device("cpu")


def test_quick_is_little_of_everything():
    quick, full = (BenchOptions(device="cpu", quick=quick).settled() for quick in (True, False))
    assert quick.rounds < full.rounds
    assert max(quick.frames) < max(full.frames)
    assert "compile" not in quick.speedups
    assert BenchOptions(quick=True, device="cpu", speedups=("compile",)).settled().speedups == ("compile",)
