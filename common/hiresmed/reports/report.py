"""report.json and the last line of a run: what was made, of what, with which weights, in what time and memory."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import PurePath

from ..core.in_words import format_bytes, format_duration
from ..core.output_files import write_then_rename

FIELDS = (
    "bundle", "version", "weights_sha256", "config", "seed", "input", "output", "seconds", "peak_rss_bytes",
    "peak_device_bytes", "metrics", "synthetic", "warnings", "sequences",
)  # fmt: skip
OPTIONAL = {"weights_sha256", "input", "peak_rss_bytes", "peak_device_bytes", "metrics", "warnings", "sequences"}
# only these say something of an image; all else a reader may hold (names, dates, identifiers) stays out
IMAGE_FIELDS = {"input": ("file", "shape", "spacing", "sha256"), "output": ("files", "shape", "dtype")}
# a path that starts like one, one of no blanks, or one that ends in a file name
_WHOLE_PATH = re.compile(
    r"^(?:~|\.{0,2}[/\\]|[A-Za-z]:[/\\])|^[^\s/\\]+(?:[/\\][^\s/\\]+)+[/\\]?$|^[^'\"\[\]]+[/\\][^/\\'\"\[\]]+\.\w{1,8}$"
)
_PATH_WITHIN = re.compile(
    r"(?<![\w:/\\.])(?:~|\.{1,2}|[A-Za-z]:)?[/\\](?:[^\s/\\'\",;:\])]+[/\\])*(?=[^\s/\\'\",;:\])])"
)


def without_folders(text: str) -> str:
    """A text with every path in it cut to its last name: a report travels, the user's folders do not.

    Example:
        >>> without_folders("/home/ann/ct/case 1.nii.gz"), without_folders("['/data/a.yaml', 'b.yaml']")
        ('case 1.nii.gz', "['a.yaml', 'b.yaml']")
        >>> without_folders("https://example.org/model")
        'https://example.org/model'
    """
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+://", text):
        return text.rstrip("/").rsplit("/", 1)[-1] if text.startswith("file:") else text
    if _WHOLE_PATH.match(text):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return _PATH_WITHIN.sub("", text)


def to_json_safe(value):
    """The value in JSON's own types: arrays and tensors as lists, paths as names, NaN and infinity as None."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return _encodable(value.name)
    if isinstance(value, str):
        return _encodable(without_folders(value))
    if isinstance(value, Mapping):
        return {_encodable(without_folders(str(k))): to_json_safe(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((to_json_safe(v) for v in value), key=str)
    if isinstance(value, list | tuple):
        return [to_json_safe(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return to_json_safe(value.tolist())
    # a dtype or a device says itself in words; of any other object its address would say nothing
    words = str(value)
    return type(value).__name__ if " at 0x" in words or words.startswith("<") else words


def _encodable(text: str) -> str:
    """With escapes for bytes of a file's name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _image(value, fields: tuple[str, ...]):
    if isinstance(value, list | tuple):
        return [_image(v, fields) for v in value]
    if value is None:
        return None
    return {field: value.get(field) for field in fields if field != "sha256" or value.get(field)}


def write_report(path: str | os.PathLike, **fields) -> dict:
    """Write report.json, whole or not at all, and return what it says.

    Args:
        path: the file to write.
        bundle, version, config, seed, output, seconds, synthetic: required.
        weights_sha256, input, peak_rss_bytes, peak_device_bytes, metrics: null where there is none.
        input: dict of `file` (name), `shape`, `spacing` (mm), `sha256`, or a list of such; others are left out.
        output: dict of `files`, `shape`, `dtype`, or a list of such.
        warnings: the sentences of warning that the run showed; none if left out.
        sequences: {sequence: file, or series number and description} where they are told apart; else there is no such
            field.

    Folders are cut from every path, and only the listed fields of images are kept, so that no patient's data leaves.
    Raises TypeError for an unknown or missing field.
    """
    unknown, missing = set(fields) - set(FIELDS), set(FIELDS) - OPTIONAL - set(fields)
    if unknown or missing:
        raise TypeError(f"write_report got unknown fields {sorted(unknown)} and lacks {sorted(missing)}")
    report = {name: fields.get(name) for name in FIELDS}
    report["warnings"] = list(fields.get("warnings") or [])
    if not report["sequences"]:
        del report["sequences"]
    for name, kept in IMAGE_FIELDS.items():
        report[name] = _image(report[name], kept)
    report = to_json_safe(report)
    with write_then_rename(path) as aside:
        aside.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return report


def _shape_in_words(output: dict) -> str:
    shape = " x ".join(str(n) for n in output.get("shape") or [])
    return " ".join(word for word in (shape, str(output.get("dtype") or "")) if word)


def _names(output: dict) -> list[str]:
    files = output.get("files") or []
    return [files] if isinstance(files, str) else files


def last_line(report: Mapping, folder: str | os.PathLike | None = None) -> str:
    """The sentence that ends a run: what was made, where, in what time and memory.

    `folder` (for the screen only; the report holds none) says where the files lie.
    """
    outputs = report["output"] if isinstance(report["output"], list) else [report["output"]]
    files = [name for output in outputs for name in _names(output)]
    kind = "a synthetic image" if report["synthetic"] else "an image"
    count = kind if len(outputs) == 1 else f"{len(outputs)} {kind.partition(' ')[2]}s"
    size = _shape_in_words(outputs[0]) if outputs else ""
    names = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    where = f" in {folder}" if folder is not None else ""
    memory = f" and {format_bytes(report['peak_rss_bytes'])} of memory" if report["peak_rss_bytes"] else ""
    if report["peak_device_bytes"]:
        memory += f" ({format_bytes(report['peak_device_bytes'])} on the device)"
    text = f"{report['bundle']} made {count}" + (f" ({size})" if size else "")
    return f"{text}: {names}{where}, in {format_duration(report['seconds'])}{memory}."
