"""Formats of image files that are read: those of Pillow and of its plug-ins."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from PIL import Image

# Formats that are read if Pillow, or a plug-in of it that is installed, decodes them. For some of
# its other formats, such as EPS, Pillow runs another program on the file.
READ = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "JXL"),
    *("DIB", "ICO", "ICNS", "TGA", "DDS", "PCX", "SGI", "QOI", "PSD"),
)

# Packages that add formats to Pillow, and the function that does it, where importing does not.
PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": None, "pillow_jxl": None}


def _find_formats() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the formats that can be read here, and the endings of their files."""
    Image.init()
    for package, function in PLUGINS.items():
        # A plug-in whose library does not load is as good as none.
        with suppress(ImportError, OSError, AttributeError):
            plugin = import_module(package)
            if function:
                getattr(plugin, function)()
    endings = Image.registered_extensions()
    formats = tuple(each for each in READ if each in Image.OPEN)
    return formats, tuple(sorted(ending for ending, name in endings.items() if name in formats))


FORMATS, SUFFIXES = _find_formats()
