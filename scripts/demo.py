"""The first thing to try: draws a thorax CT of 256^3 voxels with msgan_ct3d, and says what was made.

    make demo                                        or, in the environment that has hiresmed:
    python scripts/demo.py [--output_dir demo_output] [--knob value ...]

The run is the one that the bundle's inference.yaml describes; every other knob (say, --phantom_size "[96,96,96]") is
handed on to it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

from hiresmed.cli.shipped_configs import without_notice
from hiresmed.core.in_words import format_bytes, format_duration

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "msgan_ct3d"


def run_bundle(output_dir: pathlib.Path, knobs: list[str]) -> None:
    """The bundle's inference on its embedded phantom; progress and errors are shown, MONAI's listing is not."""
    config = BUNDLE / "configs" / "inference.yaml"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    command += ["--bundle_root", str(BUNDLE), "--output_dir", str(output_dir), "--overwrite", "true", *knobs]
    environment = without_notice(os.environ, [config])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"The demo did not finish (exit status {done.returncode}); the lines above say why.")


def in_words(report: dict) -> dict[str, str]:
    """What a report.json says, as label -> text."""
    made, given, config = report["output"], report["input"], report["config"]
    return {
        "made": f"{made['files'][0]}: {' x '.join(map(str, made['shape']))} voxels of {made['dtype']}, synthetic",
        "from": f"the edges of {given['file']}",
        "by": f"{report['bundle']} {report['version']} on {config['device']}, seed {report['seed']}",
        "time": format_duration(report["seconds"]),
        "memory": f"{format_bytes(report['peak_rss_bytes'])} at most, set by the tile of {config['tile_size']} voxels",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--output_dir", type=pathlib.Path, default=pathlib.Path("demo_output"), help="default: %(default)s"
    )
    arguments, knobs = parser.parse_known_args()
    print(
        "Drawing a thorax CT from edges (by default those of a procedural body), coarse to fine, tile by tile.",
        flush=True,
    )
    run_bundle(arguments.output_dir, knobs)
    report = json.loads((arguments.output_dir / "report.json").read_text(encoding="utf-8"))
    print()
    for label, text in in_words(report).items():
        print(f"  {label:<8}{text}")
    print(f"\nLook first at   {arguments.output_dir / 'preview.png'}")
    print(f"The run's facts {arguments.output_dir / 'report.json'}")
    print(f"The volume      {arguments.output_dir / report['output']['files'][0]}")
    print("Next: README.md, 'Use it', for images of your own.")


if __name__ == "__main__":
    main()
