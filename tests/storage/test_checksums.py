"""Checksums of files and of JSON content."""

from __future__ import annotations

from pathlib import Path

from gkd.storage.checksums import json_sha256, sha256

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_a_file_has_the_checksum_of_the_standard(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == ABC


def test_the_order_of_keys_is_no_part_of_json_content() -> None:
    assert json_sha256({"a": 1, "b": [2.5]}) == json_sha256({"b": [2.5], "a": 1})
    assert json_sha256({"a": 1}) != json_sha256({"a": 2})
    assert json_sha256({"a": [1, 2]}) != json_sha256({"a": [2, 1]})
