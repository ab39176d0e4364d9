#!/bin/sh
# A gate for a machine with a GPU: sweep, compare with the last runs of main, keep the records.
#
#   sh gate.sh RECORDS OPTIONS
#
# RECORDS is a directory that stays: main's runs are kept in it. OPTIONS are those of a sweep. Makes the directory
# gate: new.jsonl, its report, and comment.md, Markdown for a pull request. An older one is replaced.
#   KEEP=1         this is main: keep the run, and judge it by the history of all that were kept, too
#   LAST=3         how many of main's runs are the base
#   THRESHOLD=1    percent
# Exit code 0: nothing is slower. 1: something is, or can't be timed any more. Others: no verdict, since a step failed.
set -u
if [ $# -lt 2 ]; then
    echo "usage: sh gate.sh RECORDS OPTIONS-OF-A-SWEEP" >&2
    exit 2
fi
records=$1
shift
rm -rf gate
mkdir -p gate "$records" || exit 2
: > gate/comment.md

w8a8-bench "$@" --out gate/new.jsonl
code=$?
if [ $code -ne 0 ] && [ $code -ne 3 ]; then # 3: a kernel is broken, which the comparison tells
    exit $code
fi
set --
for run in $(cd "$records" && ls | grep '\.jsonl$' | tail -n "${LAST:-3}"); do
    set -- "$@" "$records/$run"
done
code=0
if [ $# -gt 0 ]; then
    w8a8-bench compare "$@" gate/new.jsonl --threshold "${THRESHOLD:-1}" --format markdown > gate/comment.md
    code=$?
fi
if [ "${KEEP:-0}" = 1 ]; then
    cp gate/new.jsonl "$records/$(date -u +%Y-%m-%dT%H%M%S)-$$.jsonl"
    w8a8-bench history "$records" --threshold "${THRESHOLD:-1}" --format markdown >> gate/comment.md
    judged=$?
    [ $judged -le $code ] || code=$judged
fi
exit $code
