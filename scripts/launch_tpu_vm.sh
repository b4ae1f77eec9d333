#!/usr/bin/env bash
# Run an experiment on every host of a TPU slice, and restart it after preemptions.
#
# The run is on the slice and its state in a bucket; this script only watches. If it is stopped and
# started again, it follows the same run.
#
# Single-quoted text is expanded on the hosts:
# shellcheck disable=SC2016
set -euo pipefail

readonly USAGE="scripts/launch_tpu_vm.sh --name N --zone Z --type T [OPTIONS] -- SCRIPT ARGUMENTS

  --name N          name of the slice, which is created if it does not exist
  --zone Z          such as us-west4-a
  --type T          accelerator type, such as v5litepod-16
  --version IMAGE   software version of the slice (default: the type's)
  --project P       project (default: gcloud's)
  --spot            cheaper, but can be preempted at any time
  --bucket gs://B   the run's folder is gs://B/N if SCRIPT has no --out
  --dry-run         print the commands without running them

scripts/launch_tpu_vm.sh --name tpu --zone us-west4-a --type v5litepod-16 --spot -- \\
  experiments/gpt_shakespeare.py --dataset stdlib --batch-size 64 --out gs://bucket/runs/gpt

The exit status is the run's, or 3 if the slice cannot be reached."

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
poll=${JAXMODELS_POLL:-15} # seconds between two looks at the slice
patience=1                 # how often an unanswered question is asked
name='' zone='' type='' version='' project='' bucket='' spot='' dry='' out=''
command=()

say() { printf 'launch_tpu_vm: %s\n' "$*" >&2; }

fail() { # STATUS MESSAGE...
  say "${@:2}"
  exit "$1"
}

# As a shell reads it back; unlike printf %q, people read it as well.
quoted() {
  local word line='' escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//"'"/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

parse() {
  while (($#)); do
    case $1 in
      --) shift && command=("$@") && return ;;
      --spot) spot=--spot ;;
      --dry-run) dry=yes ;;
      -h | --help) printf '%s\n' "$USAGE" && exit ;;
      --name | --zone | --type | --version | --project | --bucket)
        (($# > 1)) || fail 2 "$1 is given no value; see --help"
        printf -v "${1#--}" '%s' "$2" && shift
        ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" && continue ;;
      *) fail 2 "unknown option $1; the experiment and its arguments stand behind --," \
        "the options before it; see --help" ;;
    esac
    shift
  done
}

check() {
  local given
  for given in name zone type; do
    [[ -n ${!given} ]] || fail 2 "--$given is missing; see --help"
  done
  version=${version:-$(image)}
  [[ -n $version ]] || fail 2 "no software is known here for --type $type; give --version," \
    "see https://cloud.google.com/tpu/docs/runtimes"
  [[ -f $root/${command[0]-} ]] || fail 2 "expected an experiment of this checkout behind --," \
    "such as -- experiments/cnn_digits.py; got ${command[0]-nothing}"
  find_out
  [[ $out == gs://?* ]] || fail 2 "expected --out gs://BUCKET/FOLDER behind --: all hosts must" \
    "see the run's folder, and it outlives the slice; got ${out:-none}"
  [[ -n $dry ]] || type -P gcloud >/dev/null || fail 2 "gcloud is not on PATH; install the" \
    "Google Cloud CLI and run gcloud auth login, or give --dry-run"
}

find_out() {
  local n
  for ((n = 0; n < ${#command[@]}; n++)); do
    case ${command[n]} in
      --out) out=${command[n + 1]-} ;;
      --out=*) out=${command[n]#*=} ;;
    esac
  done
  if [[ -z $out && -n $bucket ]]; then
    out=${bucket%/}/$name
    command+=(--out "$out")
  fi
}

image() {
  case $type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
  esac
}

tpu() {
  set -- gcloud compute tpus tpu-vm "$@" --zone="$zone" ${project:+--project="$project"} --quiet
  if [[ -n $dry ]]; then quoted "$@"; else "$@" </dev/null; fi
}

# Its state in the words of the TPU API, or NOT_FOUND. Another type's slice is somebody else's.
slice_state() {
  local answer state there n
  for ((n = 1; n <= patience; n++)); do
    ((n == 1)) || sleep "$poll"
    if answer=$(describe 2>"$tmp/error"); then
      read -r state there <<<"$answer"
      [[ $there == "$type" ]] || fail 2 "expected $name to be of type $type; it is of type" \
        "${there:-unknown} and left alone. Give its --type, or another --name to have one made"
      echo "$state" && return
    fi
    grep -q NOT_FOUND "$tmp/error" && echo NOT_FOUND && return
  done
  cat "$tmp/error" >&2
  fail 3 "gcloud does not tell the state of $name; a run that is going on goes on, and the same" \
    "command follows it again"
}

describe() { tpu describe "$name" --format='value(state,acceleratorType.basename())'; }

create() {
  tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+"$spot"}
}

try_to_create() {
  say "creating $name, $type"
  create 2>"$tmp/error" && return
  cat "$tmp/error" >&2
  grep -qi capacity "$tmp/error" || fail 3 "$name cannot be created"
  say "trying again until there is room"
}

# Wait for a slice that is there and healthy. Where there was none, whatever ran has to start again.
ready() {
  local state
  while :; do
    state=$(slice_state) || exit
    patience=20
    [[ $state == READY || $phase != ours ]] || phase=new
    case $state in
      READY) return ;;
      NOT_FOUND) try_to_create ;;
      PREEMPTED | TERMINATED)
        say "$name is $state; deleting it and starting anew"
        tpu delete "$name" || fail 3 "$name cannot be deleted"
        ;;
      STOPPED | HIDDEN | UNKNOWN)
        fail 3 "$name is $state; expected READY. Start it, or delete it to have it made anew:" \
          "$(dry=yes tpu delete "$name")"
        ;;
    esac
    sleep "$poll"
  done
}

