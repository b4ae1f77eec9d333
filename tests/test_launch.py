"""The launch scripts: what they would run, what they refuse, and how they go on after a preemption.

TPU slices are played by a `gcloud` of our own, whose hosts are folders of this machine: what the
script sends to them runs for real, from a small checkout. SLURM's commands are played likewise.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCH_TPU = ROOT / "scripts" / "launch_tpu_vm.sh"
SLURM = ROOT / "scripts" / "launch_slurm.sbatch"

SLICE = "--name mine --zone us-west4-a --type v5litepod-16"
RUN = "experiments/cnn_digits.py --steps 3 --out gs://bucket/run"

GCLOUD = """#!/usr/bin/env bash
# The slice's state is in the file `state`; each line of `answers` is told once in its place, those
# of `fading` from the run's end on.
cd "$(dirname "$0")/.." || exit
echo "$4 $*" >>calls
for word in "$@"; do
  case $word in --worker=*) worker=${word#*=} ;; --command=*) command=${word#*=} ;; esac
done
[[ $worker != all ]] || worker="0 1"
case $4 in
  describe)
    if [[ -e fading && -e host0/jaxmodels-run/status ]]; then mv fading answers; fi
    if [[ -s answers ]]; then head -n 1 answers >state; sed -i 1d answers; fi
    grep -qv NOT_FOUND state 2>/dev/null || { echo "ERROR: NOT_FOUND: Resource" >&2; exit 1; }
    printf '%s\t%s\n' "$(<state)" v5litepod-16
    [[ $(<state) != REPAIRING ]] || echo READY >state ;;
  create)
    if [[ -s refusals ]]; then head -n 1 refusals >&2; sed -i 1d refusals; exit 1; fi
    rm -rf host*
    for n in 0 1; do mkdir -p "host$n/.local/bin" && cp uv "host$n/.local/bin"; done
    echo READY >state ;;
  delete) rm -rf state host* ;;
  scp) for n in $worker; do cp "$5" "host$n"; done ;;
  ssh)
    [[ $(<state) == READY && ! -e deaf ]] || { echo "Connection refused" >&2; exit 255; }
    status=0
    for n in $worker; do HOME=$PWD/host$n bash -c "$command" || status=$?; done
    exit "$status" ;;
