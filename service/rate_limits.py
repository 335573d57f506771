"""Token buckets: how much each caller may ask for in a time."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class RateLimiter:
    """A bucket for each caller; it fills with ``rate`` a second up to ``burst``.

    Parameters
    ----------
    rate : float
        0 for no limit.
    burst : float
    most_callers : int
        Buckets that are kept; the ones that were used least recently are forgotten, as if they were full again.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(
        self, rate: float, burst: float, *, most_callers: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most_callers
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str, amount: float = 1.0) -> float:
        """Take from the bucket if it holds enough.

        Returns
        -------
        float
            0 if it did; otherwise in how many seconds it will.
        """
        bucket = self._bucket(caller)
        if bucket is None:
            return 0.0
        missing = amount - bucket.level
        # What rounding has left out does not count.
        if missing > 1e-9:
            return missing / self._rate
        bucket.level -= amount
        return 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, caller: str) -> _Bucket | None:
        if self._rate <= 0:
            return None
        now = self._clock()
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(self._burst, now)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            bucket.level = min(self._burst, bucket.level + (now - bucket.at) * self._rate)
            bucket.at = now
        return bucket


def network_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the 64 bits of an IPv6 address that a site is given as a whole."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
