"""What torch.compile sees, with dynamo as it is and a backend that counts what it is asked to compile."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.exc import RecompileError
from torch._dynamo.testing import CompileCounter
from torch._inductor import config as inductor

from csd_core.denoisers.base import Branch, Conditioning
from csd_core.denoisers.runtime.batching import evaluator
from csd_core.denoisers.runtime.compiling import check_compiler
from csd_core.engine.config import EditConfig
from csd_core.engine.loop import edit_latents
from csd_core.errors import UserError
from tests.models import load

CPU = torch.device("cpu")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Counts the graphs that are compiled; one more for a function that has one is an error."""
    counter = CompileCounter()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield counter
    torch._dynamo.reset()


def latents(n: int) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(n))


def test_an_edit_compiles_once_whatever_its_steps_ask_for(
    tiny_epsilon: Path, compiler: CompileCounter
) -> None:
    plain = load(tiny_epsilon)
    model = load(tiny_epsilon, compile=True)
    assert model.compiled
    source = latents(7)
    condition = Conditioning(7, image=source)
    # batches of 4 and 3; the second prompt is for some particles alone
    config = EditConfig(num_steps=4, batch_size=4, chunk_size=6, learning_rate=0.1)
    prompts = {"red": [1.0] * 5 + [0.5] * 2, "blue": [0.0] * 5 + [0.5] * 2}
    with model.count_evaluations() as counted:
        edited = edit_latents(model, source, source, condition, prompts, config)
    torch.testing.assert_close(edited, edit_latents(plain, source, source, condition, prompts, config))
    assert compiler.frame_count == 1
    assert counted.count % 6 == 0  # whole batches


def test_fewer_rows_are_filled_up_and_another_size_is_compiled_anew(
    tiny_epsilon: Path, compiler: CompileCounter
) -> None:
    model = load(tiny_epsilon, compile=True)
    evaluate = evaluator(model, 4, fullest=8)
    given = model.conditioning(Branch(True, "red", ()), Conditioning(8, image=latents(8)))
    whole = evaluate(latents(8), torch.full((), 9.0).expand(8), given)
    for n in (7, 5, 3, 1):
        some = evaluate(latents(8)[:n], torch.tensor([9.0] * n), given[:n])
        torch.testing.assert_close(some, whole[:n])
    assert compiler.frame_count == 1
    with pytest.raises(RecompileError):
        model.predict_noise(latents(3), torch.tensor([9.0] * 3), given[:3])


def test_a_machine_without_a_compiler_says_so_before_it_reads_weights(
    tiny_epsilon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_compiler(CPU)
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=r"compile: expected a C\+\+ compiler .*, found none; install it, or"):
        load(tiny_epsilon, compile=True)
    assert not load(tiny_epsilon).compiled


def test_cuda_needs_triton_and_a_device_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr("torch.utils._triton.has_triton_package", lambda: True)
    with pytest.raises(UserError, match=r"compile: expected a device of capability 7\.0 or more"):
        check_compiler(device)
    monkeypatch.setattr("torch.utils._triton.has_triton_package", lambda: False)
    with pytest.raises(UserError, match="compile: expected the package triton, found none"):
        check_compiler(device)
