"""The wheel holds the tree, no more and no less, and works outside the clone."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = {"gkd": "gkd", "tasks": "gkd/tasks", "configs": "gkd/configs"}  # folder in the tree -> in the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # A copy, so that setuptools' build folder of an earlier version cannot add files.
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    files = listed.stdout.split() if listed.returncode == 0 else []
    assert files, "the test needs the clone"
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.full
def test_the_wheel_holds_exactly_the_tree(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {
        f"{target}/{path.relative_to(ROOT / folder)}"
        for folder, target in PLACES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".csv", ".json", ".txt", ".typed")
        and "__pycache__" not in path.parts
    }
    assert inside == tree


@pytest.mark.full
def test_the_wheel_runs_outside_the_clone_and_so_does_the_plug_in_beside_it(wheel, tmp_path):
    site, work, plugin = tmp_path / "site", tmp_path / "work", tmp_path / "plugin"
    work.mkdir()
    shutil.copytree(ROOT / "examples" / "plugin", plugin)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    for package in (wheel, plugin):
        subprocess.run([*pip, str(site), str(package)], check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def call(*words: str) -> str:
        done = subprocess.run([*words], cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(site) in call(sys.executable, "-c", "import gkd; print(gkd.__file__)")
    gkd = str(site / "bin" / "gkd")
    assert "quickstart" in call(sys.executable, gkd, "ls")
    words = ("quickstart", "method=sp", "run.epochs=2", "teacher.train.epochs=1")
    assert "test accuracy" in call(sys.executable, gkd, "run", *words)
    words = ("run.epochs=2", "teacher.train.epochs=2", "run.threads=1")
    printed = call(sys.executable, gkd, "run", str(plugin / "stripes.yaml"), *words)
    assert "in_the_dark" in printed
    call(sys.executable, "-c", f"import gkd_example.task as t; assert t.__file__.startswith({str(site)!r})")


def test_no_package_of_ours_lands_beside_gkd():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert all(name == "gkd" or name.startswith("gkd.") for name in packages)
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "gkd").rglob("__init__.py")}
    assert set(packages) == {".".join(folder.parts) for folder in folders} | {"gkd.tasks", "gkd.configs"}
