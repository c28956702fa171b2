"""The shop as it opened. Its fast search has a fault that no test has found: it fails for one reader in four."""

import zlib

VERSION = "v1"


def search(reader, fast):
    if fast and zlib.crc32(reader.encode()) % 4 == 0:
        raise KeyError("the index of this shelf")
    return ["The Sea, the Sea"]


def gift(_reader, _wrapped):
    return "plain"
