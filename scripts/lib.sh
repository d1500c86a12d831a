# SPDX-License-Identifier: Apache-2.0
# Shared by the scripts here; source it.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

heading() { printf '\n==> %s\n' "$*"; }

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo > /dev/null; then
    sudo "$@"
  else
    die "needs root or sudo to run: $*"
  fi
}

# need_packages NAME...: installs the Debian packages that are missing, and asks the mirror nothing if none is.
need_packages() {
  local name missing=()
  command -v dpkg-query > /dev/null || die "installs packages on Debian only; here, install by hand what corresponds to: $*"
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2> /dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  heading "Installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}" \
    > /dev/null
}

# need_build_tools NAME...: cmake, ninja, the compiler that CXX names (default g++), and the packages named.
need_build_tools() {
  export CXX=${CXX:-g++}
  local packages=(cmake ninja-build "$@") name
  name=$(basename "$CXX")
  if ! command -v "$CXX" > /dev/null; then
    case $name in
      g++ | g++-[0-9]*) packages+=("$name") ;;
      clang++) packages+=(clang) ;;
      clang++-[0-9]*) packages+=("clang-${name#clang++-}") ;;
      *) die "no compiler $CXX" ;;
    esac
  fi
  # clang takes the C and C++ libraries of gcc.
  case $name in clang*) packages+=(libc6-dev libstdc++-12-dev) ;; esac
  need_packages "${packages[@]}"
}
