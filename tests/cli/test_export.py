"""gkd export: what is no run is refused."""

from __future__ import annotations

from tests.cli_helpers import gkd


def test_export_refuses_what_is_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert gkd("export", str(tmp_path), "--format", "pt2") == 2
    assert (
        "holds no student.safetensors; gkd export takes the folder of a finished run"
        in capsys.readouterr().err
    )
    assert gkd("export", "absent", "--format", "pt2") == 2
    assert "does not exist" in capsys.readouterr().err
    assert gkd("export", str(tmp_path), "--format", "h5") == 2
