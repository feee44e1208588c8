"""What one calls from Python: light to import, what takes time is imported when it is first used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generators import Generator, SyntheticImages


def names() -> list[str]:
    """The bundles that are found, as `hiresmed list` finds them.

    >>> "dcgan_mri" in names()
    True
    """
    from ..cli.bundle_folders import bundles

    return list(bundles())


def run(bundle: str | os.PathLike, *configs: str, **knobs: Any) -> Path:
    """Runs a bundle in this process, as `hiresmed run <bundle> <configs> --knob value ...`; returns its output folder.

    The checks, the files that are written and the last line are the command's. The random state of this process, its
    signal handlers and its hooks are afterwards what they were.

    Args:
        bundle: name, or a bundle's folder.
        configs: a workflow or overlays by their names (train, evaluate, super_resolution ...); none: inference.
        knobs: settings, see `hiresmed info`; paths as text or Path, of text nothing is evaluated. Those of sections
            with `::` go in as **{"network_def::norm": "group"}.

    Raises:
        InputError: what the command says in one sentence: an unknown bundle, config or knob, a wrong value, a bad file.

    >>> run("msgan_ct3d", image="/my/ct.nii.gz", output_dir="output")  # doctest: +SKIP
    PosixPath('output')
    >>> run("msgan_xray2d", "train", dataset_dir="/my/xrays", output_dir="runs")  # doctest: +SKIP
    PosixPath('runs')
    """
    from .workflows import opened_workflow

    with opened_workflow(bundle, configs, knobs) as workflow:
        folder = Path(str(workflow.parser.get_parsed_content("output_dir")))
        workflow.run()
        workflow.finalize()
        return folder


def load(bundle: str | os.PathLike, device: str | None = None, **knobs: Any) -> Generator:
    """A bundle's generator with its weights, in memory: of dcgan_mri or inr_gan_multistage, which start from noise.

    Args:
        bundle: name, or a bundle's folder.
        device: such as cpu or cuda:0; None: a GPU where there is one.
        knobs: of its inference, such as weights_path, or size for weights of other images.

    Raises:
        InputError: a bundle that needs an image; what `run` raises.
    """
    from .generators import Generator
    from .workflows import opened_workflow

    with opened_workflow(bundle, (), {**knobs, **({} if device is None else {"device": device})}) as workflow:
        return Generator.of(workflow)


def synthetic_images(bundle: str | os.PathLike, count: int, seed: int = 0, **knobs: Any) -> SyntheticImages:
    """A torch Dataset of `count` images of a bundle's generator, made when they are asked for; see SyntheticImages.

    Args:
        bundle, knobs: see load.
        count: number of images.
        seed: of all of them.

    >>> images = synthetic_images("dcgan_mri", 100, seed=3)
    >>> len(images), images[7]["name"], tuple(images[7]["image"].shape)
    (100, 'sample_0007', (1, 128, 128))
    """
    return load(bundle, **knobs).images(count, seed)
