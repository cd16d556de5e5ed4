"""Text from files and file names, safe for terminals and spreadsheets and in one spelling."""

from __future__ import annotations

import re
import unicodedata

# Control characters, which terminals obey; marks that reverse the direction of what follows; and
# halves of characters, which stand for bytes of file names that are not UTF-8.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNSAFE_IN_BLOCK = re.compile(UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

# What a spreadsheet takes for the beginning of a formula; the last four are full-width signs.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def safe_line(text: str) -> str:
    r"""Return `text` as one line in which nothing controls a terminal.

    Example:
        >>> safe_line("a\x1b[2Jb\n")
        'a\\x1b[2Jb\\n'
    """
    return UNSAFE.sub(_escape, text)


def safe_block(text: str) -> str:
    """Return `text` of several lines, in which nothing else controls a terminal."""
    return UNSAFE_IN_BLOCK.sub(_escape, text)


def safe_cell(value: object) -> str:
    """Return `value` as a cell of a CSV table that no spreadsheet takes for a formula.

    Text that begins like a formula gets an apostrophe before it; numbers stay as they are.

    Example:
        >>> safe_cell("=1+1"), safe_cell(-0.5)
        ("'=1+1", '-0.5')
    """
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def plain_cell(cell: str) -> str:
    """Return the text of a cell that `safe_cell` wrote.

    Example:
        >>> plain_cell("'=1+1"), plain_cell("'s")
        ('=1+1', "'s")
    """
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def normalize_name(name: str) -> str:
    """Return the name of a class in one spelling (NFC), since accents have two in Unicode.

    The names of files from macOS have the other one.

    Example:
        >>> len("e\u0301"), len(normalize_name("e\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", name)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":
        # A byte of a file name that is not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
