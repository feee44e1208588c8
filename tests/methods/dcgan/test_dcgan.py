"""Laws: the paper's networks to the parameter, at any size; norms and dropout are on in training and off after it."""

from __future__ import annotations

import pytest
import torch
from hiresmed.core.errors import InputError
from hiresmed.methods.dcgan.networks import NORMS, DcganCritic, DcganGenerator, norm_layer
from torch import nn

pytestmark = pytest.mark.processor


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tiny(norm="batch", **options):
    return DcganGenerator(size=32, width=32, norm=norm, **options), DcganCritic(size=32, width=32, norm=norm)


def test_both_networks_have_the_papers_number_of_parameters():
    with torch.device("meta"):
        assert parameters(DcganGenerator(3)) == 13_324_797
        assert parameters(DcganCritic(3, norm="batch")) == 23_589_473


def test_the_layers_are_the_papers_in_its_order():
    with torch.device("meta"):
        generator, critic = DcganGenerator(3), DcganCritic(3)
    made = [(m.out_channels, *m.kernel_size[:1], *m.stride[:1]) for m in generator.modules() if hasattr(m, "stride")]
    assert made == [*[(n, 4, 2) for n in (512, 256, 128, 64, 32, 3)], (3, 3, 1)]
    judged = [(m.out_channels, *m.kernel_size[:1], *m.stride[:1]) for m in critic.modules() if hasattr(m, "stride")]
    assert judged == [
        *[(n, 4, 2) for n in (32, 64, 128, 256)], (256, 3, 1), (512, 4, 2), (512, 3, 1), (1024, 4, 2), (1024, 3, 1)
    ]  # fmt: skip
    assert not isinstance(critic.features[1], nn.InstanceNorm2d) and isinstance(critic.features[4], nn.InstanceNorm2d)
    assert isinstance(generator.dense_norm, nn.BatchNorm1d) and generator.dense_norm.num_features == 16_384


def test_the_last_layer_reads_as_many_channels_as_asked_for():
    asked, published = DcganGenerator(size=16, width=8, last_width=5), DcganGenerator(size=16, width=8)
    assert asked.last.weight.shape == (5, 1, 3, 3) and published.last.weight.shape == (1, 1, 3, 3)
    assert asked.blocks[-1][0].out_channels == 5
    with pytest.raises(InputError, match="last_width must be a whole number from 1 on, got '0'"):
        DcganGenerator(size=16, width=8, last_width=0)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_power_of_two_passes_through_both_and_every_parameter_learns(size, channels):
    generator = DcganGenerator(channels, size=size, width=32)
    critic = DcganCritic(channels, size=size, width=32)
    images = generator(torch.randn(4, 128))
    assert images.shape == (4, channels, size, size) and images.abs().max() <= 1
    (critic(images) * torch.tensor([[1.0], [2], [-1], [3]])).sum().backward()
    for name, p in [*generator.named_parameters(), *critic.named_parameters()]:
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [0, 4, 48, 100])
def test_other_sizes_are_refused(size):
    for network in (DcganGenerator, DcganCritic):
        with pytest.raises(InputError, match=f"power of two from 8 on, got {size}"):
            network(size=size, width=32)


def test_mistaken_norms_widths_and_images_are_named():
    with pytest.raises(InputError, match="batch, sync_batch, frozen_batch, instance, group, none"):
        DcganGenerator(size=8, norm="layer")
    with pytest.raises(InputError, match="multiple of 32"):
        DcganCritic(size=256, width=48)
    with pytest.raises(InputError, match=r"\(B, 1, 32, 32\), got \(2, 3, 32, 32\)"):
        tiny()[1](torch.zeros(2, 3, 32, 32))


def test_weights_begin_normal_with_deviation_02_and_norms_as_identity():
    generator = DcganGenerator(size=32, width=128)
    for module in (generator.dense, generator.blocks[0][0]):
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.02) and module.bias.eq(0).all()
    assert generator.blocks[0][1].weight.eq(1).all() and generator.blocks[0][1].bias.eq(0).all()


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_batch_statistics_move_in_training_and_stand_still_after_it(norm):
    generator, critic = tiny(norm)
    for network, x in ((generator, 5 + torch.randn(8, 128)), (critic, torch.randn(8, 1, 32, 32))):
        before = {k: v.clone() for k, v in network.named_buffers() if k.endswith("running_var")}
        assert before
        network(x)
        after = dict(network.named_buffers())
        assert all(not torch.equal(after[k], v) for k, v in before.items())
        held = {k: v.clone() for k, v in after.items()}
        network.eval()(x)
        assert all(torch.equal(v, held[k]) for k, v in network.named_buffers())


