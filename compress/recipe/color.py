"""Colours as people write them: names, ``#rrggbb`` and the other notations of CSS."""

from __future__ import annotations

from compress.runtime.errors import UserError, quote


def parse_color(text: str) -> str:
    """Return a colour as ``#rrggbb``.

    Raises:
        UserError: there is no such colour.

    Example:
        >>> parse_color("white")
        '#ffffff'
    """
    # Pillow is imported here, so that a command's --help stays quick.
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(
            f"{quote(text)} is not a colour; write a name, as 'white', or '#rrggbb'"
        ) from error
    return f"#{red:02x}{green:02x}{blue:02x}"


def read_color(background: str) -> str:
    """Return the colour of a background as ``#rrggbb``.

    Raises:
        UserError: there is no such colour.
    """
    try:
        return parse_color(background)
    except UserError as error:
        raise UserError(f"background: {error}") from error


def invert_color(color: str) -> str:
    """Return the colour that becomes `color`, ``#rrggbb``, when light and dark are swapped."""
    return f"#{0xFFFFFF - int(color[1:], 16):06x}"
