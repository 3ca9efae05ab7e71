"""Problems with a user's files are worded so that the user can find and fix them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.problems import scan_folder, shortened, why


def test_a_long_list_of_problems_is_shortened() -> None:
    assert shortened(["a"] * 10) == ["a"] * 10
    assert shortened([str(number) for number in range(1234)]) == [*map(str, range(10)), "and 1,224 more"]


def test_the_reason_of_an_error_has_no_path_and_begins_in_lower_case() -> None:
    assert why(OSError(28, "No space left on device", "/data/3 MB")) == "no space left on device"
    assert why(OSError(28, "3 MB are needed")) == "3 MB are needed"
    assert why(ValueError("embedded null byte")) == "embedded null byte"


def test_a_missing_folder_is_an_error_with_similar_names(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert scan_folder(tmp_path / "pictures", "data.path") == []
    with pytest.raises(DataError, match="pcitures does not exist") as caught:
        scan_folder(tmp_path / "pcitures", "data.path")
    assert caught.value.hint == f"did you mean {tmp_path / 'pictures'}?"
    with pytest.raises(DataError) as caught:
        scan_folder(tmp_path / "other" / "x", "data.path")
    assert caught.value.hint == "set data.path to an existing path"


def test_a_file_or_an_invalid_name_instead_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file, not a folder") as caught:
        scan_folder(tmp_path / "file", "data.path")
    assert caught.value.hint == "set data.path to a folder"
    with pytest.raises(DataError, match="cannot be opened: embedded null byte"):
        scan_folder(tmp_path / "a\0b", "data.path")
