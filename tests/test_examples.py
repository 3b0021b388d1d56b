"""Every example runs as it stands."""

from pathlib import Path

import pytest

from tests.processes import Child, python_file

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    example = Child(python_file, str(path), cwd=tmp_path)
    out, errors = example.communicate()
    assert example.returncode == 0, errors
    assert "%" in out
