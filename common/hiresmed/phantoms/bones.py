"""The phantom's bones: spine, ribs with their cartilage, breastbone and the tubular bones, painted over soft tissue."""

from __future__ import annotations

import numpy as np

from .anatomy import CARTILAGE_END, RIB_END, Patient
from .shapes import Grid, ellipsoid, fill, fill_shell
from .tubes import Tubes, fill_tubes

HU = {"cortical": 850, "marrow": 230, "spongiosa": 190, "cartilage": 115, "disc": 85, "cord": 35, "canal": -45}


def paint_spine(image: np.ndarray, grid: Grid, p: Patient, texture: np.ndarray) -> None:
    """Vertebral bodies with a thin cortex, discs of 4-5 mm, and the arch around the canal with the cord."""
    x = grid.x - p.sway(grid.z).astype(np.float32)
    depth = p.spine_depth(grid.z)
    if np.abs(x).min() > 40 + grid.edge or abs(grid.y - depth).min() > 70 + grid.edge:
        return
    height, half = (v.astype(np.float32) for v in p.vertebra_height(grid.z))
    waist = (1 - 0.09 * (1 - (height / half) ** 2)).astype(np.float32)
    width = (p.body_width(grid.z) * waist).astype(np.float32)
    y = grid.y - depth.astype(np.float32)
    flat = _oval(x / width, y / (width * np.float32(0.85)), width)
    fill(image, grid, flat + 0 * height, HU["disc"])
    body = np.maximum(flat, np.abs(height) - half + np.float32(2.3))
    fill_shell(image, grid, body, HU["cortical"] * 0.7, 1.3, HU["spongiosa"] + 45 * texture)
    back = y - width * np.float32(0.85) - 9
    canal = _oval(x / 10.5, back / 8.5, 9)
    arch = np.maximum(np.maximum(canal - 6, 2 - canal), np.abs(height - 1) - half * np.float32(0.62))
    fill_shell(image, grid, arch, HU["cortical"] * 0.75, 1.5, HU["marrow"] + 50)
    fill(image, grid, canal + 0 * height, HU["canal"])
    fill(image, grid, _oval(x / 6.5, back / 5.5, 6) + 0 * height, HU["cord"])


def paint_bones(image: np.ndarray, grid: Grid, p: Patient, bones: Tubes, cage: np.ndarray, texture: np.ndarray) -> None:
    """Tubular bones, breastbone and ribs: cortex of 1.2-1.6 mm around marrow."""
    marrow = HU["marrow"] + 40 * texture
    fill_tubes(image, grid, bones, HU["cortical"] * 0.85)
    fill_tubes(image, grid, bones, marrow, -1.5)
    if cage.min() > 30 + grid.edge or cage.max() < -10 - grid.edge:
        return
    for n in range(12):
        _paint_rib(image, grid, p, cage, n, marrow)
    _paint_breastbone(image, grid, p, marrow)


def _paint_breastbone(image: np.ndarray, grid: Grid, p: Patient, marrow: np.ndarray) -> None:
    """Manubrium and body, 12 mm thick, in front of the cage; a gap of 1 mm between them."""
    front = p.cage_profiles[1](grid.z).astype(np.float32) - 6
    wide = np.interp(grid.z, (-72, -60, -30, 40, 66, 70, 100, 108), (2, 7, 17, 14, 15, 21, 29, 24)).astype(np.float32)
    slab = ellipsoid(((grid.x - p.sway(grid.z).astype(np.float32)) / wide, (grid.y - front) / 6), (1, 1)) * 6
    slab = np.maximum(np.maximum(slab, np.abs(grid.z - 18) - 90), np.float32(0.6) - np.abs(grid.z - 68))
    fill_shell(image, grid, slab, HU["cortical"] * 0.6, 1.3, marrow - 40)


def _paint_rib(image: np.ndarray, grid: Grid, p: Patient, cage: np.ndarray, n: int, marrow: np.ndarray) -> None:
    """Rib n (0-11), an oval of 13 x 8 mm on the cage's outside, and its cartilage on to the breastbone."""
    height, t = p.rib_height(n, grid.x.astype(np.float64), grid.y.astype(np.float64))
    height = height.astype(np.float32)
    t = t.astype(np.float32)
    reach = 12 + grid.edge
    if height.min() - reach > grid.z.max() or height.max() + reach < grid.z.min():
        return
    tall = np.float32(8.0 if n else 6.0)  # along z; a rib of 13 mm runs obliquely
    section = _oval((cage - np.float32(4.6)) / np.float32(4.2), (grid.z - height) / tall, 4.6)
    bone = np.maximum(section, np.maximum((t - np.float32(RIB_END[n])) * 200, 34 - np.abs(grid.x)))
    ends = np.maximum(np.float32(RIB_END[n]) - t, t - np.float32(CARTILAGE_END[n]))
    gristle = np.maximum(section, ends * 200)
    fill(image, grid, np.where(grid.y < 20, gristle, np.float32(99)), HU["cartilage"])
    fill_shell(image, grid, bone, HU["cortical"], 1.5, marrow)


def _oval(u: np.ndarray, v: np.ndarray, radius) -> np.ndarray:
    """Rough distance to the oval u^2 + v^2 = 1 whose mean radius is `radius` mm."""
    return (np.sqrt(u * u + v * v) - 1) * radius
