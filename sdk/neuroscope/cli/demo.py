"""x"""


def demo() -> None:
    """TBD."""
