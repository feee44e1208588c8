"""Speed of the PatchDDM U-Net: against MONAI's diffusion U-Net of as many parameters, and its lean forward pass.

No command of its own: `scripts/benchmark.py patchddm_speed` runs it. MONAI's network needs the package einops.
"""

from __future__ import annotations

import torch
from benchmark_paired import paired
from hiresmed.methods.patchddm import PatchDDMUNet, lean_forward
from monai.networks.nets import DiffusionModelUNet

PAPER = (1, 3, 4, 4, 4, 4, 4)  # width of each level in the first one's
CHANNELS_IN = 8


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Layers that start at zero filled too, so that equal outputs mean something; for inference, channels last."""
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(std=0.02)
    return network.to(memory_format=torch.channels_last_3d).eval()


def ours() -> PatchDDMUNet:
    """The paper's network."""
    torch.manual_seed(0)
    return randomised(PatchDDMUNet(channel_multipliers=PAPER))


def monais(wanted: int) -> DiffusionModelUNet:
    """MONAI's network of the same levels, of the width whose number of parameters is nearest to `wanted`."""

    def made(width: int) -> DiffusionModelUNet:
        levels = [width * multiplier for multiplier in PAPER]
        options = {"num_res_blocks": 2, "attention_levels": [False] * len(levels), "norm_num_groups": width}
        return DiffusionModelUNet(3, CHANNELS_IN, 1, channels=levels, num_head_channels=width, **options)

    with torch.device("meta"):
        width = min(range(20, 30), key=lambda w: abs(parameters(made(w)) - wanted))
    return randomised(made(width))


def inputs(size: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(1, CHANNELS_IN, size, size, size, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).contiguous(memory_format=torch.channels_last_3d), torch.tensor([500])


@torch.inference_mode()
def speed(size: int, repeats: int = 3) -> list[dict]:
    """Forward passes at size^3, the lean one at twice that; processor seconds, and how many times faster."""
    network = ours()
    peer = monais(parameters(network))
    half, half_peer = (randomised(n) for n in (ours().bfloat16(), monais(parameters(network)).bfloat16()))
    x, t = inputs(size)
    x16, _ = inputs(size, torch.bfloat16)
    ways = {
        "MONAI, float32": lambda: peer(x, t),
        "ours, float32": lambda: network(x, t),
        "MONAI, bfloat16": lambda: half_peer(x16, t),
        "ours, bfloat16": lambda: half(x16, t),
    }
    found = paired(ways, repeats)
    count = {"MONAI": parameters(peer), "ours": parameters(network)}
    rows = [
        {
            "forward": name,
            "size": size,
            "parameters": count[name.split(",")[0]],
            "seconds": seconds,
            "compared_with": "MONAI, float32",
            "times_faster": found["MONAI, float32"] / seconds,
        }
        for name, seconds in found.items()
    ]
    return rows + lean(network, half, 2 * size, repeats)


def lean(network: PatchDDMUNet, half: PatchDDMUNet, size: int, repeats: int) -> list[dict]:
    """The lean forward pass against the plain one at size^3, after a look that both give the same."""
    rows = []
    for name, net, dtype in (("float32", network, torch.float32), ("bfloat16", half, torch.bfloat16)):
        x, t = inputs(size, dtype)
        plain, made = net(x, t), lean_forward(net, x, t)
        gap = ((plain - made).abs().max() / plain.abs().max()).item()
        if gap > (1e-4 if dtype == torch.float32 else 5e-2):
            raise SystemExit(f"lean and plain differ by {gap} in {name}")
        ways = {"plain": lambda n=net, x=x, t=t: n(x, t), "lean": lambda n=net, x=x, t=t: lean_forward(n, x, t)}
        found = paired(ways, repeats)
        for way, seconds in found.items():
            rows.append({"forward": f"{way}, {name}", "size": size, "parameters": parameters(net), "seconds": seconds})
            rows[-1] |= {"compared_with": f"plain, {name}", "times_faster": found["plain"] / seconds}
    return rows
