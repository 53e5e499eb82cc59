#!/bin/sh
# uv, as the front end of a build calls it (build[uv], by the variable UV) in a container. The farm has installed what
# the build requires beforehand, where no foreign code runs, into an environment that only waits to be renamed: the
# first installation puts it in the place of the empty one that the front end has just made. In the mount of a build
# renaming takes no time and copies nothing.
ready=@READY@ home=@HOME@
previous='' python=''
for word; do
    [ "$previous" = --python ] && python=$word
    previous=$word
done
environment=${python%/bin/python}
if [ -d "$ready" ] && [ "$environment" != "$python" ]; then
    rm -rf "$environment" && mv "$ready" "$home" || exit
    # A front end without --env-dir picks a folder of its own.
    [ "$environment" = "$home" ] || ln -s "$home" "$environment" || exit
    exit 0
fi
exec @UV@ "$@"
