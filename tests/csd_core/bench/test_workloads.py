import torch

from csd_core.bench.workloads import PLAIN, default_setup, missing, stable_diffusion_workload
from csd_core.denoisers.runtime.precision import default_dtype
from csd_core.errors import UserError

CPU = torch.device("cpu")


def test_stable_diffusion_workload_has_the_size_it_claims():
    workload = stable_diffusion_workload(torch.device("meta"), PLAIN)
    parameters = sum(p.numel() for p in workload.unet.parameters())
    # 859,520,964 of Stable Diffusion 1.5, and 4 more input channels of its first 3 x 3 convolution.
    assert parameters == 859_520_964 + 4 * 3 * 3 * 320
    assert (workload.denoiser.downscale, workload.denoiser.native_size) == (8, 512)


def test_the_default_is_what_the_commands_do():
    assert default_setup(CPU).dtype == default_dtype(CPU)
    assert not default_setup(CPU).compile


def test_a_speed_up_that_cannot_be_had_says_why(monkeypatch):
    def absent(_):
        raise UserError("compile: expected a compiler")

    monkeypatch.setattr("csd_core.bench.workloads.check_compiler", absent)
    assert missing("compile", CPU) == "compile: expected a compiler"
    monkeypatch.setattr("csd_core.bench.workloads.has_native_bfloat16", lambda: False)
    assert missing("precision", CPU) == "this processor has no bfloat16"
    assert missing("reuse", CPU) is None
