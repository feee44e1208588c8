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
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = pathlib.Path(os.environ.get("HIRESMED_DATA", "/nonexistent"))
PYTHON = os.path.abspath(os.environ.get("HIRESMED_LABEL_PYTHON", sys.executable))
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
INSTALLED = os.path.abspath(sys.executable) != PYTHON or importlib.util.find_spec("monailabel")

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
    """Weights for a bundle that comes with none; layers that begin as zeros, too, so that something is drawn."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    torch.manual_seed(0)
    state = parser.get_parsed_content("network_def").state_dict()
    drawn = {k: 0.1 * torch.randn_like(v) if v.is_floating_point() and not v.any() else v for k, v in state.items()}
    torch.save(drawn, folder / "models/model.pt")


def quick(folder: pathlib.Path, **knobs) -> None:
    """Other defaults for an exported bundle, as a server takes no knobs."""
    path = folder / "configs/inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | knobs))


class Server:
    """A server on a free port of this machine, until `stop`."""

    def __init__(self, app: pathlib.Path, studies: pathlib.Path, log: pathlib.Path) -> None:
        self.app = app
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

    def run(self, model: str, image: pathlib.Path, output_dir: pathlib.Path) -> pathlib.Path:
        """What the command line makes of the same image with the same folder; the result, not its preview or maps."""
        bundle = self.app / "model" / model
        words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", bundle / "configs/inference.json"]
        words += ["--bundle_root", bundle, "--image", image, "--output_dir", output_dir]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=image.parent)
        assert done.returncode == 0, done.stderr[-2000:]
        (made,) = (p for p in output_dir.iterdir() if p.stem.split(".")[0].endswith(("_synthetic", "_labels")))
        return made

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
    quick(app / "model/patchddm_brats", num_samples=1, steps=2, spacing=4.0)
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


def test_a_ct_comes_back_on_its_own_grid_with_the_values_of_the_command_line(server, tmp_path):
    image = cropped(DATA / "ct3d/LIDC-IDRI-0314_iso2mm.nii.gz", tmp_path / "ct.nii.gz", 48)
    server.info()
    made = nibabel.load(server.infer("msgan_ct3d", image, tmp_path / "out.nii.gz", result_extension=".nii.gz"))
    assert made.shape == nibabel.load(image).shape and made.get_data_dtype() == np.int16
    np.testing.assert_allclose(made.affine, nibabel.load(image).affine, atol=1e-3)
    wanted = nibabel.load(server.run("msgan_ct3d", image, tmp_path / "out")).get_fdata()
    assert wanted.std() > 10 and np.abs(made.get_fdata() - wanted).mean() < 5  # HU; on disk the levels are rounded


def test_twenty_requests_at_once_are_answered_as_single_ones_each_with_its_own_patient(server, tmp_path):
    volume = nibabel.load(DATA / "ct3d/LIDC-IDRI-0314_iso2mm.nii.gz")
    server.info()
    given = []
    for n in range(20):
        first = (20 + 3 * n, 100 - 2 * n, 60)
        given.append(tmp_path / f"ct_{n}.nii.gz")
        nibabel.save(volume.slicer[tuple(slice(a, a + 32) for a in first)], given[n])

    def answer(n: int, how: str) -> bytes:
        made = server.infer("msgan_ct3d", given[n], tmp_path / f"{how}_{n}.nii.gz", result_extension=".nii.gz")
        image = nibabel.load(made)
        return image.affine.tobytes() + np.asarray(image.dataobj).tobytes()

    single = [answer(n, "single") for n in range(20)]
    with ThreadPoolExecutor(20) as clients:
        parallel = list(clients.map(lambda n: answer(n, "parallel"), range(20)))
    assert len(set(single)) == 20 and parallel == single


def test_an_x_ray_comes_back_upright_as_a_16_bit_picture(server, tmp_path):
    source = next((DATA / "xray2d").glob("*.jpg"))
    with Image.open(source) as picture:
        picture.convert("L").resize((160, 128)).save(tmp_path / "xray.png")
    server.info()
    made = server.infer("msgan_xray2d", tmp_path / "xray.png", tmp_path / "out.png", result_extension=".png")
    values, given = (np.asarray(Image.open(path)).astype(float) for path in (made, tmp_path / "xray.png"))
    wanted = np.asarray(Image.open(server.run("msgan_xray2d", tmp_path / "xray.png", tmp_path / "out"))).astype(float)
    assert values.shape == given.shape == (128, 160) and values.max() > 255
    assert wanted.std() > 1000 and np.abs(values - wanted).mean() < 0.01 * 65535
    assert np.corrcoef(values.ravel(), given.ravel())[0, 1] > 0.5


def test_a_brain_comes_back_as_the_label_map_of_the_command_line_on_its_own_grid(server, tmp_path):
    case = tmp_path / "case"
    case.mkdir()
    for name in ("fla", "t1", "t1c", "t2"):
        cropped(DATA / f"brain_mr/TCGA-FG-6692/TCGA-FG-6692_{name}.nii.gz", case / f"TCGA-FG-6692_{name}.nii.gz", 64)
    given = case / "TCGA-FG-6692_fla.nii.gz"  # one sequence; the others are found beside it
    server.info()
    made = nibabel.load(server.infer("patchddm_brats", given, tmp_path / "out.nii.gz", result_extension=".nii.gz"))
    assert made.shape == nibabel.load(given).shape and made.get_data_dtype() == np.uint8
    np.testing.assert_allclose(made.affine, nibabel.load(given).affine, atol=1e-3)
    wanted = np.asarray(nibabel.load(server.run("patchddm_brats", given, tmp_path / "out")).dataobj)
    assert set(np.unique(wanted)) == {0, 1} and np.array_equal(np.asarray(made.dataobj), wanted)
    whole = nibabel.load(server.infer("patchddm_brats", case, tmp_path / "whole.nii.gz", result_extension=".nii.gz"))
    assert np.array_equal(np.asarray(whole.dataobj), wanted)


@pytest.mark.parametrize("model, size", [("dcgan_mri", (64, 64)), ("inr_gan_multistage", (128, 128))])
def test_an_image_out_of_noise_belongs_to_the_seed_of_the_request(server, tmp_path, model, size):
    image = next((DATA / "xray2d").glob("*.jpg"))  # some image must be named; it is not looked at
    server.info()
    first, again, other = (
        np.asarray(Image.open(server.infer(model, image, tmp_path / f"{n}.png", result_extension=".png", seed=s)))
        for n, s in enumerate((3, 3, 4))
    )
    assert first.shape == size and first.max() > 255 and first.std() > 0
    assert np.array_equal(first, again) and not np.array_equal(first, other)