esac
"""

UV = """#!/usr/bin/env bash
mkdir -p .venv/bin && cp ~/../python .venv/bin/ && echo "$@" >~/uv-called
"""

# Host 0 ends with the status in the first line of `ends`, or is lost with all its processes; the
# second word there is the slice's next state, a third one the file that the run waits for.
PYTHON = """#!/usr/bin/env bash
cd ~/..
[[ $HOME == */host0 ]] || exit 0
printf 'args:'; printf ' %q' "$@"; echo
read -r status state file <ends
sed -i 1d ends
[[ -z $state ]] || echo "$state" >state
until [[ -z $file || -e $file ]]; do sleep 0.05; done
[[ $status != lost ]] || kill -KILL 0
echo ended
exit "$status"
"""


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path):
    """A folder that plays the cloud; `bin` in it goes to the front of PATH.

    In its `checkout`, git knows a file that is there and one that is deleted, does not know a new
    one, and ignores one and uv's lock.
    """
    checkout = tmp_path / "checkout"
    executable(checkout / "scripts" / "launch_tpu_vm.sh", LAUNCH_TPU.read_text())
    executable(checkout / "experiments" / "cnn_digits.py", "")
    (checkout / "deleted").touch()
    subprocess.run("git init -q && git add . && rm deleted", shell=True, cwd=checkout, check=True)
    (checkout / ".gitignore").write_text("ignored\nuv.lock\n")
    (checkout / "ignored").touch()
    (checkout / "uv.lock").touch()
    executable(tmp_path / "bin" / "gcloud", GCLOUD)
    executable(tmp_path / "uv", UV)
    executable(tmp_path / "python", PYTHON)
    return tmp_path


def environment(folder, **variables):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "JAXMODELS_POLL": "0.02", **variables}


def call(script, arguments, folder, **variables):
    return subprocess.run(
        ["bash", str(script), *shlex.split(arguments)],
        cwd=ROOT,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


def launch_tpu(cloud, arguments, **variables):
    return call(cloud / "checkout/scripts/launch_tpu_vm.sh", arguments, cloud, **variables)


def launch(cloud, ends, run=RUN, answers=""):
    """Launch a run that ends as told."""
    (cloud / "ends").write_text("\n".join([*ends, ""]))
    (cloud / "answers").write_text("".join(f"{answer}\n" for answer in answers.split()))
    return launch_tpu(cloud, f"{SLICE} -- {run}")


def verbs(cloud):
    """What gcloud was asked for, less the questions."""
    lines = (cloud / "calls").read_text().splitlines()
    asked = [line.split()[0] for line in lines if "--worker=0" not in line]
    return [verb for verb in asked if verb != "describe"]


STARTED = ["scp", "ssh", "ssh"]


@pytest.mark.parametrize("script", [LAUNCH_TPU, SLURM], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    beside_python = str(Path(sys.executable).parent)  # where `uv run` installs it
    found = shutil.which("shellcheck", path=os.pathsep.join([beside_python, os.environ["PATH"]]))
    if not found:
        pytest.skip("shellcheck is not installed; `uv run pytest` brings it")
    subprocess.run([found, str(script)], check=True)


# On a TPU slice


def test_a_dry_run_prints_every_command_on_a_line_and_runs_none(cloud):
    ended = launch_tpu(cloud, f"{SLICE} --project p --spot --dry-run -- {RUN} --dataset 'a  b'")
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert not (cloud / "calls").exists()
    lines = [shlex.split(line, comments=True) for line in ended.stdout.splitlines()]
    tpu_vm = [line[4] for line in lines if line[0] == "gcloud"]
    assert tpu_vm == ["describe", "create", *STARTED, "ssh", "delete"]
    assert "--spot" in lines[1]
    assert "--version=v2-alpha-tpuv5-lite" in lines[1]
    assert all("--project=p" in line for line in lines if line[0] == "gcloud")
    assert f"run {RUN} --dataset 'a  b' >" in next(word for word in lines[5] if "setsid" in word)


def test_the_bucket_stands_for_out(cloud):
    run = "--bucket gs://other/ --dry-run -- experiments/cnn_digits.py"
    ended = launch_tpu(cloud, f"{SLICE} {run}")
    assert "experiments/cnn_digits.py --out gs://other/mine" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "--name is missing; see --help"),
        ("--name", "--name is given no value"),
        ("--name mine --zone z", "--type is missing"),
        (f"{SLICE} --spott", "unknown option --spott"),
        (f"{SLICE} {RUN}", "unknown option experiments/cnn_digits.py"),
        ("--name mine --zone z --type v9-8", "no software is known here for --type v9-8"),
        (SLICE, "expected an experiment of this checkout behind --"),
        (f"{SLICE} -- uv run {RUN}", "such as -- experiments/cnn_digits.py; got uv"),
        (f"{SLICE} -- experiments/cnn_digits.py", "expected --out gs://BUCKET/FOLDER behind --"),
        (f"{SLICE} -- experiments/cnn_digits.py --out runs/x", "got runs/x"),
        (f"{SLICE} --bucket b -- experiments/cnn_digits.py", "got b/mine"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(arguments, words, cloud):
    ended = launch_tpu(cloud, arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.startswith("launch_tpu_vm: ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert not (cloud / "calls").exists()


def test_without_gcloud_it_says_what_to_install(cloud):
    for name in "bash", "dirname":
        (cloud / name).symlink_to(shutil.which(name))
    ended = launch_tpu(cloud, f"{SLICE} -- {RUN}", PATH=str(cloud))
    assert ended.returncode == 2
    assert "gcloud is not on PATH; install the Google Cloud CLI" in ended.stderr


def test_a_run_on_a_new_slice(cloud):
    ended = launch(cloud, ["0"], run=f'{RUN} --dataset "two words, it\'s"')
    assert ended.returncode == 0
    assert verbs(cloud) == ["create", *STARTED]
    log = ended.stdout.splitlines()
    assert shlex.split(log[0])[1:] == ["-u", *RUN.split(), "--dataset", "two words, it's"]
    assert log[1:] == ["ended"]
    assert "its folder is gs://bucket/run" in ended.stderr
    assert "tpu-vm delete mine" in ended.stderr
    for host in "host0", "host1":
        names = {path.name for path in (cloud / host / "jaxmodels-run" / "code").iterdir()}
        assert names == {"scripts", "experiments", ".gitignore", "uv.lock", ".venv"}
        called = (cloud / host / "uv-called").read_text()
        assert called == "sync -q --no-dev --extra tpu --python 3.12 --frozen\n"


def test_without_a_lock_the_hosts_resolve(cloud):
    (cloud / "checkout" / "uv.lock").unlink()
    assert launch(cloud, ["0"]).returncode == 0
    assert "--frozen" not in (cloud / "host0" / "uv-called").read_text()


def test_a_slice_of_another_type_is_left_alone(cloud):
    call(cloud / "bin" / "gcloud", "compute tpus tpu-vm create", cloud)
    (cloud / "calls").unlink()
    run = SLICE.replace("v5litepod-16", "v5litepod-1")
    ended = launch_tpu(cloud, f"{run} -- {RUN}")
    assert ended.returncode == 2
    words = "launch_tpu_vm: expected mine to be of type v5litepod-1; it is of type v5litepod-16 and"
    assert ended.stderr.startswith(words)
    assert verbs(cloud) == []


def test_what_was_on_the_slice_stays(cloud):
    call(cloud / "bin" / "gcloud", "compute tpus tpu-vm create", cloud)
    mine = cloud / "host0" / "jaxmodels" / "runs" / "mine"
    executable(mine, "")
    assert launch(cloud, ["0"]).returncode == 0
    assert mine.exists()


@pytest.mark.parametrize("state", ["PREEMPTED", "NOT_FOUND"])
def test_after_a_preemption_the_same_command_goes_on_on_a_new_slice(state, cloud):
    ended = launch(cloud, [f"143 {state}", "0"])
    assert ended.returncode == 0
    gone = [] if state == "NOT_FOUND" else ["delete"]
    assert verbs(cloud) == ["create", *STARTED, *gone, "create", *STARTED]
    starts = [line for line in (cloud / "calls").read_text().splitlines() if "setsid" in line]
    assert len(starts) == 2
    assert starts[0] == starts[1]


@pytest.mark.parametrize("end", ["143 REPAIRING", "lost"])
def test_a_run_whose_hosts_were_restarted_is_started_again(end, cloud):
    ended = launch(cloud, [end, "0"])
    assert ended.returncode == 0
    assert verbs(cloud) == ["create", *STARTED, *STARTED]


def test_a_slice_that_goes_away_after_the_run_has_ended(cloud):
    (cloud / "fading").write_text("READY\nREADY\nPREEMPTED\n")
    ended = launch(cloud, ["143", "0"])
    assert ended.returncode == 0
    assert "the run ended with 143 because mine went away; going on" in ended.stderr
    assert verbs(cloud) == ["create", *STARTED, "delete", "create", *STARTED]


@pytest.mark.parametrize("status", [1, 2, 143])
def test_on_a_healthy_slice_the_runs_status_is_handed_out(status, cloud):
    ended = launch(cloud, [str(status), "0"])
    assert ended.returncode == status
    assert verbs(cloud) == ["create", *STARTED]


def test_a_slice_that_is_being_made_is_waited_for(cloud):
    call(cloud / "bin" / "gcloud", "compute tpus tpu-vm create", cloud)
    ended = launch(cloud, ["0"], answers="CREATING REPAIRING READY")
    assert ended.returncode == 0
    assert verbs(cloud) == ["create", *STARTED]


def test_a_stopped_slice_is_left_to_its_owner(cloud):
    ended = launch(cloud, ["0"], answers="STOPPED")
    assert ended.returncode == 3
    assert "mine is STOPPED; expected READY" in ended.stderr


def test_a_slice_that_does_not_answer_ends_it(cloud):
    (cloud / "deaf").touch()
    ended = launch(cloud, ["0"])
    assert ended.returncode == 3
    assert "Connection refused\nlaunch_tpu_vm: cannot reach mine" in ended.stderr
    assert verbs(cloud) == ["create"]


def test_a_full_zone_is_asked_again(cloud):
    (cloud / "refusals").write_text('There is no more capacity in the zone "us-west4-a"\n')
    ended = launch(cloud, ["0"])
    assert ended.returncode == 0
    assert verbs(cloud) == ["create", "create", *STARTED]


def test_a_slice_that_is_refused_ends_it(cloud):
    (cloud / "refusals").write_text("ERROR: PERMISSION_DENIED\n")
    ended = launch(cloud, ["0"])
    assert ended.returncode == 3
    assert "PERMISSION_DENIED" in ended.stderr
    assert verbs(cloud) == ["create"]


@contextlib.contextmanager
def launching(cloud):
    """A launcher at work; killed at the end.

    It hears Ctrl-C even where a shell has started the tests in the background, which ignore it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [cloud / "checkout/scripts/launch_tpu_vm.sh", *SLICE.split(), "--", *RUN.split()],
        env=environment(cloud),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launcher:
        signal.signal(signal.SIGINT, before)
        assert launcher.stdout
        yield launcher, launcher.stdout
        launcher.kill()


