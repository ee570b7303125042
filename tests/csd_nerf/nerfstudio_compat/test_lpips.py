from pathlib import Path

import pytest
import torch

from csd_nerf.nerfstudio_compat.lpips import LazyLPIPS, _lpips
from tests.csd_nerf.test_csd_model import build


def test_metrics_do_without_lpips_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = build()
    assert isinstance(model.lpips, LazyLPIPS)
    assert not any("lpips" in key for key in model.state_dict())
    names = ("accumulation", "depth", "prop_depth_0", "prop_depth_1")
    images = {name: torch.rand(64, 64, 1) for name in names}
    _lpips.cache_clear()
    for _ in range(2):
        metrics, _ = model.get_image_metrics_and_images(
            {"rgb": torch.rand(64, 64, 3), **images}, {"image": torch.rand(64, 64, 3)}
        )
        assert metrics.keys() == {"psnr", "ssim"}
    assert capsys.readouterr().out.count("note: LPIPS is left out") == 1
    _lpips.cache_clear()
