from typing import Any

import pytest
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.data.scene_box import SceneBox
from torch.nn.functional import normalize

from csd_nerf.csd_model import CSDModel, CSDModelConfig, choose_implementation

RENDER_TOLERANCE = 1e-6


def build(**settings: Any) -> CSDModel:
    torch.manual_seed(0)
    nets = [{"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 32, "use_linear": False}]
    config = CSDModelConfig(
        implementation="tcnn",  # as a preset for a GPU: here it falls back
        log2_hashmap_size=8,
        num_levels=2,
        hidden_dim=8,
        hidden_dim_color=8,
        num_proposal_samples_per_ray=(8, 6),
        num_nerf_samples_per_ray=4,
        proposal_net_args_list=nets,
        **settings,
    )
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return config.setup(scene_box=box, num_train_data=3, metadata={}, device="cpu")


def rays(count: int) -> RayBundle:
    generator = torch.Generator().manual_seed(1)
    return RayBundle(
        origins=torch.rand(count, 3, generator=generator),
        directions=normalize(torch.randn(count, 3, generator=generator), dim=-1),
        pixel_area=torch.full((count, 1), 1e-4),
        camera_indices=torch.zeros(count, 1, dtype=torch.long),
    )


@pytest.fixture(scope="module")
def model() -> CSDModel:
    return build()


def test_falls_back_to_torch_and_prints_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    choose_implementation.cache_clear()
    models = [build(), build()]
    assert [model.config.implementation for model in models] == ["torch", "torch"]
    assert capsys.readouterr().out.count("The scene runs on torch (no CUDA device).") == 1


def test_render_is_nerfactos_and_does_not_affect_training(model: CSDModel) -> None:
    model.eval()
    with torch.no_grad():
        expected = model(rays(50))["rgb"]
    model.train()
    model.proposal_sampler._steps_since_update = 3
    before, generator = model.sampler_state(), torch.get_rng_state()
    got = model.render_rgb(rays(50))
    torch.testing.assert_close(got, expected, rtol=0, atol=RENDER_TOLERANCE)
    assert model.training
    assert model.sampler_state() == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_views_start_with_one_appearance_or_have_none() -> None:
    assert build().field.embedding_appearance is None
    table = build(use_appearance_embedding=True).field.embedding_appearance
    assert table is not None
    assert table.embedding.weight.shape == (3, 4)
    assert not table.embedding.weight.any()


def test_a_checkpoint_with_a_shown_appearance_beside_nerfactos_opens() -> None:
    model = build(use_appearance_embedding=True)
    table = "field.embedding_appearance."
    weights = model.state_dict()
    own = weights[f"{table}embedding.weight"].clone()
    shown = torch.arange(float(own.shape[1]))
    weights[f"{table}shown"] = shown
    weights[f"{table}edited"] = torch.zeros(3, dtype=torch.bool)
    model.load_state_dict(weights, strict=True)
    assert torch.equal(model.state_dict()[f"{table}embedding.weight"], own), "no view was edited"


def test_sampler_continues_from_its_state(model: CSDModel) -> None:
    other = build()
    model.proposal_sampler.set_anneal(0.25)
    model.proposal_sampler.step_cb(7)
    other.load_sampler_state(model.sampler_state())
    assert other.sampler_state() == model.sampler_state()
    assert other.proposal_sampler._anneal == 0.25


def test_schedules_count_the_steps_of_the_loaded_weights() -> None:
    model = build(proposal_weights_anneal_max_num_iters=1000)
    model.steps_before = 30000
    attributes: Any = None
    anneal, _ = model.get_training_callbacks(attributes)
    anneal.run_callback(step=0)
    assert model.proposal_sampler._anneal == 1.0
