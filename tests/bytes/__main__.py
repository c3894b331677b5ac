"""`python -m tests.bytes` names every output that has changed; `--write` takes them as they are."""

import sys

from tests.bytes.golden import NAMES, differences, found_digests, known_digests, write_golden

if sys.argv[1:] == ["--write"]:
    write_golden()
elif sys.argv[1:]:
    sys.exit("usage: python -m tests.bytes [--write]")
else:
    changed = [
        line for name in NAMES for line in differences(found_digests(name), known_digests(name))
    ]
    print("\n".join(changed))
    sys.exit(bool(changed))