# Tracked files and new ones that git does not ignore; not those that are deleted. And uv's lock, if
# there is one, so that every host, and a new slice in mid-run, installs the same versions.
pack() {
  local line
  line="cd $(quoted "$root") && { git ls-files -z --cached --others --exclude-standard"
  line+=' && printf "uv.lock\0"; } | while IFS= read -r -d "" f; do'
  line+=' if [ -e "$f" ]; then printf "%s\0" "$f"; fi; done'
  line+=" | tar -czf $(quoted "$tmp/jaxmodels-run.tar.gz") --null -T -"
  if [[ -n $dry ]]; then echo "$line"; else bash -o pipefail -c "$line"; fi
}

# Into a folder that is nobody else's. Hosts install before any of them starts: those who wait for
# others at the start give up sometime. TPU images have Python 3.10; without --python uv gets the
# newest that there is, which nobody may have tried with jax.
push() {
  # Some images' pip refuses to install beside the system's packages; others' know no such option.
  local get_uv='PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv'
  local ask='mkdir -p ~/jaxmodels-run && cd ~/jaxmodels-run && rm -rf code && mkdir code'
  ask+=" && tar -xzf ~/jaxmodels-run.tar.gz -C code && { [ -x ~/.local/bin/uv ] || $get_uv; }"
  ask+=' && cd code && ~/.local/bin/uv sync -q --no-dev --extra tpu --python 3.12'
  ask+=' $([ ! -e uv.lock ] || echo --frozen)'
  pack &&
    tpu scp "$tmp/jaxmodels-run.tar.gz" "$name:" --worker=all &&
    tpu ssh "$name" --worker=all --command="$ask"
}

# A session of its own outlives the connection. Its files are in ~/jaxmodels-run: the code, the log,
# the exit status once there is one, and a lock that is held as long as anything of the run lives.
# Python is started without `uv run`, which hands a SIGTERM on: a machine that shuts down has sent
# one to every process already, and a second one ends a run that is saving.
start() {
  local run='trap : TERM; .venv/bin/python -u "$@"; status=$?; '
  run+='cd ~/jaxmodels-run; echo $status >new; mv new status'
  local lock='exec 9>lock && { flock -n 9 || { kill -KILL -- "-$(cat pid)"; flock -w 30 9; }; }'
  local words ask
  words=$(quoted "${command[@]}")
  ask="mkdir -p ~/jaxmodels-run && cd ~/jaxmodels-run && $lock && rm -f status"
  ask+=" && echo $(quoted "$words") >command && cd code && { setsid nohup bash -c"
  ask+=" $(quoted "$run") run $words >~/jaxmodels-run/log 2>&1 </dev/null &"
  ask+=' echo $! >~/jaxmodels-run/pid; }'
  tpu ssh "$name" --worker=all --command="$ask"
}

