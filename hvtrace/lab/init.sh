#!/bin/sh
# PID 1 of the lab's VM, first half: from the RAM disk to the host's files, or a root's.
#
# The root is the host's, or one of its folders, read only over 9p, under an overlay in
# memory: programs see one writable file system and nothing of what they write reaches the host.
# cache=loose is right for it (the lower files do not change while the VM lives)
# and saves most of the trips to the host that Python's imports would make.
[ $$ = 1 ] || exit # it would mount over a living system
export PATH=/bin
/bin/busybox --install -s /bin

share=    # the folder shared with the host, read-write
folder=   # our own, below it
checkout= # where the host has it; empty where the root is the host's
# shellcheck source=/dev/null
. /config

for module in /modules/*.ko; do insmod "$module"; done

nine=trans=virtio,version=9p2000.L,msize=512000
mount -t tmpfs -o size=75% rw /rw
overlay() { # TAG FOLDER
    mkdir -p "/lower/$1" "/rw/$1/upper" "/rw/$1/work" "$2"
    mount -t 9p -o ro,$nine,cache=loose "$1" "/lower/$1"
    mount -t overlay -o "lowerdir=/lower/$1,upperdir=/rw/$1/upper,workdir=/rw/$1/work" "$1" "$2"
}
overlay root /newroot

cd /newroot || exit
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t debugfs debugfs sys/kernel/debug
mount -t tracefs tracefs sys/kernel/tracing
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "/proc/self/${name#*:}" "dev/${name%%:*}"
done

# Under a tmpfs, so that no folder or dangling link of the host's stands in the way.
mkdir -p lib/modules
mount -t tmpfs modules lib/modules
mkdir "lib/modules/$(uname -r)"
mount -t 9p -o ro,$nine,cache=loose modules "lib/modules/$(uname -r)"
[ -z "$checkout" ] || overlay checkout "./$checkout"
mkdir -p "./$share"
mount -t 9p -o rw,$nine share "./$share"
ifconfig lo up
# Only where ports of the VM were asked for.
[ ! -e sys/class/net/eth0 ] || ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
hostname hvtrace-lab
exec switch_root /newroot /bin/sh "$folder/inside.sh" "$folder"
