from __future__ import annotations

from pathlib import Path

import pytest

from dbbd_cli.core.errors import DataError
from dbbd_cli.data.images.refs import ImageRef, url_sha256
from dbbd_cli.data.images.worker import prepare_image, prepare_rows

SIZE = 16


@pytest.mark.parametrize("ref", [ImageRef(url_sha256("a.example"), url="b.example"), ImageRef("", url="a.example")])
def test_a_url_that_is_not_the_one_that_was_hashed_is_refused(ref: ImageRef, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another URL"):
        prepare_image(ref, SIZE)
    (tmp_path / "pixels").write_bytes(bytes(SIZE * SIZE))
    assert not prepare_rows(tmp_path / "pixels", (1, 1, SIZE, SIZE), [(0, ref)])[0].lasting
