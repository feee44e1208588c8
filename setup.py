"""Package `hiresmed`, whose source root is `common/`."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "common/hiresmed/__init__.py").read_text()).group(1)


class BuildWithBundles(build_py):
    """An installed package carries the bundles, without their cards' pictures, and the scripts that export one."""

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            left_out = shutil.ignore_patterns("output", "runs", "eval", "__pycache__", "*.png")
            package = pathlib.Path(self.build_lib) / "hiresmed"
            shutil.copytree(ROOT / "bundles", package / "bundles", ignore=left_out, dirs_exist_ok=True)
            (package / "export").mkdir(exist_ok=True)
            for script in sorted((ROOT / "scripts").glob("export_*.py")):
                shutil.copy(script, package / "export")


setup(
    name="hiresmed",
    version=VERSION,
    description="MONAI bundles for medical images too large for the GPU: patches that know where they lie",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The hiresmed-bundles authors",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    package_dir={"": "common"},
    packages=find_packages("common"),
    cmdclass={"build_py": BuildWithBundles},
    entry_points={"console_scripts": ["hiresmed = hiresmed.cli.command:main"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "torch>=2.8",
        "monai>=1.5.1",
        "numpy>=1.26",
        "nibabel>=5.2",
        "itk-io>=5.4",  # of ITK's parts the one that reads files, with itk-core: 0.6 GB instead of 1.5
        "pyyaml>=6",
        "scipy>=1.13",
        "pytorch-ignite>=0.5",
        "zarr>=3.1.6",
        "pillow>=10.3",
        "tifffile>=2024.8.10",
        "fire>=0.6",
        "tqdm>=4.64",
    ],
    extras_require={
        "train": ["tensorboard>=2.16"],
        "dicom": ["pydicom>=3.0", "highdicom>=0.25"],
        "keras": ["h5py>=3.10"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.30"],
        "benchmark": ["einops>=0.7"],
        "study": ["matplotlib>=3.9"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "coverage>=7",
            "ruff>=0.12",
            "mypy>=1.18",
            "types-PyYAML>=6",
            "jsonschema>=4",
            "scipy>=1.13",
            "mpmath>=1.3",
            "prdc>=0.2",
            "scikit-learn>=1.4",
            "h5py>=3.10",
            "matplotlib>=3.9",
        ],
    },
)