def test_dropout_drops_its_share_in_training_and_nothing_after_it():
    generator = DcganGenerator(size=32, width=32, norm="none", dropout=0.3)
    kept = []
    generator.blocks[0][2].register_forward_hook(lambda _, inputs, out: kept.append((out != 0).float().mean().item()))
    z = torch.randn(16, 128)
    assert not torch.equal(generator(z), generator(z))
    assert kept[0] == pytest.approx(0.7, abs=0.03)
    generator.eval()
    assert torch.equal(generator(z), generator(z)) and kept[-1] == 1


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_depends_on_its_neighbours_in_the_batch_only_under_batch_norms(norm):
    generator, critic = tiny(norm, dropout=0.0)
    z, x = torch.randn(4, 128), torch.randn(4, 1, 32, 32)
    for network, value in ((generator, z), (critic, x)):
        changed = torch.cat([value[:1], 3 * value[1:]])
        same = torch.allclose(network(value)[0], network(changed)[0], rtol=1e-4, atol=1e-6)
        assert same == (norm not in ("batch", "sync_batch"))


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_other_norms_really_normalise_the_dense_grid(norm):
    generator, _ = tiny(norm)
    x = generator.grid_norm(generator.unflatten(generator.dense(100 * torch.randn(3, 128))))
    groups = x.view(3, 32, -1)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(3, 32), atol=1e-4, rtol=0)
    torch.testing.assert_close(groups.var(-1, correction=0), torch.ones(3, 32), atol=1e-2, rtol=0)


def test_the_critics_gradient_can_be_differentiated_again():
    critic = tiny("instance")[1]
    x = torch.randn(2, 1, 32, 32, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    assert critic.features[0].weight.grad.abs().sum() > 0


def test_a_frozen_batch_norm_is_scale_and_shift_alone_as_in_the_published_dcgan():
    generator, critic = tiny("frozen_batch", dropout=0.0)
    z = torch.randn(6, 128)
    before = {name: b.clone() for name, b in generator.named_buffers()}
    together, images = generator.train()(z), critic.train()(generator(z))
    assert torch.equal(together[:1], generator(z[:1])) or torch.allclose(together[:1], generator(z[:1]), atol=1e-6)
    assert images.shape == (6, 1)
    assert all(torch.equal(b, before[name]) for name, b in generator.named_buffers())
    assert parameters(generator) == parameters(tiny("batch")[0])
    values = torch.randn(3, 5, 2, 2)
    norm = norm_layer("frozen_batch", 5).train()
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 0.5)
    torch.testing.assert_close(norm(values), 3 * values / (1 + norm.eps) ** 0.5 + 0.5)


def test_one_latent_has_no_batch_statistics_and_is_met_with_a_sentence():
    one = torch.zeros(1, 8)
    network = DcganGenerator(size=16, width=8, latent_size=8)
    with pytest.raises(InputError, match="batch_size must be at least 2"):
        network(one)
    assert network.eval()(one).isfinite().all()
    for norm in ("group", "frozen_batch", "none"):
        assert DcganGenerator(size=16, width=8, latent_size=8, norm=norm)(one).isfinite().all()


def test_a_critic_that_compares_images_tells_copies_from_others_and_each_group_is_judged_apart():
    torch.manual_seed(0)
    critic = DcganCritic(size=32, width=32, norm="none", group_size=4).double()
    images = torch.randn(8, 1, 32, 32, dtype=torch.float64)
    logits = critic(images)
    assert not torch.equal(critic(images[:1].repeat(4, 1, 1, 1))[:1], logits[:1])
    torch.testing.assert_close(critic(images[4:]), logits[4:], rtol=1e-12, atol=1e-12)
    with torch.device("meta"):
        assert (
            parameters(DcganCritic(size=32, width=32, group_size=4)) == parameters(DcganCritic(size=32, width=32)) + 16
        )