# Worker 0's word on the run (none, running, other, lost, ended STATUS), and its log from `offset`
# on. Short looks, not one connection that stays: one to a machine that vanished may hang for long.
look() {
  local ask='cd ~/jaxmodels-run 2>/dev/null || { echo none; exit 0; }; '
  # A run that ends now writes its status first, and then lets go of the lock.
  ask+='if [ ! -e status ] && flock -n lock true && [ ! -e status ]; then echo lost; '
  ask+='elif [ -e status ]; then echo ended $(cat status); '
  ask+="elif [ \"\$(cat command)\" = $(quoted "$(quoted "${command[@]}")") ]; then echo running; "
  ask+="else echo other; fi; tail -c +$((offset + 1)) log || true"
  tpu ssh "$name" --worker=0 --command="$ask"
}

show() {
  tail -n +2 "$tmp/seen" >"$tmp/news"
  cat "$tmp/news"
  offset=$((offset + $(wc -c <"$tmp/news")))
}

begin() {
  say "starting on every host of $name"
  offset=0 phase=broken
  if push && start; then phase=ours failures=0; else unreachable "cannot start on $name"; fi
}

unreachable() { # MESSAGE
  say "$1, which was READY just now"
  ((++failures < 5)) || fail 3 "that was the fifth time; see gcloud's messages above"
}

# Whether the slice goes away within four looks: it stays READY a while after its hosts are told.
goes_away() {
  local n state
  for n in 1 2 3 4; do
    state=$(slice_state) || exit
    [[ $state == READY ]] || return 0
    ((n == 4)) || sleep "$poll"
  done
  return 1
}

# What a run's end means. Where a host has vanished the others may end with any status but 0, so
# with 1 as well; who diverged diverges again after a restart.
judge() { # STATUS
  case $1 in
    0) say "the run has ended; its folder is $out" ;;
    2) say "the run was refused, see its message above" ;;
    *)
      if goes_away; then
        say "the run ended with $1 because $name went away; going on"
        phase=new
        return
      fi
      say "the run ended with $1 on a healthy slice; every host's last words:" \
        "$(dry=yes tpu ssh "$name" --worker=all --command='tail -n 20 ~/jaxmodels-run/log')"
      ;;
  esac
  say "$name is still there and paid for; to end that: $(dry=yes tpu delete "$name")"
  exit "$1"
}

leave() {
  local stop='kill -TERM -- "-$(cat ~/jaxmodels-run/pid)"'
  say "no longer watching; a run that is going on goes on. The same command follows it again." \
    "To stop it, saved: $(dry=yes tpu ssh "$name" --worker=all --command="$stop")"
  exit 130
}

watch_over() {
  local word
  while :; do
    ready
    word=''
    if look >"$tmp/seen" 2>"$tmp/error"; then
      read -r word <"$tmp/seen" || true
      [[ $phase != ours && $word != running ]] || show
    fi
    case "$phase $word" in
      *' ') cat "$tmp/error" >&2 && unreachable "cannot reach $name" ;;
      *' other') fail 2 "$name is busy with another command; wait, or give another --name" ;;
      broken* | *' none' | *' lost' | 'new ended '*) begin ;;
      'new running') phase=ours && say "following the run that is going on" ;;
      'ours running') failures=0 ;;
      'ours ended '*) judge "${word#ended }" ;;
    esac
    sleep "$poll"
  done
}

parse "$@"
check
if [[ -n $dry ]]; then
  tmp=/tmp offset=0
  describe
  echo "$(create) # where there is none"
  push
  start
  echo "$(look) # every $poll s"
  echo "$(tpu delete "$name") # where it is PREEMPTED; then all again"
  exit
fi
tmp=$(mktemp -d)
offset=0 phase=new failures=0
trap 'rm -rf "$tmp"' EXIT
trap leave INT TERM
watch_over
