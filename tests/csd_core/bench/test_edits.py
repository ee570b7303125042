"""Every contender does the same edit, and spends what it is charged for."""

from dataclasses import replace

import pytest
import torch

from csd_core.bench.edits import short_edit
from csd_core.bench.workloads import PLAIN, Setup
from csd_core.canvas.video import Frames
from csd_core.presets import VIDEO_MINI, scheduled

CHANNELS_LAST = Setup(channels_last=True)


def test_it_has_the_steps_of_a_short_video(config):
    edit = short_edit(replace(config, steps=None), "mini", PLAIN).config
    assert edit.num_steps == scheduled(VIDEO_MINI.edit, Frames(8, 8), VIDEO_MINI, None).num_steps > 8
    assert (edit.batch_size, edit.max_batch) == (config.particles, config.max_batch)
    assert (edit.guidance_scale, edit.noise_pool) == (VIDEO_MINI.edit.guidance_scale, 0)


@pytest.mark.parametrize("setup", [CHANNELS_LAST, Setup(torch.bfloat16)], ids=str)
def test_setups_do_the_same_edit(config, setup):
    plain, other = (short_edit(config, "mini", each) for each in (PLAIN, setup))
    source, (one, two) = plain.latents, (plain.run(), other.run())
    assert torch.equal(source, other.latents)
    tolerance = 0.1 if setup.dtype == torch.bfloat16 else 1e-4
    assert (one - source).abs().max() > 0.01
    assert (one - two).abs().max() < tolerance * (one - source).abs().max()


def test_memory_format_is_what_the_setup_says(config):
    for setup in (PLAIN, CHANNELS_LAST):
        edit, formats = short_edit(config, "mini", setup), set()

        def note(_, args, formats=formats):
            formats.add(args[0].is_contiguous(memory_format=torch.channels_last))

        edit.workload.unet.get_submodule("conv_in").register_forward_pre_hook(note)
        edit.warm_up()
        assert formats == {setup.channels_last}


def test_bare_network_repeats_what_the_edit_asked_for(config):
    edit = short_edit(replace(config, steps=4, max_batch=4), "mini", Setup(noise_pool=2))
    sizes: list[int] = []
    edit.workload.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    edit.ours.run()
    asked = list(sizes)
    assert max(asked) <= 4
    assert sum(asked) == edit.recorder.evaluations == config.particles * (4 * 3 + 2 * 2)  # reuse: 2 pairs
    sizes.clear()
    edit.bare.run()
    assert sizes == asked
    assert edit.ours.units == edit.bare.units == 4 * config.particles


def test_fresh_draws_take_five_evaluations(config):
    edit = short_edit(config, "mini", PLAIN)
    edit.run()
    assert edit.recorder.evaluations == 5 * edit.particle_steps
