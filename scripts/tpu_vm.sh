#!/usr/bin/env bash
# Creates a Cloud TPU VM slice and runs one of this folder's scripts on all its hosts.

usage() {
    cat <<'END'
bash scripts/tpu_vm.sh COMMAND NAME --zone ZONE [options] [SCRIPT ARGUMENTS...]

Commands
  create    makes the slice NAME, copies this folder to its hosts, installs gptjax
  sync      copies this folder again and installs what is new, e.g. after a change
  run       starts scripts/SCRIPT.py on every host: train, prune, compare, ...
  stop      tells what runs to save its state and stop
  delete    deletes the slice; what lies on its disks is lost, and costs end

Options
  --zone ZONE         where, e.g. us-west4-a (needed)
  --project PROJECT   if not gcloud's own
  --type TYPE         what to create, e.g. v5litepod-16 (16 chips of v5e, 4x4)
  --version VERSION   its runtime; default v2-alpha-tpuv5-lite, which is for v5e
                      (v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p,
                      tpu-ubuntu2204-base for v4)
  --spot              much cheaper, and may be taken away at any moment; with --nfs,
                      `delete`, `create` and `run` again go on where it was
  --nfs HOST:/SHARE   with create: a network disk, e.g. of Filestore, that all hosts
                      mount as runs/. A slice of more than one host needs it, since
                      all of them write to the run folder; and it outlives the slice
  --dry-run           prints the commands and does nothing

Example: GPT-2 XL on a v5e slice of 16 chips
  bash scripts/tpu_vm.sh create my-tpu --zone us-west4-a --type v5litepod-16 \
      --nfs 10.0.0.2:/share --spot
  bash scripts/tpu_vm.sh run my-tpu --zone us-west4-a train configs/gpt2_xl_v5e.yaml
  bash scripts/tpu_vm.sh delete my-tpu --zone us-west4-a

Needs gcloud (https://cloud.google.com/sdk), logged in, with quota for the type.
END
}

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
    echo "tpu_vm.sh: $1 (--help tells more)" >&2
    exit 2
}

# Runs a command, or prints it so that it can be pasted into a shell.
run() {
    if [ "$dry_run" = 1 ]; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

on_hosts() {
    run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
        --command="$1"
}

# TPU VMs come with Python 3.10, gptjax needs a later one: uv brings it.
install='set -e; cd gptjax
python3 -c "import sys; sys.exit(sys.version_info < (3, 11))" || {
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv python install --quiet 3.12
    export PYTHON="$(~/.local/bin/uv python find 3.12)"
}
bash -c "source scripts/venv.sh && make_venv \"[tpu]\""'

copy() {
    local archive="${TMPDIR:-/tmp}/gptjax-$name.tar.gz"
    run tar -czf "$archive" -C "$root" --exclude=./.git --exclude=./.venv \
        --exclude=./runs --exclude=__pycache__ .
    run gcloud compute tpus tpu-vm scp "$archive" "$name:gptjax.tar.gz" \
        "${where[@]}" --worker=all
    on_hosts 'mkdir -p gptjax && tar -xzf gptjax.tar.gz -C gptjax'
    on_hosts "$install"
}

case "${1:-}" in
    --help | -h | help) usage && exit ;;
    create | sync | run | stop | delete) command="$1" ;;
    *) fail "the first argument is create, sync, run, stop or delete" ;;
esac
name="${2:-}"
case "$name" in "" | -*) fail "the second argument is the name of the slice" ;; esac
shift 2

zone="" project="" type="" version="v2-alpha-tpuv5-lite" nfs="" spot=0 dry_run=0
while [ $# -gt 0 ]; do
    case "$1" in
        --zone | --project | --type | --version | --nfs)
            [ $# -ge 2 ] || fail "$1 needs a value"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --spot) spot=1 && shift ;;
        --dry-run) dry_run=1 && shift ;;
        --help | -h) usage && exit ;;
        -*) fail "unknown option $1" ;;
        *) break ;;
    esac
done
[ -n "$zone" ] || fail "--zone is needed"
where=(--zone="$zone")
[ -z "$project" ] || where+=(--project="$project")
[ "$command" = run ] || [ $# = 0 ] || fail "$command takes no argument $1"

case "$command" in
    create)
        [ -n "$type" ] || fail "create needs --type"
        options=(--accelerator-type="$type" --version="$version")
        [ "$spot" = 0 ] || options+=(--spot)
        run gcloud compute tpus tpu-vm create "$name" "${where[@]}" "${options[@]}"
        copy
        if [ -n "$nfs" ]; then
            on_hosts "sudo apt-get install -qq -y nfs-common && mkdir -p gptjax/runs &&
sudo mount -t nfs $(printf '%q' "$nfs") gptjax/runs && sudo chmod 777 gptjax/runs"
        fi
        ;;
    sync) copy ;;
    run)
        script="${1:-}"
        case "$script" in
            train | prune | compare | evaluate | generate) shift ;;
            *) fail "run needs a script: train, prune, compare, evaluate or generate" ;;
        esac
        arguments=""
        [ $# = 0 ] || arguments="$(printf ' %q' "$@")"
        on_hosts "cd gptjax && exec .venv/bin/python scripts/$script.py --distributed$arguments"
        ;;
    # The bracket keeps pkill from finding its own shell.
    stop) on_hosts "pkill -TERM -f '[s]cripts/.*--distributed' || true" ;;
    delete) run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet ;;
esac
