"""The pictures of msgan_xray2d's card: other domains drawn in the look of the training X-rays, and where it fails.

    python scripts/studies/msgan_xray2d/pictures.py --data_dir $HIRESMED_DATA --work_dir ./runs/pictures

Runs the bundle's inference.yaml, as on the command line, on a procedural thorax, a film of another hospital and a
chest painted in greys (translation.png), and on a held-back patient lying on his back, an X-ray stood on its head and a
photograph (failures.png); the pictures come into --work_dir. Needs xray2d/ and natural2d/ below --data_dir.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from PIL import Image, ImageDraw

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # study.py, which studies share
import study

BUNDLE = study.BUNDLES / "msgan_xray2d"
HELD_BACK = "xray2d/hannover_p250_APSupine_cb706009.jpg"
UPRIGHT = "xray2d/hannover_p258_PA_f6d980a0.jpg"
FILM = "xray2d/pydicom_RG1_J2KI_chest.dcm"
PHOTOGRAPH = "natural2d/camera.png"


def painting(path: pathlib.Path, size: int = 1024) -> pathlib.Path:
    """A chest as a child paints it, in five greys: body, lungs, heart, spine, ribs."""
    paper = Image.new("L", (size, size), 20)
    brush, rib_line = ImageDraw.Draw(paper), {"fill": 120, "width": size // 60}

    def at(*shares: float) -> list[float]:
        return [share * size for share in shares]

    outline = (0.14, 1.0, 0.12, 0.45, 0.22, 0.2, 0.42, 0.1, 0.42, 0.0)
    left = [(x * size, y * size) for x, y in zip(outline[::2], outline[1::2])]
    brush.polygon([*left, *((size - x, y) for x, y in reversed(left))], fill=190)
    for lung, dome in (
        (at(0.20, 0.17, 0.45, 0.93), at(0.16, 0.72, 0.47, 1.1)),
        (at(0.55, 0.17, 0.80, 0.93), at(0.53, 0.75, 0.84, 1.1)),
    ):
        brush.ellipse(lung, fill=70)
        brush.ellipse(dome, fill=190)
    for rib in range(5):
        y = 0.26 + 0.09 * rib
        brush.arc(at(0.19, y, 0.46, y + 0.16), 200, 320, **rib_line)
        brush.arc(at(0.54, y, 0.81, y + 0.16), 220, 340, **rib_line)
    brush.ellipse(at(0.42, 0.45, 0.72, 0.82), fill=210)
    brush.rectangle(at(0.47, 0.0, 0.53, 1.0), fill=230)
    paper.save(path)
    return path


def upside_down(source: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    with Image.open(source) as picture:
        picture.convert("L").rotate(180).save(path)
    return path


def preview_of(name: str, work_dir: pathlib.Path, **given) -> Image.Image:
    """The preview that one run leaves; a run that is done is not done again."""
    folder = work_dir / name
    if not (folder / "preview.png").exists():
        knobs = {**given, "output_format": "png", "overwrite": "true"}
        study.run_bundle(BUNDLE, ["inference.yaml"], folder, **knobs)
    with Image.open(folder / "preview.png") as picture:
        return picture.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data_dir", type=pathlib.Path, required=True)
    parser.add_argument("--work_dir", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    data, made = args.data_dir.resolve(), args.work_dir
    painted = painting(made / "painting.png")
    turned = upside_down(data / UPRIGHT, made / "upside_down.png")
    failing = {"supine": data / HELD_BACK, "turned": turned, "photograph": data / PHOTOGRAPH}
    pictures = {
        "translation": {
            "phantom": {"phantom_size": [1024, 1024]},
            "film": {"image": data / FILM},
            "painting": {"image": painted},
        },
        "failures": {name: {"image": path} for name, path in failing.items()},
    }
    for picture, cases in pictures.items():
        rows = [preview_of(name, made, **given) for name, given in cases.items()]
        study.save_aside(made / f"{picture}.png", study.one_below_the_other(rows).save)
        print(made / f"{picture}.png")


if __name__ == "__main__":
    main()
