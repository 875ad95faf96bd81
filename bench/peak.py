"""`python -m bench.peak SUITE WORKLOAD CONTENDER`: the peak of one call, in this fresh process."""

from __future__ import annotations

import json
import sys

from bench.suites import suite
from bench.workload import Options, peak


def main(name: str, workload: str, contender: str, *quick: str) -> None:
    every = suite(name).workloads(Options(quick=bool(quick)))
    print(json.dumps({"peak": peak(next(w for w in every if w.name == workload), contender)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
