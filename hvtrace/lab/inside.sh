#!/bin/sh
# PID 1 of the lab's VM, second half: in the host's files, run one command, power off.
#
# $1 is our folder in the one shared with the host. It holds: command (a script), size (rows and
# columns of the user's terminal, only where there is one). It gets: started (the VM
# has come this far), status (of the command). hvc0 is the way to the user.
[ $$ = 1 ] || exit # it would power off a living system
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# An empty home: nobody's settings, and not a /root that only the host's root may enter.
export HOME=/run/home LANG=C.UTF-8
mkdir "$HOME"
folder=$1

# The host sends "rows columns" whenever the user's window changes.
follow_window_size() {
    port=$(grep -l -x hvtrace.size /sys/class/virtio-ports/*/name | cut -d / -f 5)
    while read -r rows columns; do
        stty rows "$rows" cols "$columns" <&3
    done <"/dev/$port"
}

# Held open: a console that nobody has open forgets its window's size.
exec 3<>/dev/hvc0
: >"$folder/started"
if [ -e "$folder/size" ]; then
    read -r rows columns <"$folder/size"
    stty rows "$rows" cols "$columns" iutf8 <&3
    follow_window_size &
    setsid -c -w sh "$folder/command" <&3 >&3 2>&3
    status=$?
else
    stty raw <&3
    # Through a pipe: the command must not take this for a terminal.
    { sh "$folder/command" </dev/null 2>&1; echo $? >/run/status; } | cat >&3
    status=$(cat /run/status)
fi

exec 3>&-  # waits until everything is out
# Written beside and renamed: the host never reads half a number.
echo "$status" >"$folder/.status"
mv "$folder/.status" "$folder/status"
sync
echo o >/proc/sysrq-trigger
sleep 60
