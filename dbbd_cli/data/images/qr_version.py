"""The version, and so the size, of the QR code of a text."""

from __future__ import annotations

from dbbd_cli.data.images.qr_code import MAX_BYTES

_BYTES_OF_VERSION = (
    *(14, 26, 42, 62, 84, 106, 122, 152, 180),  # versions 1 to 9
    *(213, 251, 287, 331, 362, 412, 450, 504, 560, 624, 666, 711, 779, 857, 911, 997, 1059),  # 10 to 26
    *(1125, 1190, 1264, 1370, 1452, 1538, 1628, 1722, 1809, 1911, 1989, 2099, 2213, MAX_BYTES),  # 27 to 40
)
"""Bytes that fit into a code of each version with error correction M (ISO/IEC 18004, table 7)."""
_ALPHANUMERIC = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")


def qr_version(text: str) -> int:
    """Return the version, 1 to 40, of the code that `render_qr` makes of a text, without making it.

    A code of version v has 17 + 4v modules on a side; 41 stands for text that does not fit.
    """
    num_bytes, num_chars = len(text.encode("utf-8", "replace")), len(text)
    for version, capacity in enumerate(_BYTES_OF_VERSION, start=1):
        group = 0 if version <= 9 else 1 if version <= 26 else 2
        bits = 8 * capacity + (8 if group == 0 else 16)  # of the length and the content
        if text.isascii() and text.isdigit():
            needed = (10, 12, 14)[group] + 10 * (num_chars // 3) + (0, 4, 7)[num_chars % 3]
        elif _ALPHANUMERIC.issuperset(text):
            needed = (9, 11, 13)[group] + 11 * (num_chars // 2) + 6 * (num_chars % 2)
        else:
            needed = (8 if group == 0 else 16) + 8 * num_bytes
        if needed <= bits:
            return version
    return 41
