"""Segmentation by diffusion: labels drawn out of noise, given an image; several draws make a mean and a variance.

Bieder et al. 2023 (PatchDDM, arXiv:2303.15288): the network is trained on patches that know where they lie, and draws
whole volumes. MONAI's DiffusionInferer knows neither coordinates nor patches nor ensembles, and its noise belongs to
the call.

Letters: B = batch, C = image channels, K = label channels, D = spatial axes, S = spatial shape, W = window, t = time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from monai.inferers import Inferer
from monai.inferers.utils import sliding_window_inference
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from ...core.bfloat16 import InferencePrecision
from ...core.coordinates import CONVENTIONS, patch_coordinates
from ...core.errors import InputError
from ...core.knobs import parse_bool, parse_int
from ...core.noise import place_noise
from .frame import Ensemble, Frame

MODES = ("whole", "sliding")
# a noise stream has 24 bits: member, then channel, then 10 bits of step
_MEMBERS = 2**10
_CHANNELS = 2**4


class DiffusionInferer(Inferer):
    """Draws label maps for an image; called as any MONAI inferer, it returns the mean of its draws.

    The network is called as network(x, t): x (B, C + D + K, *) = image, coordinates, x_t; t (B,) float.

    whole     one pass over the volume at each evaluation: what the paper does
    sliding   x_t stays whole; at each evaluation overlapping windows of it, each with its coordinates, are merged by
              Gaussian weights into the whole output (MONAI's sliding window, which hands over where a window lies and
              cuts the image alike, so neither the coordinates nor the network's input ever fill the volume)

    Draw k depends on (seed, k, place in the reference grid) alone, whatever else is drawn, in which order or batch.

    Memory beside the network's own, in volumes of K channels: x_t and what the sampler holds, the mean and the sum of
    squares, however many draws. Also the image, and with `whole` the network's input of C + D + K channels.

    Args:
        sampler: of samplers, with (denoise, x_T, steps, noise) and .evaluations(steps).
        label_channels: K.
        steps: of the sampler.
        inference: "whole" or "sliding".
        patch_size: W of "sliding", one number or one per axis; smaller images are padded to it.
        overlap: of neighbouring windows, share of W from 0 to below 1.
        coordinates: convention of coordinates.py (PatchDDM: "endpoint"), or None: no coordinate channels.
        reference_size: grid that coordinates and noise belong to, the image in its centre (PatchDDM: 256); None: the
            image's own.
        multiple: the network wants sides that are multiples of this; images are padded and the result is cut.
        pad_value: of the image beyond its faces.
        num_samples: draws per image, at most 1024.
        seed: of the noise.
        device: where network and sampler compute.
        amp: bfloat16 autocast of the network, if a small image comes out like float32 on this machine; the sampler
            stays in full precision.
        forward: (network, x, t) -> output in place of network(x, t), e.g. one that needs less memory.
        window_batch: windows computed at a time.
        progress: show a progress bar in a terminal.

    Raises:
        InputError: for a knob out of range, or a network that returns another number of channels.

    >>> from types import SimpleNamespace
    >>> sampler = SimpleNamespace(evaluations=lambda steps: steps)
    >>> DiffusionInferer(sampler, inference="sliding", patch_size=64, multiple=32).frame((100, 40)).padded
    (100, 64)
    """

    def __init__(
        self,
        sampler: Any,
        label_channels: int = 1,
        steps: int = 20,
        inference: str = "whole",
        patch_size: int | Sequence[int] = 128,
        overlap: float = 0.5,
        coordinates: str | None = "endpoint",
        reference_size: int | Sequence[int] | None = None,
        multiple: int = 1,
        pad_value: float = -1.0,
        num_samples: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        amp: bool = False,
        forward: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
        window_batch: int = 1,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.inference = inference
        self.coordinates = coordinates
        self.label_channels = parse_int(label_channels, "label_channels", 1)
        self.steps = parse_int(steps, "steps", 1)
        self.multiple = parse_int(multiple, "multiple", 1)
        self.patch_size = patch_size
        self.reference_size = reference_size
        self.overlap = float(overlap)
        self.pad_value = float(pad_value)
        self.num_samples = parse_int(num_samples, "num_samples", 1)
        self.seed = parse_int(seed, "seed")
        self.device = torch.device(device)
        self.progress = parse_bool(progress, "progress")
        self.precision = InferencePrecision(parse_bool(amp, "amp"), self.device)
        self.forward = forward or (lambda network, x, t: network(x, t))
        self.window_batch = parse_int(window_batch, "window_batch", 1)
        self._check_knobs()

    def _check_knobs(self) -> None:
        for name, value, known in (
            ("inference", self.inference, MODES),
            ("coordinates", self.coordinates, (*CONVENTIONS, None)),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}; choose one.")
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap must be a share from 0 to below 1, got {self.overlap}; 0.5 is usual.")
        if self.num_samples > _MEMBERS or self.label_channels > _CHANNELS:
            raise InputError(
                f"num_samples and label_channels must be at most {_MEMBERS} and {_CHANNELS}, the number of "
                f"independent noise streams, got {self.num_samples} and {self.label_channels}; lower them."
            )

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Mean of the draws, shape (B, K, *S), for an image (B, C, *S) in [-1, 1]; arguments as of `sample`."""
        return self.sample(inputs, cast(nn.Module, network), *args, **kwargs).mean

    @torch.no_grad()
    def sample(
        self,
        image: Tensor,
        network: nn.Module,
        origin: Sequence[int] | None = None,
        members: Iterable[int] | None = None,
        each: Callable[[int, Tensor], None] | None = None,
    ) -> Ensemble:
        """Mean and variance of the draws; MetaTensors if the image is one.

        Args:
            image: (B, C, *S) in [-1, 1].
            origin: where the image's first voxel lies in the reference grid; None: the image is centred.
            members: numbers of the draws; None: 0 .. num_samples - 1.
            each: called as each(number, draw (B, K, *S)) with every draw, which is overwritten afterwards.
        """
        members = list(range(self.num_samples) if members is None else members)
        frame = self.frame(image.shape[2:], origin)
        padded = frame.pad(self._plain(image), self.pad_value)
        total = len(members) * self.sampler.evaluations(self.steps)
        with tqdm(total=total, desc="denoising", disable=None if self.progress else True, leave=False) as bar:
            denoise = self._denoiser(padded, network, frame, bar)
            del padded  # `whole` has copied it into the network's input
            mean: Tensor | None = None
            squares: Tensor | None = None
            for count, member in enumerate(members, start=1):
                draw = frame.cut(self._draw(denoise, frame, member, image))
                if each is not None:
                    each(member, draw)
                if mean is None or squares is None:
                    mean = torch.zeros_like(draw)
                    squares = torch.zeros_like(draw)
                # Welford 1962, in place
                draw.sub_(mean)
                mean.add_(draw, alpha=1 / count)
                squares.addcmul_(draw, draw, value=1 - 1 / count)
                del draw  # or it would lie beside the next draw
        assert mean is not None and squares is not None, "there is a member at least"
        variance = squares.div_(max(len(members) - 1, 1))
        mean, variance = (convert_to_dst_type(v, image, dtype=v.dtype)[0] for v in (mean, variance))
        return Ensemble(mean, variance, len(members))

    def frame(self, shape: Sequence[int], origin: Sequence[int] | None = None) -> Frame:
        """How an image of this spatial shape is padded, and where that lies in the reference grid."""
        if self.inference == "whole":
            padded = [-(-n // self.multiple) * self.multiple for n in shape]
        else:
            window = self._per_axis(self.patch_size, "patch_size", len(shape))
            if any(w % self.multiple for w in window):
                raise InputError(
                    f"patch_size must be a multiple of the network's {self.multiple} voxels, got {list(window)}; "
                    "change it."
                )
            padded = [max(n, w) for n, w in zip(shape, window)]
        reference = shape if self.reference_size is None else self.reference_size
        reference = self._per_axis(reference, "reference_size", len(shape))
        if origin is None:
            origin = [(r - n) // 2 for r, n in zip(reference, shape)]
        start = tuple(int(o) - (p - n) // 2 for o, p, n in zip(origin, padded, shape))
        return Frame(tuple(shape), tuple(padded), start, reference)

    def _draw(self, denoise: Callable, frame: Frame, member: int, image: Tensor) -> Tensor:
        def fresh(step: int) -> Tensor:
            streams = [stream(member, channel, step) for channel in range(self.label_channels)]
            lattice = [torch.from_numpy(place_noise(self.seed, frame.start, frame.padded, s)) for s in streams]
            noise = torch.stack(lattice).to(self.device, _precision(image))
            return noise.repeat(len(image), *[1] * (len(frame.padded) + 1))

        return self.sampler(denoise, fresh(0), self.steps, fresh)

    def _denoiser(
        self, image: Tensor, network: nn.Module, frame: Frame, bar: tqdm
    ) -> Callable[[Tensor, float], Tensor]:
        whole = self._whole if self.inference == "whole" else self._sliding
        compute = whole(image, frame, lambda x, t: self._ask(network, x, t))

        def denoise(x: Tensor, t: float) -> Tensor:
            output = compute(x, t)
            bar.update()
            return output

        return denoise

    def _whole(self, image: Tensor, frame: Frame, ask: Callable) -> Callable[[Tensor, float], Tensor]:
        constant = [image, *self._channels(frame, [[0] * len(frame.padded)] * len(image), frame.padded)]
        x = torch.cat([*constant, image.new_empty(len(image), self.label_channels, *frame.padded)], 1)

        def compute(x_t: Tensor, t: float) -> Tensor:
            x[:, -self.label_channels :] = x_t
            return ask(x, t)

        return compute

    def _sliding(self, image: Tensor, frame: Frame, ask: Callable) -> Callable[[Tensor, float], Tensor]:
        window = self._per_axis(self.patch_size, "patch_size", len(frame.padded))

        def compute(x_t: Tensor, t: float) -> Tensor:
            def predictor(x: Tensor, places: Sequence, condition: Tensor) -> Tensor:
                starts = [[axis.start for axis in place[2:]] for place in places]
                return ask(torch.cat([condition, *self._channels(frame, starts, window), x], 1), t)

            merged = sliding_window_inference(
                x_t, window, self.window_batch, predictor, self.overlap, "gaussian", with_coord=True, condition=image
            )
            return cast(Tensor, merged)

        return compute

    def _channels(self, frame: Frame, starts: Sequence[Sequence[int]], shape: Sequence[int]) -> list[Tensor]:
        """No tensor, or one (N, D, *shape): coordinates of N boxes of the padded image."""
        if self.coordinates is None:
            return []
        places = [[a + b for a, b in zip(frame.start, start)] for start in starts]
        boxes = [patch_coordinates(place, shape, frame.reference, self.coordinates) for place in places]
        return [torch.stack(boxes).to(self.device)]

    def _ask(self, network: nn.Module, x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), t, device=x.device)
        # where the sides must be multiples of a number, twice that is a whole, small image
        shape = [n if self.multiple == 1 else min(n, 2 * self.multiple) for n in x.shape[2:]]

        def example() -> Tensor:
            return self.forward(network, self.precision.noise(1, x.shape[1], *shape).to(x.dtype), times[:1])

        with self.precision.context((x.shape[1], *shape), example):
            output = self.forward(network, x, times)
        expected = (len(x), self.label_channels, *x.shape[2:])
        if tuple(output.shape) != expected:
            raise InputError(
                f"The network must return (B, K, *S) = {expected}, got {tuple(output.shape)}; make "
                "label_channels its number of output channels."
            )
        return output.to(x.dtype)  # merged in full precision

    def _plain(self, image: Tensor) -> Tensor:
        image = convert_to_tensor(image)  # a MetaTensor would carry its geometry through every operation
        return image.to(self.device, _precision(image))

    @staticmethod
    def _per_axis(size: int | Sequence[int], name: str, dims: int) -> tuple[int, ...]:
        sizes = [size] * dims if isinstance(size, (int, str)) else list(size)
        if len(sizes) != dims:
            raise InputError(f"{name} must give {dims} numbers, one per axis, got {sizes}; change it.")
        return tuple(parse_int(n, name, 1) for n in sizes)


def _precision(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def stream(member: int, channel: int, step: int) -> int:
    """Number of the noise lattice of a draw's channel at a step (0: x_T); that of draw k's first channel is k.

    >>> stream(3, 0, 0), stream(0, 1, 0), stream(0, 0, 1)
    (3, 1024, 16384)
    """
    return member + _MEMBERS * (channel + _CHANNELS * step)
