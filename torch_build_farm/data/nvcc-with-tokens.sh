#!/bin/sh
# Starts nvcc with a token of the jobserver for each of its threads. From CUDA 13 on nvcc does so itself (--jobserver).
#
# CMake calls it as a launcher, with nvcc's path before the arguments (CMAKE_CUDA_COMPILER_LAUNCHER);
# torch.utils.cpp_extension in nvcc's place (PYTORCH_NVCC). The first thread has the token by which ninja or make
# started this. It takes more without waiting for them, so that two of these cannot wait for each other.
case ${1##*/} in
  nvcc) nvcc=$1; shift ;;
  *) nvcc=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc ;;
esac

# nvcc compiles for one architecture in one thread at a time. What --threads asks for is the most to take.
architectures=0
asked=0
is_value=
for argument; do
  shift
  if [ "$is_value" ]; then
    asked=$argument is_value=
    continue
  fi
  case $argument in
    --threads | -threads | -t) is_value=yes; continue ;;
    --threads=* | -threads=* | -t=*) asked=${argument#*=}; continue ;;
    -t[0-9]*) asked=${argument#-t}; continue ;;
    -gencode | -gencode=* | --generate-code | --generate-code=*) architectures=$((architectures + 1)) ;;
  esac
  set -- "$@" "$argument"
done
most=$architectures
if [ "$asked" -gt 0 ] 2> /dev/null && [ "$asked" -lt "$most" ]; then
  most=$asked
fi

case $MAKEFLAGS in
  *--jobserver-auth=fifo:*) fifo=${MAKEFLAGS##*--jobserver-auth=fifo:}; fifo=${fifo%% *} ;;
  *) fifo= ;;
esac
if [ "$most" -lt 2 ] || [ ! -p "$fifo" ]; then
  exec "$nvcc" "$@"
fi

tokens=
put_back() {
  # Opened for reading too: where the farm is gone, opening for writing alone would wait for a reader.
  [ -z "$tokens" ] || printf %s "$tokens" 1<> "$fifo"
}
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
tokens=$(dd if="$fifo" bs=$((most - 1)) count=1 iflag=nonblock 2> /dev/null)
"$nvcc" "$@" --threads $((${#tokens} + 1))
