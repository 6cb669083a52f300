#!/usr/bin/env bash
# Several copies of a worker run, and exactly one may work: with curl, jq, and setpriv (util-linux),
# which has the kernel kill what is left when this script is killed. Where quorumctl is installed,
# all of it is
#
#     quorumctl elect reports --value alice --restart always -- ./worker
#
# which also stops all that the worker started, and when the daemon hangs.
#
#   leader_election.sh reports alice ./worker      # QUORUMD_SOCKET names the daemon's socket
set -u
election=$(jq -rn --arg name "${1:?usage: leader_election.sh ELECTION NAME COMMAND…}" '$name | @uri')
name=${2:?a name}
shift 2
socket=${QUORUMD_SOCKET:-/run/quorumd/quorumd.sock}
worker=
trap '[ -n "$worker" ] && kill -KILL "$worker" 2>/dev/null; kill "$curl" 2>/dev/null' EXIT
trap 'exit 143' TERM INT

while :; do
    # The stream is the candidacy: its end, whatever ends it, is the end of the leadership.
    exec 3< <(exec setpriv --pdeathsig KILL curl -sN --unix-socket "$socket" \
        -X POST "http://quorumd/v1/elections/$election" -H 'Content-Type: application/json' \
        -d "$(jq -n --arg value "$name" '{$value}')")
    curl=$!
    while IFS= read -r line <&3; do
        case $(jq -r '.state' <<<"$line") in
        waiting) echo "$name waits: $(jq -r .position <<<"$line")" ;;
        leader)
            [ -n "$worker" ] && continue
            # Whatever the worker changes should be told the token, and refuse lower ones.
            token=$(jq -r .token <<<"$line")
            echo "$name leads with token $token"
            QUORUMD_TOKEN=$token setpriv --pdeathsig KILL "$@" 3<&- &
            worker=$!
            ;;
        at_risk) echo "$name is at risk: nobody else can lead for $(jq .valid_for_ms <<<"$line") ms" ;;
        *) break ;;
        esac
    done
    # Lost, or the daemon is gone: there is no time for good manners.
    [ -n "$worker" ] && kill -KILL "$worker" 2>/dev/null && wait "$worker" 2>/dev/null
    worker=
    kill "$curl" 2>/dev/null
    echo "$name does not lead, tries again"
    sleep 1
done
