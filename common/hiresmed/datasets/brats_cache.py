"""Loaded cases kept on disk, because loading four volumes costs more than the crops that are trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai.data import PersistentDataset, pickle_hashing
from monai.transforms import Compose

from ..core.errors import InputError
from ..core.in_words import count_in_words
from ..core.progress import announce
from .brats import brain_cases


def brain_dataset(
    section: str | None,
    transform: Compose,
    dataset_dir: str | Path | None = None,
    phantoms: int = 12,
    phantom: Mapping | None = None,
    label: str | None = None,
    cases_list: Sequence[Mapping] | None = None,
    cache_dir: str | Path | None = None,
) -> PersistentDataset:
    """The transformed cases of one section, kept in files that also depend on the transforms' settings.

    They depend on the path, size and time of each source file, too, so that a corrected file is read again.

    Args:
        section, dataset_dir, phantoms, phantom, label, cases_list: see brain_cases.
        transform: a Compose; what comes before its first random transform is kept.
        cache_dir: made if needed; None keeps nothing.

    Raises:
        InputError: see brain_cases; a cache_dir that cannot be made.
    """
    if cache_dir is not None:
        try:
            Path(cache_dir).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cache_dir must be a folder that can be written to, got {cache_dir} ({error.strerror}); choose "
                "another one, or null."
            ) from error
        cache_dir = Path(cache_dir).expanduser()
    # a Compose within a Compose counts as random as a whole
    data = brain_cases(dataset_dir, section, phantoms, phantom, label, cases_list)
    if cache_dir is not None:
        data = [case | {"stamps": _stamps(case)} for case in data]
    cases = count_in_words(len(data), f"{section or 'listed'} cases")
    announce(f"{cases}, prepared when first needed")
    return PersistentDataset(data, transform.flatten(), cache_dir, hash_transform=pickle_hashing)


def _stamps(case: Mapping) -> str:
    """Path, size and time of all files that a case is read from, as one text (batches collate it)."""
    sources = [*(case["image"] if isinstance(case["image"], list) else [case["image"]]), case.get("label")]
    files = []
    for source in sources:
        if isinstance(source, (str, Path)):
            path = Path(source)
            files += sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return repr([(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files])
