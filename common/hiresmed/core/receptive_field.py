"""Receptive fields: the halo and lattice that make tiled inference exact, measured by probing the network.

A network may be run tile by tile with no change of its result if and only if (1) an output voxel depends on a bounded
neighbourhood and (2) shifting the input by one lattice step shifts the output. Layers that take statistics over space
break (1): they are refused by name.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from .errors import InputError

_SPATIAL_STATISTICS = (
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.MultiheadAttention,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_SIZES = {1: (32, 64, 128, 256, 512), 2: (32, 64, 128, 256), 3: (24, 32, 48, 64, 96, 128)}


@dataclass(frozen=True)
class ReceptiveField:
    """What a tile needs.

    Attributes:
        halo: voxels of context on each side of an aligned tile, itself a multiple of `alignment`.
        alignment: lattice step: tiles start and end on multiples of it.
        shrink: voxels that the network itself consumes on each side (0 for same-padded, > 0 for valid convolutions).
    """

    halo: int
    alignment: int
    shrink: int


def refuse_spatial_statistics(network: nn.Module) -> None:
    """Raises InputError, naming the layer, where a known layer's output depends on the size of its tile."""
    for name, module in network.named_modules():
        if isinstance(module, _SPATIAL_STATISTICS):
            why = "takes statistics over space"
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            why = "takes statistics of the batch (it is in training mode)"
        elif isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            why = "drops at random (it is in training mode)"
        else:
            continue
        raise InputError(
            "exact tiling must have layers whose outputs depend on a bounded neighbourhood, but layer "
            f"'{name}' ({type(module).__name__}) {why}; use norm none, per-voxel channel norm, or batch norm in eval "
            "mode."
        )


@torch.inference_mode(False)
@torch.enable_grad()  # the probe needs gradients, also where the caller has switched them off
def probe_receptive_field(network: nn.Module, in_channels: int, spatial_dims: int) -> ReceptiveField:
    """Finds halo, lattice and shrinkage by float64 autograd on a copy with random positive weights.

    Positive weights cannot cancel and keep rectifiers open, so the gradient is non-zero at every voxel that the
    architecture uses, also behind zero-initialised layers. Cost: a few forwards on a cube just larger than the field.

    Args:
        network: (1, C, *S) -> (1, C', *S - 2 shrink).
        in_channels: C.
        spatial_dims: number of axes of S.

    Raises:
        InputError: a layer with spatial statistics, by name; or a field that no probed cube contains.

    >>> probe_receptive_field(nn.Conv2d(1, 1, 5, padding=2), 1, 2)
    ReceptiveField(halo=2, alignment=1, shrink=0)
    """
    refuse_spatial_statistics(network)
    probe = _positive_copy(network)
    for size in _SIZES[spatial_dims]:
        field = _probe_cube(probe, in_channels, spatial_dims, size)
        if field is not None:
            return field
    _refuse_another_grid(probe, in_channels, spatial_dims)
    culprit = _first_global_layer(probe, in_channels, spatial_dims, _SIZES[spatial_dims][-2])
    raise InputError(
        f"exact tiling must have layers whose outputs depend on a bounded neighbourhood, but {culprit} reaches across "
        "a "
        f"cube of {_SIZES[spatial_dims][-1]} voxels; use a network without global layers, or one with a smaller field."
    )


def receptive_field_of(network: nn.Module, in_channels: int, spatial_dims: int) -> ReceptiveField:
    """The network's receptive field: as it declares it (`margin`, `factor`: valid convolutions), else probed.

    Layers with spatial statistics are refused in a declared field too, and the tests probe each network that declares.
    """
    if hasattr(network, "margin") and hasattr(network, "factor"):
        refuse_spatial_statistics(network)
        margin = cast(int, network.margin)
        return ReceptiveField(margin, cast(int, network.factor), margin)
    return probe_receptive_field(network, in_channels, spatial_dims)


def _positive_copy(network: nn.Module) -> nn.Module:
    probe = copy.deepcopy(network).double().cpu().eval()
    for module in list(probe.modules()):
        _open_up(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in probe.parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 1
            p.copy_((torch.rand(p.shape, generator=generator, dtype=p.dtype) + 0.5) / fan_in)
    return probe.requires_grad_(False)


def _open_up(module: nn.Module) -> None:
    """Removes from a layer what could hide its inputs from the gradient, without changing its receptive field."""
    if isinstance(module, parametrize.ParametrizationList):  # spectral norm's vectors could make weights negative
        for buffer in module.buffers():
            buffer.abs_()
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # a large mean would close the rectifier behind it
        module.reset_running_stats()
    for name, child in module.named_children():
        # the gradient of a maximum shows one of its inputs only
        if isinstance(child, nn.modules.pooling._MaxPoolNd) and child.dilation == 1:
            mean = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}[type(child)]
            setattr(module, name, mean(child.kernel_size, child.stride, child.padding, child.ceil_mode))


