#!/bin/sh
# A gate for a machine with a GPU: sweep, compare with the last runs of main, keep the records.
#
#   sh gate.sh RECORDS OPTIONS
#
# RECORDS is a directory that stays: main's runs are kept in it. OPTIONS are those of a sweep. Makes the directory
# speed: new.jsonl, its report, and comment.md, Markdown for a pull request.
#   KEEP=1         this is main: keep the run, and judge it by the history of all that were kept
#   LAST=3         how many of main's runs are the base
#   THRESHOLD=1    percent
# Exit code 0: nothing is slower. 1: something is, or is broken. Others: no verdict, since a step failed.
set -u
records=$1
shift
rm -rf speed
mkdir -p speed "$records"
w8a8-bench "$@" --out speed/new.jsonl || exit $?

code=0
: > speed/comment.md
set -- $(ls "$records" | grep '\.jsonl$' | tail -n "${LAST:-3}" | sed "s|^|$records/|")
if [ $# -gt 0 ]; then
    w8a8-bench compare "$@" speed/new.jsonl --threshold "${THRESHOLD:-1}" --format markdown > speed/comment.md
    code=$?
fi
if [ "${KEEP:-0}" = 1 ]; then
    cp speed/new.jsonl "$records/$(date -u +%Y-%m-%dT%H%M%S)-$$.jsonl"
    w8a8-bench history "$records" --threshold "${THRESHOLD:-1}" --format markdown >> speed/comment.md
    code=$?
fi
exit $code