@pytest.fixture
def left(cloud):
    """A run that goes on until there is a file `go`, although its launcher was killed."""
    (cloud / "ends").write_text("0 READY go\n0\n")
    with launching(cloud) as (_, printed):
        assert any(line.startswith("args:") for line in printed)
    (cloud / "calls").unlink()
    yield cloud
    (cloud / "go").touch()


def test_a_run_that_is_going_on_is_followed_not_started_again(left):
    with launching(left) as (launcher, printed):
        assert "following the run that is going on" in "".join(islice(printed, 2))
        (left / "go").touch()
        assert next(printed) == "ended\n"
        launcher.wait()
    assert launcher.returncode == 0
    assert verbs(left) == []


def test_ctrl_c_leaves_the_run_alone(left):
    with launching(left) as (launcher, printed):
        assert any("following" in line for line in printed)
        launcher.send_signal(signal.SIGINT)
        assert "a run that is going on goes on" in printed.read()
    assert launcher.wait() == 130
    assert not (left / "host0" / "jaxmodels-run" / "status").exists()


def test_a_slice_that_runs_something_else_is_left_alone(left):
    ended = launch_tpu(left, f"{SLICE} -- {RUN} --seed 1")
    assert ended.returncode == 2
    assert "mine is busy with another command" in ended.stderr
    assert verbs(left) == []


