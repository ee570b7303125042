"""Every contender does the same edit, and does what it is charged for."""

from dataclasses import replace

import pytest
import torch

from csd_core.bench.edits import Recorder, SyntheticClip, short_edit, smooth_image
from csd_core.bench.models import Setup

CHANNELS_LAST = Setup(channels_last=True)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, x, t, *, words):
        self.inputs.append((tuple(x.shape), x.stride(), x.dtype, t, words.dtype, torch.is_grad_enabled()))
        return x


def test_calls_are_repeated_in_order_with_shape_type_and_format():
    network = Network()
    recorder, words = Recorder(network), torch.zeros(1).half()
    for _ in range(2):  # the second recording replaces the first
        with recorder.recording():
            network(torch.zeros(4, 2, 3, 3), 7, words=words)
            network(torch.zeros(3, 2, 3, 3).to(memory_format=torch.channels_last), 7, words=words)
            network(torch.zeros(4, 2, 3, 3), 7, words=words)
    assert (recorder.calls, recorder.evaluations) == ([4, 3, 4], 11)
    recorded = [call[:-1] for call in network.inputs[-3:]]
    network.inputs.clear()
    recorder.replay()
    assert [call[:-1] for call in network.inputs] == recorded
    assert not any(call[-1] for call in network.inputs)  # without gradients
    assert recorder.calls == [4, 3, 4]


@pytest.mark.parametrize("setup", [CHANNELS_LAST, Setup(torch.bfloat16)], ids=str)
def test_setups_do_the_same_edit(config, setup):
    plain, other = (short_edit(config, "mini", each) for each in (Setup(), setup))
    source, (one, two) = plain.latents, (plain.run(), other.run())
    assert torch.equal(source, other.latents)
    tolerance = 0.1 if setup.dtype == torch.bfloat16 else 1e-4
    assert (one - source).abs().max() > 0.01
    assert (one - two).abs().max() < tolerance * (one - source).abs().max()


@pytest.mark.parametrize("setup", [Setup(), CHANNELS_LAST], ids=str)
def test_network_computes_in_the_memory_format_of_the_setup(config, setup):
    edit, formats = short_edit(config, "mini", setup), set()

    def note(_, args):
        formats.add(args[0].is_contiguous(memory_format=torch.channels_last))

    edit.model.unet.get_submodule("conv_in").register_forward_pre_hook(note)
    edit.warm_up()
    assert formats == {setup.channels_last}


@pytest.mark.parametrize(("pool", "evaluations"), [(0, 5), (2, 3 + 2 * 2 / 4)])
def test_network_alone_repeats_the_calls_of_the_edit(config, pool, evaluations):
    edit = short_edit(replace(config, particles=4), "mini", Setup(noise_pool=pool))
    sizes: list[int] = []
    edit.model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    edit.engine.run()
    called = list(sizes)
    assert max(called) <= 16
    assert sum(called) == edit.recorder.evaluations == edit.evaluations == evaluations * 4 * 4
    sizes.clear()
    edit.network.run()
    assert sizes == called
    assert edit.engine.units == edit.network.units == 4 * 4


def test_a_synthetic_clip_moves():
    frames = list(SyntheticClip(40, (64, 36)).frames())
    assert len(frames) == 40
    assert frames[0].shape == (36, 64, 3)
    assert (frames[0] != frames[1]).any()


def test_the_image_is_smooth_and_the_same_every_time():
    image = smooth_image((200, 130))
    assert image.shape == (1, 3, 130, 200)
    assert torch.equal(image, smooth_image((200, 130)))
    assert image.diff(dim=-1).abs().max() < 0.05
    assert image.std() > 0.05
