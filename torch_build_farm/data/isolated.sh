# shellcheck shell=sh
# Makes a root of its own for one command, in new name spaces, and runs the command there.
#
#   unshare ... /bin/sh isolated.sh ROOT USER FOLDER... -- COMMAND...
#
# ROOT is an empty folder. The command sees each FOLDER, read-only, a new /proc, five devices and an empty /tmp: nothing
# else of this machine. A FOLDER that is a link stays one. USER is who runs it: a number, or "" for the caller (in a user
# name space of its own). It keeps no capability, and gains none.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin

root=$1
user=$2
shift 2

mount --make-rprivate /
mount -t tmpfs -o mode=0755,nosuid,nodev,size=64m isolated "$root"
mkdir "$root/proc" "$root/dev" "$root/tmp" "$root/etc" "$root/old"

# First, since a folder may lie below it.
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"

# Folders of the machine, with what is mounted below them.
while [ "$1" != -- ]; do
    if [ -L "$1" ]; then
        mkdir -p "$root$(dirname "$1")"
        ln -s "$(readlink "$1")" "$root$1"
    elif [ -d "$1" ]; then
        mkdir -p "$root$1"
        mount --rbind "$1" "$root$1"
    else
        mkdir -p "$root$(dirname "$1")"
        : > "$root$1"
        mount --bind "$1" "$root$1"
    fi
    shift
done
shift

# Each mount has flags of its own: "ro" at the top does not reach those below. mountinfo writes a space as \040.
while read -r _ _ _ _ point _; do
    point=$(printf '%b' "$point")
    case $point in
        "$root/tmp") ;;
        "$root"/*) mount -o remount,bind,ro,nosuid,nodev "$point" ;;
    esac
done < /proc/self/mountinfo

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
for device in null zero full random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -m 1777 "$root/dev/shm"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
echo "somebody:x:${user:-0}:${user:-0}::/tmp:/bin/sh" > "$root/etc/passwd"

# Without the old root there is nothing to climb out to.
cd "$root"
pivot_root . old
umount -l /old
rmdir /old
mount -o remount,bind,ro,nosuid,nodev /
cd /tmp
unset OLDPWD

if [ -n "$user" ]; then
    set -- "--reuid=$user" "--regid=$user" --clear-groups -- "$@"
else
    set -- -- "$@"
fi
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --ambient-caps=-all "$@"
