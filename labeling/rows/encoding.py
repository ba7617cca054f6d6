"""Opens text files: compression, encodings, and bytes that are no text."""

from __future__ import annotations

import codecs
import importlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from distill.labeling.errors import MissingDependencyError

_SNIFFED_BYTES = 262_144
_SEARCHED_BYTES = 64 * 1024 * 1024
_UNDECODABLE = re.compile("[\udc00-\udcff]")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What shops' exports come in. The detector knows many more, which on short text win by accident: with cp1250 among them
# "Crème brûlée" is read as "Crčme brűlée".
_CANDIDATES = ["cp949", "cp932", "gb18030", "big5", "cp1252", "cp1251"]
_SURE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def _mark_bytes(error: UnicodeError) -> tuple[str, int]:
    """Decodes what cannot be decoded to U+DC00 + byte, so that the row can be told apart and shown."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("distill.mark_bytes", _mark_bytes)


def open_bytes(path: Path) -> Any:
    """Opens a file, decompressing by its ending (.gz, .bz2, .xz, .zst).

    Raises:
        MissingDependencyError: For .zst, without pyarrow.
    """
    ending = path.suffix.lower()
    if ending == ".gz":
        import gzip

        return gzip.open(path, "rb")
    if ending == ".bz2":
        import bz2

        return bz2.open(path, "rb")
    if ending == ".xz":
        import lzma

        return lzma.open(path, "rb")
    if ending == ".zst":
        try:
            pyarrow = importlib.import_module("pyarrow")
        except ImportError:
            raise MissingDependencyError("pyarrow", needed_for=str(path), install="pip install pyarrow") from None
        return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def open_text(path: Path, *, encoding: str) -> IO[str]:
    """Opens a text file, compressed or not; what cannot be decoded is marked in the text rather than raised."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors="distill.mark_bytes", newline="")


def find_encoding(path: Path) -> str:
    """Finds the encoding of a text file from its byte order mark, or from the first part that is not plain ASCII.

    A file that is UTF-8 but for a few lines is UTF-8: those lines become problems.
    """
    with open_bytes(path) as stream:
        head = stream.read(_SNIFFED_BYTES)
        for mark, name in _BYTE_ORDER_MARKS:
            if head.startswith(mark):
                return name
        read = len(head)
        while head.isascii() and b"\0" not in head and read < _SEARCHED_BYTES:
            head = stream.read(_SNIFFED_BYTES)
            read += len(head)
            if not head:
                return "utf-8"
        head += stream.readline(_SNIFFED_BYTES)
    if head.count(b"\0") > len(head) // 5:
        return "utf-16-le" if head[1::2].count(b"\0") > head[0::2].count(b"\0") else "utf-16-be"
    lines = [line for line in head.split(b"\n")[1 if read > _SNIFFED_BYTES else 0 :] if not line.isascii()]
    broken = [line for line in lines if not _is_utf8(line)]
    if not broken or len(broken) <= max(1, len(lines) // 10) < len(lines):
        return "utf-8"
    return _guess_encoding(b"\n".join(lines))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _guess_encoding(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=_CANDIDATES, enable_fallback=False).best()
    return best.encoding if best else "cp1252"


def guess_note(encoding: str) -> str:
    """What a person should know of an encoding that was found; empty where it leaves no doubt."""
    if encoding in _SURE:
        return ""
    return f"was read as {encoding}, which is a guess; set data.encoding where the text looks wrong"


def undecodable(texts: Sequence[str]) -> set[int]:
    """Indices of the texts that hold marked bytes. One pass over the whole tells the usual case: none."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return {index for index, text in enumerate(texts) if _UNDECODABLE.search(text)}
    return set()


def show_marked(text: str) -> tuple[str, int]:
    """Writes marked bytes as ``\\xhh``; also says how many there are."""
    marked = Counter(_UNDECODABLE.findall(text))
    return _UNDECODABLE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text), marked.total()
