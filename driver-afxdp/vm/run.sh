#!/usr/bin/env bash
# Boots a small emulated machine (qemu without KVM) whose NIC binds AF_XDP zero-copy for real, runs test scripts in
# it and judges them by the line the guest prints last. virtio: one queue; igb: two queues with RSS. Everything is
# fetched on first use (fetch.sh), packed (initramfs.sh) and run by /init (guest-init.sh). `run.sh --help` says more.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: run.sh --nic virtio|igb --script FILE... [--bin [NAME=]FILE...] [option...]

  --nic virtio|igb    virtio: virtio-net, one queue. igb: Intel 82576, RSS equal over queues 0 and 1 of 5
  --script FILE       runs in the guest, in order, each after the other (may be repeated); exit 0 passes
  --bin [NAME=]FILE   program for the guest's PATH, with its shared libraries (may be repeated)
  --file PATH         file or folder, put into /test/files (may be repeated)
  --env NAME=VALUE    in the scripts' environment (may be repeated)
  --wires 1|2         2: a second NIC of the same kind under test, on a wire of its own (default 1)
  --module NAME       a further kernel module, loaded before the scripts (may be repeated)
  --timeout SECONDS   for the whole boot (default 240)
  --memory MIB        of the guest (default 512)
  --cache DIR         downloads (default: target/zerocopy-vm of the repository)
  --log FILE          keep the guest's console there
  --pcap FILE         keep what crossed the wire there
  --fetch-only        download, and stop
  --must-run          fail where the run would be skipped

Exit: 0 passed, or `skipped: REASON` where something cannot be downloaded; 1 failed; 2 wrong usage.

What a script in the guest has:
  `. /test/lib.sh`    DUT, DUT_IP4, DUT_IP6, FREE_IP4, FREE_IP6, PEER_IP4, PEER_IP6; fail REASON, peer COMMAND...,
                      wait_until SECONDS COMMAND..., wait_carrier, zero_copy_queues, rx_packets QUEUE,
                      fetch_and_compare URL FILE
  dut                 the NIC under test, up, 10.77.0.1/24 and fd77::1/64 (the kernel's), 02:00:00:00:00:01
  peer                the other end, in namespace `peer`, 10.77.0.2/24 and fd77::2/64, 02:00:00:00:00:02
  dut2, peer2         with --wires 2: the same on the second wire, 10.78.0.0/24 and fd78::/64, 02:00:00:00:00:03 and :04
  10.77.0.10, fd77::10  on the same net, nobody's: for the stack to take
  programs            bash, busybox's applets, ip, ss, ethtool, curl, every --bin; root; MTU 1500; 2 CPUs without AVX
  ZC_NIC, ZC_QUEUES   virtio and 1, or igb and 2: the queues that packets arrive on
  bpffs, tracefs, cgroup2, tmpfs on /tmp and /run
USAGE
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nic='' timeout_s=240 memory_mib=512 wires=1 cache=$here/../../target/zerocopy-vm
log='' pcap='' fetch_only=0 must_run=0
binaries='' files='' scripts='' modules='' guest_env=''
work='' qemu_pid='' console_pid=''

main() {
    parse "$@"
    fetch
    ((fetch_only == 0)) || exit 0
    # On a real disk, not in a memory file system: the archive holds the test programs, which may be large.
    work=$(mktemp -d "$cache/run.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    pack
    boot
    judge
}

parse() {
    while (($# > 0)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --fetch-only) fetch_only=1 && shift && continue ;;
            --must-run) must_run=1 && shift && continue ;;
        esac
        (($# > 1)) || wrong "$1 wants a value"
        case $1 in
            --nic) nic=$2 ;;
            --script) scripts+=$(existing "$2")$'\n' ;;
            --bin) binaries+=$(named_program "$2")$'\n' ;;
            --file) files+=$(existing "$2")$'\n' ;;
            --env)
                [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || wrong "--env wants NAME=VALUE, not $2"
                guest_env+=$(printf '%s=%q' "${2%%=*}" "${2#*=}")$'\n'
                ;;
            --module) modules+=" $2" ;;
            --timeout) timeout_s=$2 ;;
            --memory) memory_mib=$2 ;;
            --wires) wires=$2 ;;
            --cache) cache=$2 ;;
            --log) log=$2 ;;
            --pcap) pcap=$2 ;;
            *) wrong "unknown option $1" ;;
        esac
        shift 2
    done
    [[ $nic == virtio || $nic == igb ]] || wrong "--nic wants virtio or igb, not '$nic'"
    [[ $timeout_s =~ ^[0-9]+$ && $timeout_s -ge 40 ]] || wrong "--timeout wants 40 seconds or more"
    [[ $memory_mib =~ ^[0-9]+$ ]] || wrong "--memory wants a number of MiB"
    [[ $wires == [12] ]] || wrong "--wires wants 1 or 2, not '$wires'"
    [[ -n $scripts || $fetch_only == 1 ]] || wrong "no --script to run"
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
}

existing() {
    realpath -e -- "$1" 2>/dev/null || { echo "run.sh: there is no $1" >&2 && exit 2; }
}

named_program() {
    local name=''
    [[ -e $1 || $1 != *=* ]] || name=${1%%=*}
    [[ -z $name ]] || set -- "${1#*=}"
    echo "${name:-$(basename "$1")}=$(existing "$1")"
}

