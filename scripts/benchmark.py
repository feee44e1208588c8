"""Benchmarks whose figures stand in README and model cards; each prints a Markdown table and writes JSON.

    python scripts/benchmark.py tiling  --size 256            # exact tiling against MONAI's SlidingWindowInferer
    python scripts/benchmark.py memory  --sizes 256 512       # peak RSS of whole runs, .nii and .nii.gz streamed
    python scripts/benchmark.py memory  --sizes 1024 --region 256   # a bounded number of tiles of every stage
    python scripts/benchmark.py memory  --bundle msgan_xray2d --sizes 2048 4096 8192 --tile 512   # TIFF streamed
    python scripts/benchmark.py speed   --size 512            # a whole run against its pure-convolution time
    python scripts/benchmark.py inr_memory --scale paper    # live bytes of an iteration, on tensors without memory
    python scripts/benchmark.py inr_speed                   # iterations of all modes; pointwise against grouped forward
    python scripts/benchmark.py patchddm_speed --size 64    # against MONAI's network; lean forward at twice the size

Timings on a shared machine drift: compare figures of one run only. Memory is the kernel's VmHWM of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import benchmark_inr
import benchmark_patchddm
import nibabel as nib
import numpy as np
import torch
from hiresmed.core.exact_tiling import ExactTiledInferer
from hiresmed.core.memory import steady_allocator
from hiresmed.core.views import ResampledView
from hiresmed.core.volumes import ArrayVolume
from hiresmed.core.weights import load_weights
from hiresmed.io import save_volume
from hiresmed.methods.msgan import MultiScaleGenerator
from hiresmed.methods.msgan.generator import extend
from hiresmed.phantoms import ChestXrayPhantom, ThoraxPhantom
from monai.inferers import SlidingWindowInferer

BUNDLES = pathlib.Path(__file__).resolve().parents[1] / "bundles"
BUNDLE = BUNDLES / "msgan_ct3d"  # of tiling and speed
FORMATS = {"msgan_ct3d": ".nii", "msgan_xray2d": ".tif"}


class SamePadded(torch.nn.Module):
    """A stage for MONAI's sliding windows: each window extended by its own faces, so that the grid is kept."""

    def __init__(self, stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stage(extend(x, [(self.stage.margin, self.stage.margin)] * (x.ndim - 2)))


def shipped_generator() -> MultiScaleGenerator:
    """The bundle's network with its weights."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.yaml"))
    return load_weights(parser.get_parsed_content("network_def"), BUNDLE / "models" / "model.pt")


def stage_input(size: int) -> torch.Tensor:
    """A finer stage's input (1, 3, *S) made of a phantom: the blurred image, its edges, noise."""
    from hiresmed.methods.msgan import GradientSketchd

    image = ThoraxPhantom([size] * 3, noise=False).read([0] * 3, [size] * 3)
    image = torch.from_numpy((image / 1024).clip(-1, 1))[None]
    sketch = GradientSketchd()({"image": image})["sketch"]
    blurred = torch.nn.functional.avg_pool3d(image[None], 3, stride=1, padding=1)[0]
    noise = torch.randn(sketch.shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([blurred, sketch, noise])[None]


def tiling(args: argparse.Namespace) -> list[dict]:
    """One finer stage: untiled, exactly tiled, and by MONAI's sliding window at three overlaps."""
    network, x = shipped_generator().stage(1), stage_input(args.size)
    rows = []

    def measure(name: str, run) -> torch.Tensor:
        begun = time.perf_counter()
        with torch.inference_mode():
            result = run()
        rows.append({"inferer": name, "seconds": time.perf_counter() - begun})
        return result

    untiled = measure("untiled", lambda: ExactTiledInferer(args.size)(x, network))
    exact = measure(f"ExactTiledInferer, tile {args.tile}", lambda: ExactTiledInferer(args.tile)(x, network))
    rows[-1] |= difference(exact, untiled)
    padded = SamePadded(network)
    for overlap in (0.25, 0.5, 0.667):
        window = SlidingWindowInferer([args.tile] * 3, sw_batch_size=1, overlap=overlap, mode="gaussian")
        result = measure(f"SlidingWindowInferer, overlap {overlap}", lambda w=window: w(x, padded))
        rows[-1] |= difference(result, untiled)
    for row in rows:
        row["times_untiled"] = row["seconds"] / rows[0]["seconds"]
    return rows


def difference(a: torch.Tensor, b: torch.Tensor) -> dict:
    return {"mae": (a - b).abs().mean().item(), "max": (a - b).abs().max().item()}


def make_input(folder: pathlib.Path, size: int, suffix: str) -> pathlib.Path:
    """A phantom of size^3, for .tif of size^2, on disk, made once.

    Above 256^3 the 256^3 one side by side, above 512^2 the 512^2 one enlarged, as only the memory matters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"phantom_{size}{suffix.removesuffix('.gz')}"
    if suffix == ".tif":
        if not path.exists():
            side = min(size, 512)
            values = ChestXrayPhantom([side] * 2).read((0, 0), (side, side)).astype(np.uint16)
            made = save_volume(ResampledView(ArrayVolume(values), (size, size)), path.with_suffix(""), "tiff")
            made[0].replace(path)
        return path
    if not path.exists():
        block = min(size, 256)
        values = ThoraxPhantom([block] * 3).read([0] * 3, [block] * 3).astype(np.int16)
        header = nib.Nifti1Header()
        header.set_data_shape([size] * 3)
        header.set_data_dtype(np.int16)
        header.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), code=1)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        with open(path, "wb") as file:
            file.write(header.binaryblock + b"\0\0\0\0")
            plane = np.asfortranarray(np.tile(values, (size // block, size // block, 1)))
            for k in range(size):
                file.write(plane[:, :, k % block].tobytes("F"))
    if suffix == ".nii.gz" and not path.with_suffix(".nii.gz").exists():
        subprocess.run(["gzip", "-1", "-k", str(path)], check=True)
    return path.with_suffix(".nii.gz") if suffix == ".nii.gz" else path


def front_door(bundle: pathlib.Path, image: pathlib.Path, output: pathlib.Path, **knobs) -> tuple[dict, int]:
    """Run inference as a user does; returns report.json and the process's peak RSS in bytes (VmHWM by wait4)."""
    config = bundle / "configs" / "inference.yaml"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--bundle_root", str(bundle)]
    command += ["--image", str(image), "--output_dir", str(output), "--overwrite", "true"]
    for name, value in knobs.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the run failed with status {status}: {' '.join(command)}")
    return json.loads((output / "report.json").read_text()), usage.ru_maxrss * 1024


def memory(args: argparse.Namespace) -> list[dict]:
    """Peak RSS of whole processes at several sizes; `--tile` as large as the volume is the untiled control."""
    rows = []
    for size in args.sizes:
        for suffix in args.formats or [FORMATS[args.bundle]]:
            image = make_input(args.work_dir, size, suffix)
            knobs = {"tile_size": args.tile, "output_format": "tiff" if suffix == ".tif" else "nii"}
            if args.region:
                low = (size - args.region) // 2 // 128 * 128
                knobs["region"] = str([[low, low + args.region]] * (2 if suffix == ".tif" else 3))
            report, peak = front_door(BUNDLES / args.bundle, image, args.work_dir / f"out_{size}", **knobs)
            rows.append({"size": size, "input": suffix, "region": args.region, "tile": args.tile})
            rows[-1] |= {"peak_rss_mb": peak / 1e6, "seconds": report["seconds"]}
            print(json.dumps(rows[-1]), flush=True)
    return rows


def speed(args: argparse.Namespace) -> list[dict]:
    """A whole run in this process: total seconds against the seconds inside the networks."""
    from hiresmed.core.memory import peak_rss_bytes
    from hiresmed.io import CaseOutput
    from hiresmed.methods.msgan import CascadeInferer, GradientSketch

    network = shipped_generator()
    image = make_input(args.work_dir, args.size, ".nii")
    output = CaseOutput(args.work_dir / f"speed_{args.size}", "nii", overwrite=True)
    case = output.cases(image=image)[0]
    volume = output.open(case["image"], case["name"])
    output.check(case, volume.shape)
    inferer = CascadeInferer(GradientSketch(), output, tile_size=args.tile)
    begun = time.perf_counter()
    made = inferer({**case, "image": volume}, network)
    rendered = time.perf_counter() - begun
    output.save(case, made.image, True)
    total = time.perf_counter() - begun
    output.finish(case)
    row = {"size": args.size, "tile": args.tile, "total_seconds": total, "rendering_seconds": rendered}
    row |= {"peak_rss_mb": peak_rss_bytes() / 1e6}
    row |= {"network_seconds": made.network_seconds, "total_over_network": total / made.network_seconds}
    return [row]


def inr_memory(args: argparse.Namespace) -> list[dict]:
    """Live bytes of one iteration of inr_gan_multistage, for each way to train."""
    return benchmark_inr.memory(args.scale, fake=not args.real)


def inr_speed(args: argparse.Namespace) -> list[dict]:
    """Seconds of one iteration of inr_gan_multistage at the small scale, and of its forward pass in three forms."""
    return benchmark_inr.speed()


def patchddm_speed(args: argparse.Namespace) -> list[dict]:
    """Forward passes of patchddm_brats' network at the paper's width, beside MONAI's; the lean one beside the plain."""
    return benchmark_patchddm.speed(args.size)


def as_markdown(rows: list[dict]) -> str:
    keys = list(dict.fromkeys(k for row in rows for k in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    for row in rows:
        cells = [row.get(k) for k in keys]
        lines.append("| " + " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


BENCHMARKS = {
    "tiling": tiling, "memory": memory, "speed": speed, "inr_memory": inr_memory, "inr_speed": inr_speed,
    "patchddm_speed": patchddm_speed,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(BENCHMARKS))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--bundle", choices=FORMATS, default="msgan_ct3d", help="for memory")
    parser.add_argument("--formats", nargs="+", choices=[".nii", ".nii.gz", ".tif"], help="by default the bundle's")
    parser.add_argument("--region", type=int, default=None)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--scale", choices=benchmark_inr.SCALES, default="paper", help="of inr_memory")
    parser.add_argument("--real", action="store_true", help="inr_memory on tensors that hold memory")
    parser.add_argument("--work_dir", type=pathlib.Path, default=pathlib.Path("runs/benchmark"))
    args = parser.parse_args()
    steady_allocator()  # as every run through the front door has it
    rows = BENCHMARKS[args.what](args)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processor": platform.processor()}
    name = f"{args.what}_{time.strftime('%Y%m%d_%H%M%S')}.json"
    (args.work_dir / name).write_text(json.dumps({"rows": rows, "about": about}, indent=2))
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
