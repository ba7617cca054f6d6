"""What a user installs holds every folder under one name, so that their own eval.py never meets ours."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = (
    "distill/__init__.py",
    "distill/labeling/engine/engine.py",
    "distill/teachers/openai.py",
    "distill/students/encoder.py",
    "distill/students/queries/encoder.py",
    "distill/eval/metrics.py",
    "distill/eval/templates/",
    "distill/recipes/quickstart.yaml",
    "distill/recipes/quickstart/pairs.parquet",
    "distill/recipes/starter/recipe.yaml",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


def test_the_wheel_has_one_top_level_and_all_folders(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]}
    assert tops == {"distill"}
    for path in INSIDE:
        assert any(name.startswith(path) for name in names), path
    assert not [name for name in names if "__pycache__" in name or name.endswith(".tmp")]


def test_the_source_distribution_can_build_the_same_wheel(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = archive.getnames()
    for path in INSIDE:
        assert any(f"/{path}".rstrip("/") in name for name in names), path
