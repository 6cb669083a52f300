#!/usr/bin/env bash
# Runs a command while holding a lock, with nothing but curl and jq: what `quorumctl lock NAME -- CMD`
# does better (it also stops descendants, and when the daemon hangs); no client is needed.
#
#   lock_with_curl.sh nightly-backup ./backup.sh
#
# The answer to the request is a stream; closing its connection releases the lock. The socket is that
# of QUORUMD_SOCKET. Exit status: that of the command; 4 not free within 60 s; 5 the daemon says no;
# 7 lost meanwhile.
set -u
name=${1:?usage: lock_with_curl.sh NAME COMMAND…}
shift
socket=${QUORUMD_SOCKET:-/run/quorumd/quorumd.sock}
encoded=$(jq -rn --arg name "$name" '$name | @uri')

exec 3< <(exec curl -sN --unix-socket "$socket" -X POST "http://quorumd/v1/locks/$encoded" \
    -H 'Content-Type: application/json' -d '{"ttl": "10s", "wait": "60s"}')
curl=$!
trap 'kill "$curl" 2>/dev/null' EXIT

state=
while [ "$state" != held ]; do
    # A problem document need not end with a new line.
    IFS= read -r line <&3 || [ -n "$line" ] || { echo "the daemon is gone" >&2 && exit 5; }
    state=$(jq -r 'if .code then .code else .state end' <<<"$line")
    case $state in
    held) token=$(jq -r .token <<<"$line") ;;
    waiting) echo "waiting for $name, position $(jq -r .position <<<"$line")" >&2 ;;
    lock_held) echo "$name is not free" >&2 && exit 4 ;;
    *) echo "$line" >&2 && exit 5 ;;
    esac
done

# Whatever the command changes should be told the token, and refuse lower ones than it has seen.
QUORUMD_TOKEN=$token QUORUMD_NAME=$name "$@" 3<&- &
command=$!
lost=$(mktemp)
(
    while IFS= read -r line <&3; do
        case $(jq -r .state <<<"$line") in
        held) ;;
        at_risk) echo "at risk: $line" >&2 ;;
        *) break ;;
        esac
    done
    # The stream has ended while the command runs, or says that the lock is lost.
    echo lost >"$lost"
    kill -TERM "$command" 2>/dev/null
    sleep 0.2
    kill -KILL "$command" 2>/dev/null
) &
watcher=$!
trap 'kill "$watcher" "$curl" 2>/dev/null; rm -f "$lost"' EXIT
trap 'kill -TERM "$command" 2>/dev/null' INT TERM

wait "$command"
status=$?
while kill -0 "$command" 2>/dev/null; do
    wait "$command"
    status=$?
done
[ -s "$lost" ] && echo "$name was lost, the command has been stopped" >&2 && exit 7
exit "$status"
