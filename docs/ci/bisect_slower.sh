#!/bin/sh
# For `git bisect run`: is this commit slower than the good one? 0: no. 1: yes. 125: it can't be told, so skip it.
#
#   w8a8-bench OPTIONS --out /tmp/good.jsonl       (at the good commit)
#   git bisect start BAD GOOD
#   git bisect run sh bisect_slower.sh /tmp/good.jsonl OPTIONS
#
# OPTIONS are those of a sweep, the same both times: name the kernel that got slower, and a 16-bit baseline beside it.
# BUILD=COMMAND is run before each sweep; if it fails, the commit is skipped. THRESHOLD=PERCENT is that of `compare`.
set -u
base=$1
shift
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT

sh -c "${BUILD:-true}" >&2 || exit 125
w8a8-bench "$@" --out "$new/new.jsonl" --no-report >&2 || exit 125
w8a8-bench compare "$base" "$new/new.jsonl" --threshold "${THRESHOLD:-1}" --format json > "$new/compare.json"
[ $? -le 1 ] || exit 125
python3 - "$new/compare.json" <<'PYTHON'
import json, sys

compared = json.load(open(sys.argv[1]))
if compared["statuses"] or compared["only_base"]:
    sys.exit(125)  # not measured, or wrong: neither slower nor as fast
kernels = {name: mean["verdict"] for name, mean in compared["kernels"].items() if "matmul-no-scales" not in name}
if "slower" in kernels.values():
    sys.exit(1)
sys.exit(125 if "inconclusive" in kernels.values() else 0)  # more blocks may tell: --rigor publish
PYTHON
