#!/bin/sh
# A cron job is installed on every host, so that it does not depend on any one of them, and shall
# run once per period, not once per host.
#
#   /etc/cron.d/nightly, the same on all hosts:
#   30 2 * * *  root  cron_once.sh nightly-report "$(date -u +\%F)" /usr/local/bin/report
#
#   or in a systemd service that a timer starts (%% is one % there):
#   ExecStart=/bin/sh -c 'exec cron_once.sh nightly-report "$(date -u +%%F)" /usr/local/bin/report'
#
# The lock lets one host run it at a time. That is not enough: the job may be over before the clock
# of the next host says half past two. So what has been done is noted in a key, under the lock.
# WAIT says what the others do meanwhile: with 0s they leave it to the first, also when it fails;
# with 30m they wait, and do it themselves if the first has failed or died.
set -u
job=${1:?usage: cron_once.sh JOB PERIOD COMMAND…}
period=${2:?a period, such as the date}

if [ -z "${CRON_ONCE_LOCKED:-}" ]; then
    CRON_ONCE_LOCKED=yes quorumctl lock "cron/$job" --wait "${WAIT:-30m}" -- "$0" "$@"
    status=$?
    # 4: the lock was not free in time, so that another host does it.
    [ "$status" = 4 ] && exit 0
    exit "$status"
fi

shift 2
last=$(quorumctl get "cron/$job")
status=$?
# 3: it has never been done. Without the daemon it is not known: rather not than twice.
[ "$status" = 0 ] || [ "$status" = 3 ] || exit "$status"
if [ "$last" = "$period" ]; then
    echo "$job: $period has been done"
    exit 0
fi
"$@" && quorumctl put "cron/$job" "$period" --retry-for 1m >/dev/null
