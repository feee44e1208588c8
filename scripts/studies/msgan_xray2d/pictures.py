"""The pictures of msgan_xray2d's card: other domains drawn in the look of the training X-rays, and where it fails.

    python scripts/studies/msgan_xray2d/pictures.py --data_dir $HIRESMED_DATA --work_dir ./runs/pictures

Runs the bundle's inference.yaml, as on the command line, on a procedural thorax, a film of another hospital and a
pencil drawing (translation.png), and on a held-back patient lying on his back, an X-ray stood on its head and a
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
HELD_BACK = "xray2d/hannover_p249_APSupine_c828e894.jpg"
UPRIGHT = "xray2d/hannover_p258_PA_f6d980a0.jpg"
FILM = "xray2d/pydicom_RG1_J2KI_chest.dcm"
PHOTOGRAPH = "natural2d/camera.png"


def pencil_drawing(path: pathlib.Path, size: int = 1024) -> pathlib.Path:
    """A chest as a child draws it, grey lines on white paper: outline, lungs, heart, diaphragm, ribs, spine."""
    paper = Image.new("L", (size, size), 250)
    pen, line = ImageDraw.Draw(paper), {"width": max(2, size // 300)}

    def at(*shares: float) -> list[float]:
        return [share * size for share in shares]

    pen.line(at(0.14, 1.0, 0.12, 0.45, 0.22, 0.2, 0.42, 0.1, 0.42, 0.0), fill=60, joint="curve", **line)
    pen.line(at(0.86, 1.0, 0.88, 0.45, 0.78, 0.2, 0.58, 0.1, 0.58, 0.0), fill=60, joint="curve", **line)
    pen.arc(at(0.20, 0.15, 0.47, 1.05), 175, 360, fill=40, **line)
    pen.arc(at(0.53, 0.15, 0.80, 1.05), 180, 365, fill=40, **line)
    pen.arc(at(0.18, 0.66, 0.47, 0.86), 180, 360, fill=40, **line)
    pen.arc(at(0.53, 0.69, 0.82, 0.89), 180, 360, fill=40, **line)
    pen.arc(at(0.42, 0.42, 0.70, 0.84), 260, 80, fill=40, **line)
    for rib in range(5):
        y = 0.26 + 0.075 * rib
        pen.arc(at(0.19, y, 0.46, y + 0.16), 200, 320, fill=150, **line)
        pen.arc(at(0.54, y, 0.81, y + 0.16), 220, 340, fill=150, **line)
    pen.line(at(0.47, 0.05, 0.47, 0.98), fill=150, **line)
    pen.line(at(0.53, 0.05, 0.53, 0.98), fill=150, **line)
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
    drawing = pencil_drawing(made / "pencil_drawing.png")
    turned = upside_down(data / UPRIGHT, made / "upside_down.png")
    failing = {"supine": data / HELD_BACK, "turned": turned, "photograph": data / PHOTOGRAPH}
    pictures = {
        "translation": {
            "phantom": {"phantom_size": [1024, 1024]},
            "film": {"image": data / FILM},
            "drawing": {"sketch": drawing},
        },
        "failures": {name: {"image": path} for name, path in failing.items()},
    }
    for picture, cases in pictures.items():
        rows = [preview_of(name, made, **given) for name, given in cases.items()]
        study.save_aside(made / f"{picture}.png", study.one_below_the_other(rows).save)
        print(made / f"{picture}.png")


if __name__ == "__main__":
    main()
