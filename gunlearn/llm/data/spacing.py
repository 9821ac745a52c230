"""Some rows of many, evenly spaced."""


def spaced(number: int, most: int | None) -> list[int]:
    """Return at most `most` of the indices below `number`, evenly spaced."""
    step = 1.0 if most is None else max(1.0, number / most)
    return [int(i * step) for i in range(number if most is None else min(most, number))]
