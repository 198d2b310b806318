"""File types by their first bytes, not by their names: a pickle may well be called genotype.json."""

import os
import re
from pathlib import Path

from sharpkeras.io import regular_files

HEAD = 512  # bytes that are looked at
LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file; the limit of the format's own reader

# How a file begins → its kind, and what it is called. Kinds that `inspection.OPENERS` lacks are named, never opened.
SIGNATURES = (
    (rb"\x89HDF\r\n\x1a\n", "hdf5", "an HDF5 file"),
    (rb"PK(\x03\x04|\x05\x06)", "zip", "a zip file"),
    (rb"\x93NUMPY", "npy", "a NumPy array"),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM.{4}\0{4}", "image", "an image"),
    # Protocols 2 to 5, and the two texts that the older ones mostly begin with: a container, or the name of a function.
    (rb"\x80[\x02-\x05]|\([dl]p\d+\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n[(pq.]", "pickle", "a Python pickle"),
    (rb"GIF8[79]a", None, "a GIF image"),
    (rb"RIFF.{4}WEBP", None, "a WebP image"),
    (rb"II\*\0|MM\0\*", None, "a TIFF image"),
    (rb"\x1f\x8b", None, "a gzip file"),
    (rb"BZh\d", None, "a bzip2 file"),
    (rb"\xfd7zXZ\0", None, "an xz file"),
    (rb"\x28\xb5\x2f\xfd", None, "a zstd file"),
    (rb"7z\xbc\xaf\x27\x1c", None, "a 7z file"),
    (rb"Rar!\x1a\x07", None, "a RAR file"),
    (rb".{257}ustar", None, "a tar file"),
    (rb"\x7fELF", None, "a Linux program or library (ELF)"),
    (rb"MZ.{1,60}\0", None, "a Windows program or library"),
    (rb"[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe", None, "a macOS program or Java byte code"),
    (rb".{2}\r\n(\0{4}|[\1\3]\0{3})", None, "Python byte code"),
    (rb"#!", None, "a script"),
    (rb"\s*<(!|\?xml|[A-Za-z])", None, "HTML or XML"),
    (rb"%PDF-", None, "a PDF file"),
    (rb"SQLite format 3\0", None, "an SQLite database"),
    (rb".{4}TFL3", None, "a TensorFlow Lite model"),
    (rb"GGUF", None, "a GGUF model"),
)
# What has no signature, or is damaged so early that it has lost it.
SUFFIXES = {".json": "json", ".toml": "toml", ".jsonl": "jsonl", ".onnx": "onnx", ".safetensors": "safetensors"}


def detect(path: Path) -> tuple[str | None, str]:
    """The kind of a regular file, None where only a name is known, and that name, such as "a gzip file"."""
    with regular_files.opened(path) as file:
        head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
    if not head:
        return None, "an empty file"
    if _is_safetensors(head, size):  # first: it begins with a length, which can look like anything
        return "safetensors", "a safetensors file"
    for pattern, kind, words in SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return kind, words
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix], f"a {path.suffix} file"
    if not _is_text(head):
        return None, f"an unknown binary file that begins with {head[:8].hex(' ')}"
    return ("json", "JSON") if head.lstrip()[:1] in (b"{", b"[") else (None, "text of an unknown form")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether it is what the format prescribes: the length of a JSON object, and that object."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 8 + length <= size and length <= LARGEST_HEADER


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # the last character may be cut in two
    return bool(text) and "\ufffd" not in text and all(c.isprintable() or c in "\t\n\r\f" for c in text)