def _forward(probe: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """The output, or None where this cube is too small or does not divide for the network."""
    try:
        y = probe(x)
    except (RuntimeError, ValueError, AssertionError):
        return None
    return y if min(y.shape[2:]) > 0 else None


def _probe_cube(probe: nn.Module, channels: int, dims: int, size: int) -> ReceptiveField | None:
    """The field measured in a cube of `size` voxels, or None where the cube is too small."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((1, channels, *[size] * dims), generator=generator, dtype=torch.float64) + 0.5
    y = _forward(probe, x)
    if y is None:
        return None
    shrink, odd = divmod(size - y.shape[-1], 2)
    if odd or shrink < 0 or len(set(y.shape[2:])) != 1:
        raise InputError(
            f"exact tiling must have a network that keeps the grid, got {y.shape[-1]} voxels from {size}; use another "
            "one."
        )
    alignment = _lattice(probe, x, y, shrink)
    if alignment is None:
        return None
    reach = _reach(probe, x, shrink, alignment)
    if reach is None:
        return None
    reach = max(reach, shrink)
    return ReceptiveField(-(-reach // alignment) * alignment, alignment, shrink)


def _refuse_another_grid(probe: nn.Module, channels: int, dims: int) -> None:
    """InputError where a larger cube loses more voxels than a small one: the output has another spacing."""
    outputs = {size: _forward(probe, torch.ones(1, channels, *[size] * dims).double()) for size in (32, 64)}
    sizes = {size: y.shape[-1] for size, y in outputs.items() if y is not None}
    if len({size - n for size, n in sizes.items()}) > 1:
        examples = " and ".join(f"{n} voxels from {size}" for size, n in sizes.items())
        raise InputError(f"exact tiling must have a network that keeps the grid, got {examples}; use another one.")


def _centre_block(size: int, alignment: int) -> int:
    return size // 2 // alignment * alignment


def _lattice(probe: nn.Module, x: torch.Tensor, y: torch.Tensor, shrink: int) -> int | None:
    """Smallest power of two such that an input shifted by it gives the shifted output, compared at the centre."""
    dims = tuple(range(2, x.ndim))
    size = x.shape[-1]
    for step in (1, 2, 4, 8, 16, 32):
        start = _centre_block(size, step) - shrink
        if start < 0 or start + 2 * step > y.shape[-1]:
            return None
        moved = _forward(probe, torch.roll(x, [step] * len(dims), dims))
        block = (...,) + (slice(start, start + step),) * len(dims)
        shifted_block = (...,) + (slice(start + step, start + 2 * step),) * len(dims)
        if moved is not None and torch.allclose(y[block], moved[shifted_block], rtol=1e-9, atol=0):
            return step
    return None


def _reach(probe: nn.Module, x: torch.Tensor, shrink: int, alignment: int) -> int | None:
    """How far beyond an aligned block its output's gradient reaches; None if it touches the cube's faces."""
    size = x.shape[-1]
    dims = x.ndim - 2
    start = _centre_block(size, alignment)
    x = x.clone().requires_grad_(True)
    with torch.enable_grad():
        y = probe(x)
        block = y[(...,) + (slice(start - shrink, start - shrink + alignment),) * dims]
        (gradient,) = torch.autograd.grad(block.sum(), x)
    reach = 0
    for axis in range(dims):
        others = [d for d in range(x.ndim) if d != axis + 2]
        touched = gradient.abs().amax(others).nonzero().flatten()
        low = int(touched[0])
        high = int(touched[-1])
        if low == 0 or high == size - 1:
            return None
        reach = max(reach, start - low, high - (start + alignment - 1))
    return reach


def _first_global_layer(probe: nn.Module, channels: int, dims: int, size: int) -> str:
    """Name of the first layer whose far corner depends on the near corner of the input (innermost first)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand((1, channels, *[size] * dims), generator=generator, dtype=torch.float64) + 0.5
    bumped = x.clone()
    bumped[(...,) + (0,) * dims] += 1
    corners: list[dict[str, torch.Tensor]] = [{}, {}]
    for record, inputs in zip(corners, (x, bumped)):

        def keep(name: str, record=record):
            def hook(module, args, output):
                if torch.is_tensor(output):
                    record.setdefault(name, output.flatten()[-1])

            return hook

        handles = [m.register_forward_hook(keep(n)) for n, m in probe.named_modules()]
        _forward(probe, inputs)
        for handle in handles:
            handle.remove()
    for name in corners[0]:
        if name in corners[1] and not torch.equal(corners[0][name], corners[1][name]):
            module = probe.get_submodule(name)
            return f"layer '{name or 'the network'}' ({type(module).__name__})"
    return "the network"
