#!/bin/sh
# Starts nvcc with a token of the jobserver for each of its threads. From CUDA 13 on nvcc does so itself (--jobserver).
#
# CMake calls it as a launcher, with the compiler's path before the arguments (CMAKE_CUDA_COMPILER_LAUNCHER);
# torch.utils.cpp_extension in nvcc's place (PYTORCH_NVCC). The first thread has the token by which ninja or make
# started this. It takes more without waiting for them, so that two of these cannot wait for each other.
compiler=${CUDA_HOME:+$CUDA_HOME/bin/}nvcc
case $1 in
  -*) ;;
  */*) if [ -f "$1" ] && [ -x "$1" ]; then compiler=$1; shift; fi ;;
  nvcc) compiler=$1; shift ;;
esac
case ${compiler##*/} in
  nvcc*) ;;
  *) exec "$compiler" "$@" ;; # clang compiles CUDA too
esac
case $MAKEFLAGS in
  *--jobserver-auth=fifo:*) fifo=${MAKEFLAGS##*--jobserver-auth=fifo:}; fifo=${fifo%% *} ;;
  *) fifo= ;;
esac
[ -p "$fifo" ] || exec "$compiler" "$@"

# nvcc compiles for one architecture in one thread at a time. What --threads asks for is the most to take.
architectures=0
asked=0
is_threads=
for argument; do
  if [ "$is_threads" ]; then
    asked=$argument
  fi
  is_threads=
  case $argument in
    --threads | -threads | -t) is_threads=yes ;;
    --threads=* | -threads=* | -t=*) asked=${argument#*=} ;;
    -t[0-9]*) asked=${argument#-t} ;;
    -gencode | -gencode=* | --generate-code | --generate-code=*) architectures=$((architectures + 1)) ;;
  esac
done
most=$architectures
if [ "$asked" -gt 0 ] 2> /dev/null && [ "$asked" -lt "$most" ]; then
  most=$asked
fi
[ "$most" -ge 2 ] || exec "$compiler" "$@"

tokens=
put_back() {
  # Opened for reading too: where the farm is gone, opening for writing alone would wait for a reader.
  [ -z "$tokens" ] || printf %s "$tokens" 1<> "$fifo"
}
trap put_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
tokens=$(dd if="$fifo" bs=$((most - 1)) count=1 iflag=nonblock 2> /dev/null)
# Of several values nvcc takes the last, and says so if they differ.
"$compiler" "$@" --threads $((${#tokens} + 1))
