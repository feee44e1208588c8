"""A real MONAI Label server serves the five exported bundles at once: real images in, results on their grid out.

Optional: runs where monailabel is installed (docs/monai_label.md), here or in the Python of HIRESMED_LABEL_PYTHON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

import itk
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("HIRESMED_DATA", "/nonexistent"))
PYTHON = os.environ.get("HIRESMED_LABEL_PYTHON", sys.executable)
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
INSTALLED = sys.executable != PYTHON or importlib.util.find_spec("monailabel")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not INSTALLED, reason="monailabel is not installed, and HIRESMED_LABEL_PYTHON names no other Python"
    ),
    pytest.mark.skipif(not DATA.is_dir(), reason="HIRESMED_DATA names no folder"),
]


def sample_app() -> pathlib.Path:
    """monaibundle as monailabel installs it."""
    code = "import sys; print(sys.prefix)"
    prefix = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return pathlib.Path(prefix) / "monailabel/sample-apps/monaibundle"


def freshly_initialised(folder: pathlib.Path) -> None:
    """Weights for a bundle that comes with none."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "models/model.pt")


class Server:
    """A server on a free port of this machine, until `stop`."""

    def __init__(self, app: pathlib.Path, studies: pathlib.Path, log: pathlib.Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{port}", log
        names = ",".join(bundle.name for bundle in BUNDLES)
        conf = [w for pair in (("models", names), ("zoo_source", "local"), ("sam2", "false"), ("skip_trainers", "true"))
                for w in ("--conf", *pair)]  # fmt: skip
        words = [PYTHON, "-m", "monailabel.main", "start_server", "--app", app, "--studies", studies]
        words += ["--host", "127.0.0.1", "--port", port, *conf]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with log.open("w") as out:
            self.process = subprocess.Popen(
                list(map(str, words)), stdout=out, stderr=out, env=environment, cwd=studies, start_new_session=True
            )

    def info(self, seconds: float = 1500) -> dict:
        """What the server says of itself, once it is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{self.address}/info/", timeout=60) as answer:
                    return json.load(answer)
            except (urllib.error.URLError, TimeoutError):
                time.sleep(2)
        raise TimeoutError(self.log.read_text()[-3000:])

    def infer(self, model: str, image: pathlib.Path, into: pathlib.Path, **params) -> pathlib.Path:
        """The image that the server returns for an image on its disk."""
        edge = uuid.uuid4().hex
        part = (
            f'--{edge}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}\r\n--{edge}--\r\n'
        )
        query = urllib.parse.urlencode({"image": str(image), "output": "image"})
        header = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        request = urllib.request.Request(f"{self.address}/infer/{model}?{query}", part.encode(), header, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=1500) as answer:
                into.write_bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode() + self.log.read_text()[-3000:]) from error
        return into

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Server:
    folder = tmp_path_factory.mktemp("label")
    app = pathlib.Path(shutil.copytree(sample_app(), folder / "monaibundle"))
    words = [sys.executable, ROOT / "scripts/export_bundle.py", *BUNDLES, "--output_dir", app / "model"]
    subprocess.run(list(map(str, words)), check=True)
    for bundle in BUNDLES:
        if not (app / "model" / bundle.name / "models/model.pt").exists():
            freshly_initialised(app / "model" / bundle.name)
    (folder / "studies").mkdir()
    started = Server(app, folder / "studies", folder / "server.log")
    yield started
    started.stop()


def cropped(source: pathlib.Path, into: pathlib.Path, size: int) -> pathlib.Path:
    """The middle of a real volume on its own frame of reference, small enough for a test."""
    image = nibabel.load(source)
    first = [max(0, n // 2 - size // 2) for n in image.shape[:3]]
    middle = image.slicer[tuple(slice(a, a + size) for a in first)]
    nibabel.save(middle, into)
    return into


def test_all_five_are_served_at_once_with_their_labels(server):
    models = server.info()["models"]
    assert set(models) == {bundle.name for bundle in BUNDLES}
    assert models["patchddm_brats"]["labels"] == {"whole tumour": 1}
    assert models["msgan_xray2d"]["dimension"] == 2 and models["msgan_ct3d"]["dimension"] == 3


def test_a_ct_comes_back_on_its_own_grid_in_hounsfield_units(server, tmp_path):
    image = cropped(DATA / "ct3d/LIDC-IDRI-0314_iso2mm.nii.gz", tmp_path / "ct.nii.gz", 48)
    server.info()
    made = nibabel.load(server.infer("msgan_ct3d", image, tmp_path / "out.nii.gz", result_extension=".nii.gz"))
    given = nibabel.load(image)
    assert made.shape == given.shape and made.get_data_dtype() == np.int16
    np.testing.assert_allclose(made.affine, given.affine, atol=1e-3)
    values, truth = made.get_fdata(), given.get_fdata().clip(-1024, 1024)
    assert values.min() >= -1024 and values.max() <= 1024
    assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] > 0.8


def test_an_x_ray_comes_back_upright_as_a_16_bit_picture(server, tmp_path):
    from PIL import Image

    source = next((DATA / "xray2d").glob("*.jpg"))
    with Image.open(source) as picture:
        picture.convert("L").resize((160, 128)).save(tmp_path / "xray.png")
    server.info()
    made = server.infer("msgan_xray2d", tmp_path / "xray.png", tmp_path / "out.png", result_extension=".png")
    values = np.asarray(Image.open(made)).astype(float)
    truth = np.asarray(Image.open(tmp_path / "xray.png")).astype(float)
    assert values.shape == truth.shape == (128, 160) and values.max() > 255
    upright, turned = (np.corrcoef(v.ravel(), truth.ravel())[0, 1] for v in (values, values[::-1]))
    assert upright > 0.5 and upright > turned


def test_a_brain_comes_back_as_a_label_map_on_its_own_grid(server, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    for source in sorted((DATA / "brain_mr/TCGA-FG-6692").glob("*.nii*")):
        if not any(part in source.name for part in ("seg", "mask", "label")):
            cropped(source, case / source.name, 64)
    server.info()
    given = sorted(case.iterdir())[0]  # one sequence; the others are found beside it
    made = nibabel.load(server.infer("patchddm_brats", given, tmp_path / "out.nii.gz", result_extension=".nii.gz"))
    assert made.shape == nibabel.load(given).shape and made.get_data_dtype() == np.uint8
    np.testing.assert_allclose(made.affine, nibabel.load(given).affine, atol=1e-3)
    assert set(np.unique(made.dataobj)) <= {0, 1}


@pytest.mark.parametrize("model, size", [("dcgan_mri", (64, 64)), ("inr_gan_multistage", (128, 128))])
def test_an_image_out_of_noise_belongs_to_the_seed_of_the_request(server, tmp_path, model, size):
    image = next((DATA / "xray2d").glob("*.jpg"))  # some image must be named; it is not looked at
    server.info()
    first, again, other = (
        itk.array_from_image(
            itk.imread(str(server.infer(model, image, tmp_path / f"{n}.png", result_extension=".png", seed=s)))
        )
        for n, s in enumerate((3, 3, 4))
    )
    assert first.shape == size and first.dtype == np.uint16 and first.std() > 0
    assert np.array_equal(first, again) and not np.array_equal(first, other)