# With SLURM

SHARED = "experiments/cnn_digits.py --out"


@pytest.fixture
def cluster(tmp_path):
    """Commands that write down how they were called; srun's tasks end as `SRUN` says."""
    for name in "uv", "scontrol":
        executable(tmp_path / "bin" / name, f'#!/bin/sh\necho {name} "$@" >>"$CALLS"\n')
    executable(tmp_path / "bin" / "squeue", '#!/bin/sh\necho "$STATE"\n')
    task = '#!/bin/sh\necho srun "$@" >>"$CALLS"\n[ "$1" = test ] && exec "$@"\nexit "$SRUN"\n'
    executable(tmp_path / "bin" / "srun", task)
    return tmp_path


def submit(cluster, out, status=0, state="RUNNING"):
    variables = {"SLURM_JOB_ID": "7", "SRUN": str(status), "STATE": state}
    ended = call(SLURM, f"{SHARED} {out}", cluster, CALLS=str(cluster / "calls"), **variables)
    return ended, (cluster / "calls").read_text().splitlines()


def test_slurm_dry_run(cluster):
    ended = call(SLURM, f"--dry-run {SHARED}=/shared/run", cluster, CALLS=str(cluster / "calls"))
    assert ended.returncode == 0
    assert not (cluster / "calls").exists()
    lines = [shlex.split(line, comments=True) for line in ended.stdout.splitlines()]
    assert lines == [
        ["mkdir", "-p", "/shared/run"],
        ["srun", "test", "-d", "/shared/run"],
        ["uv", "sync", "--inexact", "--extra", "cuda"],
        [
            "srun",
            "--kill-on-bad-exit=0",
            ".venv/bin/python",
            "-u",
            "experiments/cnn_digits.py",
            "--out=/shared/run",
        ],
        ["scontrol", "requeue", "$SLURM_JOB_ID"],
    ]


def test_slurm_installs_what_a_bucket_needs(cluster):
    ended, calls = submit(cluster, "gs://bucket/run")
    assert ended.returncode == 0
    assert calls[0] == "uv sync --inexact --extra cuda --extra bucket"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "expected an experiment, such as experiments/cnn_digits.py; got nothing"),
        ("uv run x.py", "got uv"),
        ("--dry-run experiments/cnn_digits.py", "no --out; "),
        (f"{SHARED} /shared/run", "this is no SLURM job; give it to sbatch, or --dry-run"),
    ],
)
def test_slurm_mistakes(arguments, words, cluster):
    ended = call(SLURM, arguments, cluster, SLURM_JOB_ID="")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("status", [0, 1, 2])
def test_slurm_hands_out_the_runs_status(status, cluster, tmp_path):
    ended, calls = submit(cluster, tmp_path / "run", status)
    assert ended.returncode == status
    assert calls[-1].startswith("srun --kill-on-bad-exit=0 .venv/bin/python -u experiments/")


def test_slurm_queues_a_preempted_run_again(cluster, tmp_path):
    _, calls = submit(cluster, tmp_path / "run", 143)
    assert calls[-1] == "scontrol requeue 7"


def test_slurm_does_not_queue_a_cancelled_run_again(cluster, tmp_path):
    _, calls = submit(cluster, tmp_path / "run", 143, "COMPLETING")
    assert calls[-1].startswith("srun")


def test_slurm_refuses_a_folder_that_a_node_does_not_see(cluster, tmp_path):
    executable(cluster / "bin" / "srun", '#!/bin/sh\necho srun "$@" >>"$CALLS"\nexit 1\n')
    ended, calls = submit(cluster, tmp_path / "run")
    assert ended.returncode == 2
    assert "expected --out on a filesystem that all nodes share" in ended.stderr
    assert len(calls) == 1


def test_the_time_limit_signals_the_tasks_and_not_the_shell():
    options = [line for line in SLURM.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --signal=TERM@120" in options
    assert "#SBATCH --requeue" in options
