"""SHA-256 in hexadecimal digits."""

import hashlib
import io


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(file: io.BufferedIOBase) -> str:
    """The SHA-256 of an open file, from where it stands to its end."""
    return hashlib.file_digest(file, "sha256").hexdigest()
