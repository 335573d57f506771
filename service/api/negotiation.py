"""Which of the offered media types a request's ``Accept`` prefers."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import NotAcceptableError


def choose_media_type(accept: Sequence[str], offered: Sequence[str]) -> str:
    """The offered type that ``accept`` gives the highest weight; of equal ones, the first offered.

    Parameters
    ----------
    accept : sequence of str
        The values of the header, which may stand on several lines; without any, everything is acceptable.
    offered : sequence of str
        Media types in the order in which the server prefers them.

    Raises
    ------
    NotAcceptableError
        If none of them is acceptable; the message lists them.
    """
    ranges = [_parse(part) for part in ",".join(accept).split(",") if part.strip()]
    if not ranges:
        return offered[0]
    weights = {media_type: _weight(media_type, ranges) for media_type in offered}
    best = max(offered, key=lambda media_type: weights[media_type])
    if weights[best] <= 0:
        raise NotAcceptableError(f"this call answers with {', '.join(offered)}; Accept has none of them")
    return best


def _parse(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    weight = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return name.lower(), weight if 0 <= weight <= 1 else 0.0


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Weight that the most specific matching range gives."""
    family = media_type.partition("/")[0]
    for pattern in (media_type, f"{family}/*", "*/*"):
        matching = [weight for name, weight in ranges if name == pattern]
        if matching:
            return max(matching)
    return 0.0
