"""The second version knows gift wrapping, behind a flag, and gets it wrong for one reader in three."""

import zlib

VERSION = "v2"


def search(reader, fast):
    if fast and zlib.crc32(reader.encode()) % 4 == 0:
        raise KeyError("the index of this shelf")
    return ["The Sea, the Sea"]


def gift(reader, wrapped):
    if wrapped and zlib.crc32(reader.encode()) % 3 == 0:
        raise ZeroDivisionError("no paper of this size")
    return "wrapped" if wrapped else "plain"
