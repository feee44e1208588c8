"""What paper.yaml trains has the papers' settings, and inference has those of training.

The sets of dcgan_mri are in test_dcgan_front_door.py.
"""

from __future__ import annotations

import pathlib

import pytest
import torch
from hiresmed.methods.msgan.levels import number_of_scales
from hiresmed.training import LeastSquares, NonSaturating, R1Penalty
from monai.bundle import ConfigParser

# what a run of inference sets for itself; all other knobs of both configs belong to the weights
ITS_OWN = {"output_dir", "batch_size", "label_coding", "amp", "phantom", "network", "network_def", "run"}
BUNDLES = pathlib.Path(__file__).resolve().parents[1] / "bundles"


@pytest.fixture
def paper():
    """(bundle, small sizes that no test looks at) -> the resolver of its train.yaml under its paper.yaml."""

    def read(bundle, **small):
        parser = ConfigParser()
        parser.read_config([str(BUNDLES / bundle / "configs" / name) for name in ("train.yaml", "paper.yaml")])
        parser.update({key.replace("__", "::"): value for key, value in small.items()})
        return parser.get_parsed_content

    return read


@pytest.mark.parametrize(
    ("bundle", "shape", "scales"), [("msgan_ct3d", (512,) * 3, 3), ("msgan_xray2d", (2048, 2048), 5)]
)
def test_the_cascade_is_lsgan_and_ten_l1_by_adam_with_weights_of_each_scale(paper, bundle, shape, scales):
    """Uzunova et al. 2019: LSGAN + 10 L1, Adam 2e-4, beta1 .5, 64 doubled to the final size, weights of each scale."""
    get = paper(bundle, network_def__base__width=16, network_def__stage__width=16, discriminator_def__channels=8)
    objective = get("train::trainer::objective")
    assert type(objective) is LeastSquares
    assert get("adversarial_weight") == 1.0
    weight, loss = get("train::trainer::generator_losses")["l1"]
    assert weight == 10.0 and type(loss) is torch.nn.L1Loss
    for optimizer in (get("g_optimizer"), get("d_optimizer")):
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.defaults["lr"] == 2e-4 and optimizer.defaults["betas"][0] == 0.5
    network = get("network_def")
    assert get("base_size") == 64 and number_of_scales(shape, get("base_size"), network.factor) == scales
    assert len({id(network.stage(number)) for number in range(scales + 1)}) == scales + 1
    assert get("corruption") == get("rollout") == 0.0


def test_patches_are_the_papers_32_voxels(paper):
    assert paper("msgan_ct3d")("patch_size") == 32


def test_the_diffusion_is_that_of_the_paper(paper):
    """Bieder et al. 2023: patches of 128^3 on 256^3, eps, T = 1000, linear betas 1e-4 .. .02, AdamW 1e-5, no EMA."""
    get = paper("patchddm_brats")
    assert (get("patch_size"), get("reference_size")) == (128, [256, 256, 256])
    assert (get("coordinates"), get("crop_law"), get("skip"), get("regions")) == (
        "endpoint",
        "trapezoid",
        "average",
        ["WT"],
    )
    schedule = get("schedule")
    assert schedule.prediction == "eps" and schedule.first == 999
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert schedule.log_alpha_bar(999) == pytest.approx(torch.log1p(-betas).sum().item(), rel=1e-12)
    optimizer = get("optimizer")
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["lr"] == 1e-5
    assert get("ema_decay") == 0.0 and get("label_range") == [0, 1]
    assert sum(p.numel() for p in get("network_def").parameters()) == 24_260_299


def test_the_stages_of_the_images_generator_are_the_papers(paper):
    """Lee et al. 2022: 256^2 in three stages, patches of a quarter, batch 32, non-saturating loss, lazy R1."""
    small = {"network_def__channels": [8] * 7, "discriminator_def__width": 8, "discriminator_def__max_width": 8}
    get = paper("inr_gan_multistage", **small)
    assert [grid for grid, _ in get("stages")] == [[64, 64], [128, 128], [256, 256]]
    assert [patch for _, patch in get("stages")] == [[64, 64]] * 3
    assert (get("batch_size"), get("consistency_weight")) == (32, 0.1)
    assert type(get("train::trainer::objective")) is NonSaturating
    (penalty,) = get("train::trainer::penalties")
    assert type(penalty) is R1Penalty and (penalty.weight, penalty.every) == (10.0, 16)
    assert get("g_optimizer").defaults["lr"] == pytest.approx(0.002 * 4 / 5)
    assert get("d_optimizer").defaults["lr"] == pytest.approx(0.002 * 16 / 17, rel=1e-5)
    assert get("g_optimizer").defaults["betas"] == pytest.approx((0, 0.99 ** (4 / 5)), abs=1e-5)


@pytest.mark.parametrize("bundle", sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/train.yaml")))
def test_inference_has_the_settings_of_training(bundle):
    configs = [
        ConfigParser.load_config_file(str(BUNDLES / bundle / "configs" / f"{n}.yaml")) for n in ("train", "inference")
    ]
    training, inference = configs
    shared = {name for name in set(training) & set(inference) - ITS_OWN if not isinstance(inference[name], dict)}
    shared = {name for name in shared if "_target_" not in str(inference[name])}
    assert {"seed", "dataset_dir"} < shared and len(shared) >= 8
    assert {name: inference[name] for name in shared} == {name: training[name] for name in shared}
    for part in ("network_def",) if bundle in ("dcgan_mri", "inr_gan_multistage", "patchddm_brats") else ():
        assert inference[part] == training[part]
