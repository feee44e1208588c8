"""Between a server (MONAI Label) and the bundles: what a request lacks, and what a server's writer wants.

A run's own cases carry keys that no request has; they pass through untouched. Letters: Z = latent size, S = shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..core.errors import InputError
from ..core.knobs import parse_int
from ..core.latents import latents_of
from ..core.volumes import real_world_cast
from ..core.windows import rescale


class RequestedLatentd(MapTransform):
    """Puts a request's latent (Z,) in the place of the image, which a server wants, but an unconditional generator does
    not: the one of `number` (0, if the request names none) among those of the request's `seed`.

    Args:
        keys: image; what is no path is left as it is.
        latent_size: Z.
        seed: where the request names none.

    Raises:
        InputError: a seed or number that is no whole number from 0 on.

    Example:
        >>> draw = RequestedLatentd("image", latent_size=8)
        >>> draw({"image": "any.png", "seed": "3"})["image"].shape
        torch.Size([8])
    """

    def __init__(self, keys: KeysCollection, latent_size: int, seed: int = 0) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.latent_size, self.seed = latent_size, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            if isinstance(case[key], str):
                seed = parse_int(case.get("seed", self.seed), "seed")
                number = parse_int(case.get("number", 0), "number")
                case[key] = latents_of(seed, [number], self.latent_size)[0]
        return case


class ServedImaged(MapTransform):
    """What a server's ITK writer takes, out of a tensor (1, *S): the result's dtype, and a picture as (columns, rows).

    The tensor lies on the host (ToHostd). MONAI Label writes float32 otherwise, which PNG refuses, and takes
    (1, rows, columns) for a volume.

    Args:
        keys: pred.
        dtype: of the values, rounded and limited to its range.
        window: values that stand for the ends of `value_range`; None: the values are what they should be.
        value_range: of the network's output.
        own: key that only the run's own cases have.

    Raises:
        InputError: several channels.

    Example:
        >>> ServedImaged("pred", "uint8", window=[0, 255])({"pred": torch.tensor([[[-1.0, 1.0, 0.0]]])})["pred"]
        array([[  0],
               [255],
               [128]], dtype=uint8)
    """

    def __init__(
        self,
        keys: KeysCollection,
        dtype: str,
        window: Sequence[float] | None = None,
        value_range: Sequence[float] = (-1.0, 1.0),
        own: str = "name",
    ) -> None:
        super().__init__(keys)
        self.dtype = np.dtype(dtype)
        self.window = window
        self.value_range = value_range
        self.own = own

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        case = dict(data)
        for key in self.key_iterator(case):
            if isinstance(case[key], torch.Tensor) and self.own not in case:
                case[key] = self._served(case[key].numpy())
        return case

    def _served(self, values: np.ndarray) -> np.ndarray:
        if len(values) != 1:
            raise InputError(
                f"a server can write one channel, but the image has {len(values)}; run inference.yaml instead."
            )
        if self.window is not None:
            values = rescale(values, self.value_range, self.window)
        values = real_world_cast(values, self.dtype)
        return np.ascontiguousarray(values[0].T) if values.ndim == 3 else values
