"""What `hiresmed doctor` says: is all here that the bundles need, and is it whole?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .. import __version__
from ..core.errors import InputError
from ..core.in_words import format_bytes
from ..core.processor import FEATURES, processor_features, processor_name
from ..core.weight_files import weights_sha256
from .bundle_folders import BundleFolder

EXTRAS = {"dicom": ("pydicom", "highdicom"), "train": ("tensorboard",), "keras": ("h5py",)}
LOW_DISK = 10e9  # bytes; a volume of 1024^3 needs 8.6 GB while it is made


def examine(bundles: Mapping[str, BundleFolder]) -> int:
    """Prints what is found, section by section; returns the number of things that are wrong, at most 1."""
    wrong = [*_environment(), *_packages(bundles), *_devices(), *_disk(), *_bundles(bundles)]
    print()
    if not wrong:
        print("Nothing is missing.")
    for sentence in wrong:
        print(f"wrong: {sentence}")
    return min(1, len(wrong))


def _line(label: str, *words: object) -> None:
    print(f"  {label:<20} {'  '.join(str(w) for w in words)}".rstrip())


def _environment() -> list[str]:
    print(f"hiresmed {__version__}")
    _line("lies in", Path(__file__).resolve().parent)
    _line("Python", platform.python_version(), sys.executable)
    _line("system", platform.platform(terse=True))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return [f"Python must be 3.11 to 3.13, got {platform.python_version()}; make an environment with one."]
    return []


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _packages(bundles: Mapping[str, BundleFolder]) -> list[str]:
    print("\nPackages")
    tested: dict[str, str] = {}
    for folder in bundles.values():
        about = folder.metadata
        tested |= {"torch": about["pytorch_version"], "monai": about["monai_version"], "numpy": about["numpy_version"]}
        tested |= about["required_packages_version"]
    optional = {name for names in EXTRAS.values() for name in names}
    wrong = []
    for name, version in tested.items():
        version_here = installed(name)
        as_tested = (
            version_here is not None and version_here.partition("+")[0] == version
        )  # torch says +cpu, +cu128 ...
        _line(name, version_here or "missing", "" if as_tested else f"(tested with {version})")
        if version_here is None and name not in optional:
            wrong.append(f"{name} must be installed, got none; run: pip install {name}=={version}.")
    wrong += _unmet()
    for extra, names in EXTRAS.items():
        packages = [f"{name} {installed(name) or 'missing'}" for name in names]
        missing = [name for name in names if not installed(name)]
        cure = f"(optional: pip install {' '.join(missing)})" if missing else ""
        _line(f"[{extra}]", ", ".join(packages), cure)
    return wrong


def _unmet() -> list[str]:
    """Requirements of the installed package that another version than the present one would meet."""
    from packaging.requirements import Requirement

    with suppress(importlib.metadata.PackageNotFoundError):
        requirements = [Requirement(text) for text in importlib.metadata.requires("hiresmed") or []]
        return [
            f"{r.name} must be {r.specifier}, got {version}; run: pip install '{r}'."
            for r in requirements
            if r.marker is None
            and (version := installed(r.name))
            and not r.specifier.contains(version, prereleases=True)
        ]
    return []


def _devices() -> list[str]:
    print("\nDevices")
    with suppress(AttributeError, ValueError, OSError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        _line("CPU", f"{processor_name()}, {os.cpu_count()} cores, {format_bytes(memory)} of memory")
    if has := processor_features():
        _line("", f"has {', '.join(has)}", f"(not {', '.join(f for f in FEATURES if f not in has)})" * (len(has) < 4))
    try:
        import torch
    except ImportError:
        _line("GPU", "unknown without torch")
        return []
    if not torch.cuda.is_available():
        built = "of CUDA " + torch.version.cuda if torch.version.cuda else "for CPUs only"
        _line("GPU", f"none that this torch ({built}) can use; the CPU serves")
        _bfloat16("cpu")
        return []
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        name = torch.cuda.get_device_name(n)
        _line(f"GPU {n}", f"{name}, {format_bytes(free)} of {format_bytes(total)} free, CUDA {torch.version.cuda}")
    # a driver or build that does not fit the card fails at the first kernel, not before
    try:
        assert float(torch.ones(8, device="cuda").sum()) == 8
    except RuntimeError as error:
        reason = re.split(r"[.\n]", str(error))[0]
        return [f"torch must compute on the GPU, but does not ({reason}); install the build of torch for this card."]
    _bfloat16("cpu")
    _bfloat16("cuda")
    return []


def _bfloat16(device: str) -> None:
    """Whether `amp` is right here. No fault of the installation where not: runs notice it and take float32."""
    import torch

    from ..core.bfloat16 import probe_convolutions

    comparisons = probe_convolutions(torch.device(device))
    wrong = [f"{size} x {size} x {size}" for size, likeness in comparisons.items() if not likeness.alike]
    seconds = sum(likeness.seconds for likeness in comparisons.values())
    if wrong:
        words = f"wrong gradients of 3-D convolutions on {', '.join(wrong)} voxels; with amp such runs take float32"
    else:
        lowest = min(likeness.cosine for likeness in comparisons.values())
        words = f"right: gradients have a cosine of {lowest:.4f} and more with those of float32"
    _line(f"bfloat16 on {device}", f"{words} ({seconds:.1f} s)")


def _disk() -> list[str]:
    free = shutil.disk_usage(Path.cwd()).free
    _line("disk", f"{format_bytes(free)} free in {Path.cwd()}", "(little for large volumes)" if free < LOW_DISK else "")
    return []


def _bundles(bundles: Mapping[str, BundleFolder]) -> list[str]:
    print("\nBundles")
    wrong = [] if bundles else ["bundles must be found, got none; set HIRESMED_BUNDLES to their folder."]
    for name, folder in bundles.items():
        _line(name, folder.metadata["version"], folder.root)
        if not folder.weights.is_file():
            _line("", "no weights yet: it trains, but infers only with --weights_path")
            continue
        try:
            digest = weights_sha256(folder.weights)
            noted = "as noted" if folder.weights.with_name("model.pt.sha256").is_file() else "nothing to compare with"
            _line("", f"weights {format_bytes(folder.weights.stat().st_size)}, sha256 {digest} ({noted})")
        except InputError as mistake:
            wrong.append(f"{name}: {mistake}")
    return wrong
