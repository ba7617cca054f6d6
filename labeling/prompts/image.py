"""Images of rows: an address, a ``data:`` address, or a file."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from typing import NamedTuple

from distill.labeling.errors import DataError

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF8", "image/gif"),
)
_MOST_BYTES = 20 * 1024**2


class Image(NamedTuple):
    """The bytes of an image.

    Attributes:
        mime_type: Such as ``image/jpeg``.
        data: The file's bytes.
    """

    mime_type: str
    data: bytes

    @property
    def data_url(self) -> str:
        """As a ``data:`` address (RFC 2397)."""
        return f"data:{self.mime_type};base64,{base64.b64encode(self.data).decode('ascii')}"


def is_address(reference: str) -> bool:
    """Whether an image is on the web, where the provider fetches it itself."""
    return reference.lower().startswith(("http://", "https://"))


def read_image(reference: str) -> Image:
    """Reads an image that is not on the web.

    Args:
        reference: A path, or a base64 ``data:`` address.

    Raises:
        DataError: There is no such file, it is larger than 20 MiB, or it is not an image.
    """
    if reference.startswith("data:"):
        head, _, encoded = reference[len("data:") :].partition(",")
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise DataError(f"image {reference[:60]!r}: is no base64; write data:image/png;base64,…") from None
        return Image(head.removesuffix(";base64") or "image/png", data)
    path = Path(reference)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"image {reference}: is larger than {_MOST_BYTES // 1024**2} MiB; shrink it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"image {reference}: cannot be read ({error.strerror}); correct the path") from None
    kind = next((kind for start, kind in _SIGNATURES if data.startswith(start)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    kind = kind or mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise DataError(f"image {reference}: is not an image that a model takes; give JPEG, PNG, GIF or WebP")
    return Image(kind, data)
