"""Which examples are kept for testing. Knows no skill: a key is held out by its checksum alone."""

import zlib

SALT = "test"


def is_held_out(*key: str | int) -> bool:
    """True for one key in ten, the same ones in every run and on every machine.

    Recipes were compared on another tenth (without the salt), so the test cases have chosen nothing.
    """
    return zlib.crc32("|".join((SALT, *map(str, key))).encode()) % 10 == 0
