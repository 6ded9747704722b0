# shellcheck shell=bash
# What scripts/run, scripts/test and scripts/lock share: source it and call the ensure_ functions.
# Each returns at once when there is nothing to do, and ends the script with a sentence when it cannot.
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# 1 when ensure_engine started the Docker Engine, which then stays.
export ENGINE_STARTED=0
# A hook's would lead every git that is started from here to the repository that is being pushed.
# shellcheck disable=SC2046
if command -v git >/dev/null; then unset $(git rev-parse --local-env-vars); fi

say() { printf '==> %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

quietly() { local out; out=$("$@" 2>&1) || { tail -n 20 <<<"$out" >&2; return 1; }; }
digest() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }

# A subshell, so that neither the lock nor a trap set under it outlives the work.
locked() (
  mkdir -p "$ROOT/.cache"
  exec 9>"$ROOT/.cache/lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "Waiting for another script that is setting this checkout up."
    flock 9
  fi
  "$@"
)

may_apt() { [ "$(id -u)" = 0 ] && grep -Eqs '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release; }

# Without the lock's descriptor: a service that a package starts would hold it for ever.
quiet_apt() {
  DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 quietly apt-get -qq -o DPkg::Lock::Timeout=120 "$@" 9>&-
}

# Leaves out what this release does not have. The update may fail: a broken third-party source must
# not stop an install that does not need it.
apt_install() {
  local known
  quiet_apt update || true
  mapfile -t known < <(apt-cache pkgnames | grep -xF "$(printf '%s\n' "$@")")
  quiet_apt install --yes --no-install-recommends "${known[@]}" || fail "apt-get could not install $*."
}

# Programs that only tests need, as command or command:package: without one, its tests are skipped,
# and in CI they fail.
ensure_tools() {
  local tool missing=()
  for tool in "$@"; do command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}"); done
  [ ${#missing[@]} -gt 0 ] && may_apt || return 0
  say "Installing ${missing[*]} with apt-get."
  locked apt_install "${missing[@]}"
}

# Its programs for a server are in no directory of PATH.
ensure_postgres() {
  if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; then return; fi
  may_apt || fail "Install Postgres (Debian's package is postgresql)."
  say "Installing postgresql with apt-get."
  locked apt_install postgresql
}

# Its package would start a server for the whole host at once.
ensure_sshd() { [ -x /usr/sbin/sshd ] || ! may_apt || locked install_sshd; }
install_sshd() {
  say "Installing openssh-server with apt-get; its service stays off (systemctl unmask ssh)."
  mkdir -p /etc/systemd/system
  ln -sf /dev/null /etc/systemd/system/ssh.service
  apt_install openssh-server openssh-client
}

## The Python environment
ensure_venv() { is_stamped project_stamp || locked install_venv || exit 1; }

lock_stamp() { { echo "$ROOT"; cat "$ROOT/requirements.lock"; } | digest; }
project_stamp() { { lock_stamp; cat "$ROOT/pyproject.toml"; } | digest; }
is_stamped() { [ -x "$ROOT/.venv/bin/python" ] && [ "$(cat "$ROOT/.venv/.$1" 2>/dev/null)" = "$("$1")" ]; }

install_venv() {
  local install=("$ROOT/.venv/bin/python" -m pip -qq --disable-pip-version-check --no-input install)
  if is_stamped project_stamp; then return; fi
  if ! is_stamped lock_stamp; then
    make_venv
    # The lock is complete: pip's resolver would only find reasons to look beyond it. Compiling every
    # module would cost 17 of 42 seconds; an import compiles those that are used.
    "${install[@]}" --no-compile --no-deps --require-hashes -r "$ROOT/requirements.lock" ||
      fail "pip could not install requirements.lock."
    lock_stamp >"$ROOT/.venv/.lock_stamp"
  fi
  "${install[@]}" --no-deps --no-build-isolation -e "$ROOT" || fail "pip could not install the project itself."
  project_stamp >"$ROOT/.venv/.project_stamp"
}

# From nothing each time, so a package that left the lock leaves .venv as well.
make_venv() {
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed: install it, or name one with PYTHON=/path/to/python."
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    may_apt || fail "Python's venv module is incomplete: install the package python3-venv."
    say "Installing python3-venv with apt-get."
    apt_install python3-venv
  fi
  say "Making .venv from requirements.lock (half a minute or more)."
  "$python" -m venv --clear "$ROOT/.venv" || fail "$python could not make .venv."
}

## The Docker Engine
ensure_engine() {
  if engine_answers; then return; fi
  [ -z "${DOCKER_HOST:-}" ] || fail "DOCKER_HOST is $DOCKER_HOST, but no Docker Engine answers there."
  locked bring_engine_up || exit 1
  ENGINE_STARTED=1
}

engine_answers() {
  if command -v timeout >/dev/null; then timeout 10 docker version; else docker version; fi >/dev/null 2>&1
}

bring_engine_up() {
  if engine_answers; then return; fi
  if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
    may_apt || fail "No Docker Engine answers: install Docker (Debian's package is docker.io) and start it."
    say "Installing docker.io with apt-get and starting dockerd."
    # Debian 13 packs the command apart; a kernel with AppArmor starts no container without its tools,
    # and a machine without systemd may have no cgroups without cgroupfs-mount.
    apt_install docker.io docker-cli ca-certificates apparmor cgroupfs-mount
  fi
  [ "$(id -u)" = 0 ] || fail "No Docker Engine answers: start it, or join the group docker and log in again."
  if engine_answers; then return; fi
  if [ -d /run/systemd/system ]; then
    systemctl start docker && await_engine $$ && return
    fail "docker.service does not answer; see: journalctl -u docker"
  fi
  start_dockerd
}

start_dockerd() {
  local log=$ROOT/.cache/dockerd.log pid=$$
  drop_reused_pid dockerd /var/run/docker.pid
  drop_reused_pid containerd /var/run/docker/containerd/containerd.pid
  mount_cgroups
  if [ ! -e /var/run/docker.pid ]; then
    # In a session of its own, so neither Ctrl-C nor the terminal's end reaches it.
    setsid --wait nohup dockerd >"$log" 2>&1 </dev/null 9>&- &
    pid=$!
  fi
  await_engine "$pid" || fail "dockerd does not answer; its log ends: $(tail -n 5 "$log" 2>/dev/null)"
  # shellcheck disable=SC2016
  say 'Started dockerd; it stays until you stop it: kill $(cat /var/run/docker.pid)'
}

# With version 1, containerd hears of out-of-memory kills only if each controller is mounted.
mount_cgroups() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then return; fi
  command -v cgroupfs-mount >/dev/null || { may_apt && apt_install cgroupfs-mount; } || return 0
  cgroupfs-mount || true
}

# After a crash another process, or a zombie, may have the number: dockerd would take it for its own.
drop_reused_pid() {
  grep -Eqsxz "(.*/)?$1" "/proc/$(cat "$2" 2>/dev/null)/cmdline" || rm -f "$2"
}

await_engine() {
  local deadline=$((SECONDS + 60))
  until engine_answers; do
    if ! kill -0 "$1" 2>/dev/null || [ $SECONDS -ge $deadline ]; then return 1; fi
    sleep 0.2
  done
}

## Stand-in images, so that tests need no registry
STAND_INS="moonmind-local/busybox:1.36 moonmind-local/debian:base moonmind-local/python:3
  moonmind-local/gcc:12 moonmind-local/node:18 moonmind-local/pip:3
  moonmind-local/postgres:local moonmind-local/redis:local"

# What this machine trusts: an image that asks the package index needs it as well.
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

ensure_stand_in() {
  local name missing=()
  if [ $# = 0 ]; then set -- busybox python gcc node; fi
  for name in "$@"; do
    name=${name#moonmind-local/} name=${name%%:*}
    is_made "$name" || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] || locked make_stand_ins "${missing[@]}" || exit 1
}

tag_of() { grep -o "moonmind-local/$1:[^ ]*" <<<"$STAND_INS" || fail "There is no stand-in image named $1."; }

recipe_of() {
  {
    declare -f "fill_$1" || { declare -f fill_debian && cat "$ROOT/tests/images/$1".*; }
    if [ "$1" = pip ]; then pip_settings && cat "$CERTIFICATES"; fi
  } | digest
}

# For pip in image builds: how this machine's pip is set, but for its files, which an image has not.
pip_settings() {
  echo '[global]'
  "$ROOT/.venv/bin/python" -m pip config list |
    sed -nE "s/^(global|:env:)\.([a-z-]+)='(.*)'\$/\2 = \3/p" |
    grep -vE '^(config-file|find-links|constraint|build-constraint|requirement) |file:' | sort -u -t= -k1,1
}

# An image without our label is one that a person tagged with this name: it is theirs, and kept.
is_made() {
  local tag label
  tag=$(tag_of "$1") || exit 1
  label=$(docker image inspect -f '{{index .Config.Labels "moonmind-local"}}' "$tag" 2>/dev/null) || return 1
  [ -z "$label" ] || [ "$label" = "$(recipe_of "$1")" ]
}

make_stand_ins() {
  local name job jobs=()
  may_apt || fail "Stand-in images need root on Debian or Ubuntu; else tag your own, as $(tag_of busybox)."
  umask 022
  # Not /tmp: where that is mounted nodev, debootstrap refuses to work.
  WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/moonmind-XXXXXX") || exit 1
  trap 'rm -rf --one-file-system "$WORK"' EXIT
  quiet_apt update || true
  for name in "$@"; do
    if is_made "$name"; then continue; fi
    if [ "$name" = busybox ]; then make_image busybox; continue; fi
    is_made debian || make_image debian
    make_image "$name" &
    jobs+=($!)
  done
  for job in ${jobs[@]+"${jobs[@]}"}; do wait "$job" || exit 1; done
}

make_image() {
  local began=$SECONDS tag label context=$WORK/context-$1
  tag=$(tag_of "$1") label=moonmind-local=$(recipe_of "$1")
  if declare -f "fill_$1" >/dev/null; then
    "fill_$1" "$WORK/$1" && tar -C "$WORK/$1" --numeric-owner --exclude='./dev/*' -c . |
      quietly docker import --change "LABEL $label" --change 'CMD ["sh"]' \
        --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$tag"
  else
    mkdir "$context" && cp "$ROOT/tests/images/$1".* "$context/"
    if [ "$1" = pip ]; then pip_settings >"$context/pip.conf" && cp "$CERTIFICATES" "$context/"; fi
    BUILDX_BUILDER=default quietly docker build --quiet --tag "$tag" --label "$label" \
      --build-arg "BASE=$(tag_of debian)" --file "$context/$1.Dockerfile" "$context"
  fi || fail "$tag could not be made."
  say "Made $tag in $((SECONDS - began)) s."
}

fill_busybox() {
  local applet
  mkdir -p "$1"/{bin,etc,root,usr/bin,var,tmp} && chmod 1777 "$1/tmp"
  # Unpacked, not installed: the machine keeps no package that it did not ask for.
  (cd "$WORK" && quiet_apt download busybox-static && dpkg-deb -x busybox-static_*.deb package) || return 1
  cp "$WORK/package/bin/busybox" "$1/bin/"
  # The list names busybox itself; a link of that name would replace the program.
  for applet in $("$1/bin/busybox" --list | grep -vx busybox); do ln -s busybox "$1/bin/$applet"; done
  ln -s ../../bin/env "$1/usr/bin/env"
  printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false >"$1/etc/passwd"
  printf '%s\n' root:x:0: nobody:x:65534: >"$1/etc/group"
}

fill_debian() {
  local codename targets
  codename=$(grep -E '^(UBUNTU|VERSION)_CODENAME=' /etc/os-release | sort | head -n 1 | cut -d= -f2 | tr -d '"')
  # shellcheck disable=SC2016
  targets=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(SUITE) $(SITE) $(COMPONENT)' |
    awk -v c="$codename" '/^(Debian|Ubuntu) / && $2 == c && $3 !~ /-/ && $4 ~ /^http/ {print $4, $5}' | sort -u)
  [ -n "$targets" ] || fail "apt-get knows no mirror of $codename that debootstrap can read."
  command -v debootstrap >/dev/null || { say "Installing debootstrap with apt-get."; apt_install debootstrap; }
  # In its own mount namespace an interruption leaves nothing mounted; an HTTPS mirror needs certificates.
  quietly unshare --mount debootstrap --variant=minbase --include=ca-certificates \
    --components="$(cut -d' ' -f2 <<<"$targets" | sort -u | paste -sd,)" "$codename" "$1" "${targets%% *}" || return 1
  rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*
}
