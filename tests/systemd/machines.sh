# Throw-away machines with a systemd of their own, on one bridge in a network namespace of their own.
# Sourced by `scenario`. Needs root, systemd-nspawn, mmdebstrap and ip; no systemd on the host.
#
# A machine's root is the common tree below an overlay in memory: what is to outlive a power cut is
# bound in from "$RUN/<name>/". Its cgroups are its own, in whichever hierarchies the host has.

TREE=${QUORUMD_TREE:-/var/tmp/quorumd-tree}
NET=10.78.0
HUB=qd-hub-$$

# Makes the common tree, once.
tree() {
    [ -e "$TREE/.done" ] && return
    rm -rf "$TREE"
    mkdir -p "$(dirname "$TREE")"
    local suite source
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    source=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
    mmdebstrap --variant=minbase --mode=root --quiet \
        --include=systemd,systemd-sysv,dbus,iproute2,curl,procps \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$TREE" "$source"
    local unit
    for unit in console-getty apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online; do
        chroot "$TREE" systemctl mask "$unit" >/dev/null 2>&1 || true
    done
    # Or all would have the name of this host.
    rm -f "$TREE/etc/hostname"
    touch "$TREE/.done"
}

hub_up() {
    ip netns add "$HUB"
    ip -n "$HUB" link add br0 type bridge
    ip -n "$HUB" link set br0 up
}

# boot NAME NUMBER: $NET.NUMBER is its address.
boot() {
    local name=$1 number=$2 space=qd-$1-$$ dir=$RUN/$1 group begun
    mkdir -p "$dir/lib" "$dir/etc" "$RUN/shared"
    ip netns add "$space"
    ip link add "v-$name" netns "$HUB" type veth peer name eth0 netns "$space"
    ip -n "$HUB" link set "v-$name" master br0 up
    ip -n "$space" addr add "$NET.$number/24" dev eth0
    ip -n "$space" link set eth0 up
    ip -n "$space" link set lo up
    for group in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup/memory; do
        [ -w "$group/cgroup.procs" ] && mkdir -p "$group/$space"
    done
    setsid bash -c '
        for group in "" systemd unified memory; do
            echo $$ >"/sys/fs/cgroup/$group/$1/cgroup.procs"
        done 2>/dev/null
        exec systemd-nspawn --quiet --register=no --keep-unit --console=read-only --machine="$0" \
            --volatile=overlay --network-namespace-path="/run/netns/$1" --link-journal=no \
            --resolv-conf=off --timezone=off --bind="$2/lib:/var/lib/quorumd" \
            --bind="$2/etc:/etc/quorumd" --bind="$3/shared:/shared" -D "$4" --boot' \
        "$name" "$space" "$dir" "$RUN" "$TREE" >"$dir/console" 2>&1 </dev/null &
    echo $! >"$dir/nspawn"
    begun=$SECONDS
    until [ $((SECONDS - begun)) -gt 30 ]; do
        pgrep -P "$(cat "$dir/nspawn")" | head -1 >"$dir/leader" || true
        if [ -s "$dir/leader" ]; then
            case $(inside "$name" systemctl is-system-running 2>/dev/null || true) in
            running | degraded) return ;;
            esac
        fi
        sleep 0.1
    done
    echo "$name did not boot:" >&2
    tail -5 "$dir/console" >&2
    return 1
}

inside() {
    local leader
    cd /
    leader=$(cat "$RUN/$1/leader")
    shift
    nsenter -t "$leader" -m -u -i -n -p -C --wd=/ -- "$@"
}

cut_off() { ip -n "$HUB" link set "v-$1" nomaster; }
heal() { ip -n "$HUB" link set "v-$1" master br0; }

# The process id, on this host, of a program in a machine.
pid_in() {
    local pid space
    space=$(readlink "/proc/$(cat "$RUN/$1/leader")/ns/pid")
    for pid in $(pgrep -x "$2"); do
        [ "$(readlink "/proc/$pid/ns/pid" 2>/dev/null)" = "$space" ] && echo "$pid" && return
    done
    return 1
}

# Power cut.
power_off() {
    local dir=$RUN/$1
    kill -KILL "$(cat "$dir/leader")" 2>/dev/null || true
    while [ -d "/proc/$(cat "$dir/nspawn")" ]; do sleep 0.05; done
    ip netns del "qd-$1-$$" 2>/dev/null || true
    local group
    for group in "" systemd unified memory; do
        find "/sys/fs/cgroup/$group/qd-$1-$$" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
}

all_off() {
    local dir
    for dir in "$RUN"/*/nspawn; do
        [ -e "$dir" ] && power_off "$(basename "$(dirname "$dir")")"
    done
    ip netns del "$HUB" 2>/dev/null || true
}
