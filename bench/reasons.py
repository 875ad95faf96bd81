"""Why ours takes longer than a peer's, where it does: by counted bytes and flops, or by the HLO."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.rows import Row

SLOWER = 1.05  # the interval's lower end
# "suite: row: who", as a pattern, and the reason; the first that fits is the one
REASONS: dict[str, str] = {}


def slower(row: Row) -> Iterator[tuple[str, str]]:
    """The peers that ours takes longer than, beyond noise, and why; "" is not known."""
    for who in row.contenders:
        ratio = row.ratio(who)
        if ratio and ratio.low > SLOWER:
            yield who, reason(row, who)


def reason(row: Row, who: str) -> str:
    key = f"{row.suite}: {row.name}: {who}"
    return next((why for pattern, why in REASONS.items() if re.search(pattern, key)), "")
