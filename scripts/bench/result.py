#!/usr/bin/env python3
"""Values of a JSON object on stdin by their paths, one a line: result.py writes.p99_us transfers_per_second.

What is not there is an empty line. Used by scripts/bench-ratios on the results of `echopay bench --json`.
"""

import json
import sys


def value(found, path):
    for name in path.split("."):
        if isinstance(found, list):
            found = found[int(name)] if int(name) < len(found) else None
        elif isinstance(found, dict):
            found = found.get(name)
        else:
            return ""
    return "" if found is None else found


try:
    result = json.load(sys.stdin)
except ValueError:
    result = None
for path in sys.argv[1:]:
    print(value(result, path))
