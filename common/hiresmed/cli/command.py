"""The command `hiresmed`: bundles by name, for whoever does not write config paths; thin over monai.bundle.

hiresmed list                                    the bundles that are found, and where
hiresmed info msgan_ct3d [train]                 what one does, its weights, workflows, overlays and knobs
hiresmed run msgan_ct3d --image /my/ct.nii.gz    inference; another workflow or overlays by their names:
hiresmed run msgan_ct3d super_resolution --image /my/ct.nii.gz --size "[512,512,512]"
hiresmed export msgan_ct3d --output_dir dist     a folder and a zip that need nothing of the repository
hiresmed doctor                                  environment, versions, weights, GPU, free disk
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.errors import InputError
from ..core.in_words import format_bytes
from ..core.knobs import TEXT_KNOBS, as_expression, check_knob_names, parse_text
from ..core.weight_files import weights_sha256
from .bundle_folders import BundleFolder, bundle, bundles, known_ids, search_path
from .shipped_configs import without_notice

# MONAI's listing of what it was given
_LISTING = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ - (INFO - |WARNING - Default logging file)|^\s*$")


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the words say; returns the exit status, 2 for a user's mistake."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.do(arguments) or 0
    except InputError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):  # `hiresmed info ... | head`; Ctrl-C
        return 130


def _parser() -> argparse.ArgumentParser:
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser("hiresmed", description=__doc__, **form)
    parser.add_argument("--version", action="version", version=f"hiresmed {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="list | info | run | export | doctor")

    def verb(name: str, do, about: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, description=about, **form)
        command.set_defaults(do=do)
        return command

    verb("list", _list, "The bundles that are found, and where.")
    info = verb("info", _info, "What a bundle does, its weights, workflows, overlays and knobs.")
    info.add_argument("bundle", help="name or folder")
    info.add_argument("config", nargs="?", default="inference", help="whose knobs are shown (default: inference)")
    run = verb("run", _run, "Runs a bundle's inference, or the workflow or overlays that are named, with these knobs.")
    run.add_argument("bundle", help="name or folder")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="[config ...] [--knob value ...]", help="see info")
    export = verb("export", _export, "Writes a bundle as a folder and a zip that need nothing of the repository.")
    export.add_argument("bundle", help="name or folder")
    export.add_argument("--output_dir", default="dist", help="default: %(default)s")
    verb("doctor", _doctor, "Looks at environment, versions, weights, GPU and free disk.")
    return parser


def _list(_: argparse.Namespace) -> int:
    folders = bundles()
    if not folders:
        places = ", ".join(dict.fromkeys(str(p) for p in search_path()))
        raise InputError(f"bundles must lie in one of {places}, got none; set HIRESMED_BUNDLES to their folder.")
    for name, folder in folders.items():
        state = "" if folder.weights.is_file() else " (no weights yet)"
        print(f"{name:<20} {folder.metadata['version']:<8} {folder.metadata['task']}{state}")
    print("\nin " + ", ".join(dict.fromkeys(str(folder.root.parent) for folder in folders.values())))
    print("hiresmed info <bundle> says more of one.")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    chosen = bundle(arguments.bundle)
    chosen.config(arguments.config)
    about = chosen.metadata
    print(f"{chosen.name} {about['version']}: {about['task']}\n")
    print(textwrap.fill(about["description"], 110))
    for label, value in (("for", about.get("intended_use")), ("data", about.get("data_source"))):
        if value:
            print(textwrap.fill(f"{label}: {value}", 110, subsequent_indent="     "))
    print(f"\nfolder    {chosen.root}\nweights   {weights_in_words(chosen)}")
    print("model card " + str(chosen.root / "docs" / "README.md"))
    print("\nWorkflows and overlays (hiresmed run " + chosen.name + " <name> ...)")
    for name in chosen.offered:
        print(f"  {name:<36} {textwrap.shorten(chosen.title(name), 90, placeholder=' ...')}")
    print(f"\nKnobs of {arguments.config} (--name value)")
    for knob in chosen.knobs(arguments.config):
        print(f"  {knob.name:<18} {knob.value:<26} {knob.meaning}".rstrip())
    return 0


def weights_in_words(chosen: BundleFolder) -> str:
    """Size and sha256 of a bundle's weights, or what is wrong with them."""
    if not chosen.weights.is_file():
        return "none yet: train, or put model.pt into its models folder"
    try:
        return f"{format_bytes(chosen.weights.stat().st_size)}, sha256 {weights_sha256(chosen.weights)}"
    except InputError as mistake:
        return f"damaged: {mistake}"


def run_command(chosen: BundleFolder, words: Sequence[str]) -> list[str]:
    """The `python -m monai.bundle run` command that stands for `hiresmed run <bundle> <words>`.

    Raises:
        InputError: a config that the bundle has not, or a knob that its configs have not, with the nearest name.
    """
    first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    knobs = list(words[first:])
    files = chosen.files(words[:first])
    names = [word[2:].partition("=")[0] for word in knobs if word.startswith("--") and len(word) > 2]
    check_knob_names(names, known_ids(files))
    listed = str(files[0]) if len(files) == 1 else "[" + ",".join(repr(str(f)) for f in files) + "]"
    if "bundle_root" not in names:
        knobs = ["--bundle_root", str(chosen.root), *knobs]
    return [sys.executable, "-m", "monai.bundle", "run", "--config_file", listed, *_as_text(knobs)]


def _as_text(knobs: Sequence[str]) -> Iterator[str]:
    """The words of a command with each path written so that MONAI does not evaluate it, whatever it holds."""
    name = ""
    for word in knobs:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            name = flag[2:]
            yield flag + equals + (_quoted(value) if name in TEXT_KNOBS and equals else value)
        else:
            yield _quoted(word) if name in TEXT_KNOBS else word


def _quoted(word: str) -> str:
    """A path as it is, or, if MONAI would read it otherwise, as Python text in quotes."""
    value = parse_text(word)
    written = as_expression(value)
    return word if written == value else ascii(written)


def _run(arguments: argparse.Namespace) -> int:
    if {"-h", "--help"} & set(arguments.words):
        arguments.config = next((w for w in arguments.words if not w.startswith("-")), "inference")
        return _info(arguments)
    chosen = bundle(arguments.bundle)
    command = run_command(chosen, arguments.words)
    files = chosen.files(list(takewhile(lambda word: not word.startswith("-"), arguments.words)))
    environment = without_notice(os.environ, files)
    # a process of its own: the bundle's own code may be of another release than this command's
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment) as process:
        for line in process.stdout or ():
            if not _LISTING.match(line):
                print(line, end="", flush=True)
    return process.returncode


def _export(arguments: argparse.Namespace) -> int:
    chosen = bundle(arguments.bundle)
    around = [chosen.root.parents[1] / "scripts", Path(__file__).resolve().parents[1] / "export"]
    scripts = [folder / "export_bundle.py" for folder in around if (folder / "export_bundle.py").is_file()]
    if not scripts:
        raise InputError(
            f"export must find the repository's scripts/export_bundle.py around {chosen.root}, got none; "
            "name a bundle inside the repository, or install the package with `pip install .`."
        )
    command = [
        sys.executable,
        str(scripts[0]),
        str(chosen.root),
        "--output_dir",
        str(Path(arguments.output_dir).resolve()),
    ]
    return subprocess.run(command).returncode


def _doctor(_: argparse.Namespace) -> int:
    from .doctor import examine

    return examine(bundles())


if __name__ == "__main__":
    sys.exit(main())