wrong() {
    echo "run.sh: $*; see run.sh --help" >&2
    exit 2
}

fetch() {
    local why code=0
    why=$("$here/fetch.sh" "$cache" "$nic") || code=$?
    ((code != 0)) || return 0
    if ((code == 77)); then
        echo "skipped: zero-copy test on $nic: $why"
        exit "$must_run"
    fi
    exit "$code"
}

pack() {
    local queues=1
    [[ $nic == virtio ]] || queues=2
    # The guest gives up on its scripts before the host gives up on the guest, so that it can say what it saw.
    guest_env+="ZC_NIC=$nic"$'\n'"ZC_WIRES=$wires"$'\n'"ZC_QUEUES=$queues"$'\n'"ZC_SECONDS=$((timeout_s - 30))"
    ZC_CACHE=$cache ZC_NIC=$nic ZC_WORK=$work ZC_OUT=$work/initramfs \
        ZC_MODULES="virtio_rng virtio_net xsk_diag $([[ $nic != igb ]] || echo igb)$modules" \
        ZC_BINARIES=${binaries%$'\n'} ZC_FILES=${files%$'\n'} ZC_SCRIPTS=${scripts%$'\n'} ZC_GUEST_ENV=$guest_env \
        nice "$here/initramfs.sh"
    rm -rf "$work/root"
}

boot() {
    local tools=$cache/tools device kernel qemu options=()
    qemu=$tools/usr/bin/qemu-system-x86_64
    [[ -x $qemu ]] || qemu=$(command -v qemu-system-x86_64)
    kernel=$(find "$cache/kernel-$nic" -path '*/boot/vmlinuz-*' -o -path '*/lib/modules/*/vmlinuz' | head -n 1)
    case $nic in
        # AF_XDP wants virtio rings that are mapped with the DMA interface; without iommu_platform bind says EINVAL.
        virtio) device=virtio-net-pci,disable-legacy=on,iommu_platform=on ;;
        igb) device=igb ;;
    esac
    [[ -z $pcap ]] || options+=(-object "filter-dump,id=dump,netdev=wire1,file=$pcap")
    ((wires == 1)) || options+=(
        -netdev hubport,id=wire3,hubid=1 -device "$device,netdev=wire3,mac=02:00:00:00:00:03,romfile="
        -netdev hubport,id=wire4,hubid=1 -device virtio-net-pci,netdev=wire4,mac=02:00:00:00:00:04,romfile=
    )
    mkfifo "$work/console"
    : >"$work/log"
    # The firmware's escape sequences would clear the reader's screen.
    sed -u -e 's/\r//g' -e 's/\x1b[c]//g' -e 's/\x1b\[[0-9;?=]*[A-Za-z]//g' <"$work/console" | tee "$work/log" &
    console_pid=$!
    # no_timer_check: on a busy host the emulated timer may be too late for the kernel's check, which would panic.
    QEMU_MODULE_DIR=$tools/usr/lib/x86_64-linux-gnu/qemu \
        LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu \
        nice "$qemu" -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" -L /usr/share/qemu -L /usr/share/seabios \
        -machine q35 -accel tcg,thread=multi -cpu Nehalem -smp 2 -m "$memory_mib" \
        -nodefaults -nographic -no-reboot -serial stdio \
        -kernel "$kernel" -initrd "$work/initramfs" \
        -append 'no_timer_check console=ttyS0 quiet panic=-1 oops=panic mitigations=off' \
        -netdev hubport,id=wire1,hubid=0 -device "$device,netdev=wire1,mac=02:00:00:00:00:01,romfile=" \
        -netdev hubport,id=wire2,hubid=0 -device virtio-net-pci,netdev=wire2,mac=02:00:00:00:00:02,romfile= \
        -device virtio-rng-pci "${options[@]}" </dev/null >"$work/console" 2>&1 &
    qemu_pid=$!
    wait_for_qemu
    wait "$console_pid" || true
    console_pid=''
}

# Ends qemu when the time is up. A loop of its own, not timeout(1): a signal to this script then ends qemu too.
wait_for_qemu() {
    local end=$((SECONDS + timeout_s))
    while kill -0 "$qemu_pid" 2>/dev/null; do
        if ((SECONDS >= end)); then
            echo "zero-copy VM: no end within $timeout_s s"
            kill -KILL "$qemu_pid"
        fi
        sleep 0.2
    done
    wait "$qemu_pid" || true
    qemu_pid=''
}

judge() {
    local result
    [[ -z $log ]] || cp "$work/log" "$log"
    result=$(grep -a '^ZC-RESULT: ' "$work/log" | tail -n 1) || result=''
    case $result in
        'ZC-RESULT: PASS') echo "zero-copy test on $nic: passed" ;;
        'ZC-RESULT: FAIL '*)
            echo "zero-copy test on $nic: FAILED: ${result#ZC-RESULT: FAIL }"
            exit 1
            ;;
        *)
            echo "zero-copy test on $nic: FAILED: the guest ended without a result"
            exit 1
            ;;
    esac
}

clean_up() {
    # Bash would report the child it sees killed, command line and all.
    exec 2>/dev/null
    [[ -z $qemu_pid ]] || kill -KILL "$qemu_pid" || true
    wait
    rm -rf "$work"
}

main "$@"
