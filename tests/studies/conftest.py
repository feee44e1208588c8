from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from hiresmed.phantoms import ChestXrayPhantom
from PIL import Image


@pytest.fixture(scope="session")
def xray_images() -> Callable[[pathlib.Path, int], None]:
    """Writes the images of a study of X-rays: one phantom, mirrored and turned, as projecting each is slow."""

    def write(folder: pathlib.Path, size: int) -> None:
        folder.mkdir(parents=True)
        grey = ChestXrayPhantom([size] * 2, seed=0).read((0, 0), (size, size)).astype(np.uint16) * 16
        for n, seed in enumerate((0, 1, 2, 3, 8, 9, 12)):
            turned = np.rot90(grey if n < 4 else grey[:, ::-1], n)
            Image.fromarray(np.ascontiguousarray(turned)).save(folder / f"phantom_{seed}.png")

    return write
