from __future__ import annotations

from pathlib import Path

from dbbd_cli.files import write_text


def test_a_file_is_written_whole_and_leaves_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one")
    write_text(tmp_path / "a.txt", "zwei ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwei ä"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
