"""Live bytes are counted by hand, on views, in backward passes, and the same on tensors without memory."""

from __future__ import annotations

import gc

import torch
from hiresmed.core.live_bytes import LiveBytes
from torch._subclasses.fake_tensor import FakeTensorMode


def test_the_peak_is_the_largest_sum_and_now_falls_as_tensors_die():
    with LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1
        assert (live.now, live.peak) == (8000, 8000)
        del a
        assert (live.now, live.peak) == (4000, 8000)
        c = torch.zeros(500, dtype=torch.float64)
        assert (live.now, live.peak) == (8000, 8000)
    del b, c
    assert (live.now, live.peak) == (0, 8000)


def test_views_and_in_place_results_share_one_storage_and_a_view_keeps_all_of_it():
    with LiveBytes() as live:
        a = torch.zeros(100, 10)
        b = a.t()[2:3]
        a.add_(1)
        assert live.now == 4000
        del a
        assert live.now == 4000 and b.shape == (1, 100)
        del b
        assert live.now == 0


def test_tensors_from_before_count_from_the_start_or_from_their_first_use():
    held, used, other = torch.zeros(10), torch.zeros(20), torch.zeros(40)
    with LiveBytes([held]) as live:
        assert live.now == 40
        used.add_(1)
        assert live.now == 120
    assert other.numel() == 40


def test_only_the_named_kind_of_device_counts():
    with LiveBytes(device="meta") as live:
        here = torch.zeros(100)
        there = torch.zeros(10, device="meta")
        assert live.now == 40
    assert here.numel() + there.numel() == 110


def test_what_autograd_keeps_for_the_backward_pass_counts_until_it_has_run():
    x = torch.zeros(1000, requires_grad=True)
    with LiveBytes([x]) as live:
        y = x.sigmoid().sigmoid().sum()
        assert live.now == 3 * 4000 + 4
        y.backward()
        assert live.now == 2 * 4000 + 4, "the gradient has replaced both intermediates"
        assert live.peak >= 4 * 4000


def training_step(dtype: torch.dtype | None, layout: torch.memory_format) -> tuple[int, int]:
    gc.collect()
    # under AMP without the norm: torch's shape function for bfloat16 with float32 weights is not what its kernel does
    norm = torch.nn.GroupNorm(4, 8) if dtype is None else torch.nn.Identity()
    network = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3, padding=1), norm, torch.nn.SiLU(), torch.nn.Conv3d(8, 2, 3))
    x = torch.zeros(1, 3, 8, 8, 8).contiguous(memory_format=layout)
    with (
        LiveBytes([x, *network.parameters()]) as live,
        torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        loss = network(x).float().square().mean()
        loss.backward()
    return live.peak, live.now


def test_tensors_without_memory_count_exactly_as_real_ones():
    for dtype in (None, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            real = training_step(dtype, layout)
            with FakeTensorMode():
                assert training_step(dtype, layout) == real
