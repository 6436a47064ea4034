#!/usr/bin/env bash
# Builds the guest's whole file system, an uncompressed cpio archive: bash, busybox, ip, ss, ethtool, curl, the kernel
# modules of the NICs, guest-init.sh as /init, and under /test what one run brings: programs with their shared
# libraries, files, scripts. Uncompressed, because an emulated CPU takes seconds to inflate it.
# Called by run.sh, with its choices in the environment: see the first lines of code.
set -euo pipefail

: "${ZC_CACHE:?}" "${ZC_NIC:?}" "${ZC_WORK:?}" "${ZC_OUT:?}"  # folders, NIC, archive to write
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$ZC_CACHE/tools
kernel=$ZC_CACHE/kernel-$ZC_NIC
root=$ZC_WORK/root

# Programs fetched for the VM come first, then the machine's own.
PATH=$tools/usr/bin:$tools/usr/sbin:$tools/bin:$tools/sbin:$PATH:/usr/sbin:/sbin
library_path=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

main() {
    local busybox applet tool item
    mkdir -p "$root"/{bin,dev,etc,lib/modules,lib64,proc,root,run,sys,tmp,var} \
        "$root"/lib/x86_64-linux-gnu "$root"/test/{bin,files,scripts}
    ln -s /proc/self/mounts "$root/etc/mtab"
    ln -s bin "$root/sbin"
    ln -s /run "$root/var/run"
    echo 'root:x:0:0:root:/root:/bin/bash' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"

    busybox=$(command -v busybox) || die "no busybox, neither fetched nor on this machine"
    install -m 755 "$busybox" "$root/bin/busybox"
    for applet in $("$busybox" --list); do
        [[ -e $root/bin/$applet ]] || ln -s busybox "$root/bin/$applet"
    done
    for tool in bash ip ss ethtool curl; do
        rm -f "$root/bin/$tool"
        add_program "$(command -v "$tool" || die "no $tool, neither fetched nor on this machine")" "$root/bin/$tool"
    done
    ln -sf bash "$root/bin/sh"

    for item in ${ZC_MODULES:-}; do
        add_module "$item"
    done
    install -m 755 "$here/guest-init.sh" "$root/init"
    install -m 644 "$here/guest-lib.sh" "$root/test/lib.sh"

    # Lists with one path per line: a path may hold spaces, not line ends. A program's line is NAME=PATH.
    while read -r item; do
        add_program "${item#*=}" "$root/test/bin/${item%%=*}"
    done < <(lines "${ZC_BINARIES:-}")
    while read -r item; do
        cp -rL "$item" "$root/test/files/"
    done < <(lines "${ZC_FILES:-}")
    while read -r item; do
        install -m 755 "$item" "$root/test/scripts/$(basename "$item")"
        basename "$item" >>"$root/test/order"
    done < <(lines "${ZC_SCRIPTS:-}")
    lines "${ZC_GUEST_ENV:-}" >"$root/test/env"

    (cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$ZC_OUT"
}

# add_program FROM TO: a program and every shared library that the dynamic linker finds for it.
add_program() {
    local libs lib
    [[ -f $1 ]] || die "$1 is no file"
    install -m 755 "$1" "$2"
    # ldd fails on a static program, which needs nothing.
    libs=$(LD_LIBRARY_PATH=$library_path ldd "$1" 2>/dev/null) || return 0
    ! grep -q 'not found' <<<"$libs" || die "$1 lacks a library: $(grep 'not found' <<<"$libs")"
    while read -r lib; do
        case $lib in
            */ld-linux*) cp -Ln "$lib" "$root/lib64/" ;;
            /*.so*) cp -Ln "$lib" "$root/lib/x86_64-linux-gnu/" ;;
        esac
    done < <(grep -oE '/[^ ]+' <<<"$libs" | sort -u)
}

# add_module NAME: NAME.ko decompressed, after the modules it depends on; /lib/modules/order is the order to load.
# A name without a file is built into the kernel.
add_module() {
    local file dependency name=${1//-/_}
    [[ ! -e $root/lib/modules/$name.ko ]] || return 0
    file=$(find "$kernel" -name "$name.ko*" -o -name "${name//_/-}.ko*" | head -n 1)
    [[ -n $file ]] || return 0
    case $file in
        *.xz) busybox xz -dc "$file" ;;
        *.zst) zstd -dc "$file" ;;
        *) cat "$file" ;;
    esac >"$root/lib/modules/$name.ko"
    while read -r dependency; do
        add_module "$dependency"
    done < <(tr '\0' '\n' <"$root/lib/modules/$name.ko" | sed -n 's/^depends=//p' | tr ',' '\n' | grep .)
    echo "$name" >>"$root/lib/modules/order"
}

lines() {
    [[ -z $1 ]] || printf '%s\n' "$1"
}

die() {
    echo "zero-copy VM: $*" >&2
    exit 1
}

main
