"""The launchers give other programs the right words: with stubs of gcloud, ssh, srun, scontrol and python, and no network.

Beside them, shellcheck finds nothing in the scripts where it is installed, and gke.yaml has the fields of a JobSet.
"""

import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

from launch_stubs import LAST, LAUNCH, Stubs, real_python
import pytest
import yaml

from jaxalign.config import processes

SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TRAIN = ["--config", "my configs/a.py", "--workdir", "/runs/it's a run", "--config.data.train.path=a b.jsonl", "--config.seed=$HOME"]


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not (shellcheck := shutil.which("shellcheck", path=path)):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, "-x", f"launch/{script.name}"], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["local.sh"], "--config is missing"),
        (["local.sh", "--processes", "two", "--config", "a.py"], "--processes two is no number from 1"),
        (["local.sh", "--workdir=x", "--config", "a.py"], "unknown option --workdir; the flags of jaxalign.train stand after --config"),
        (["local.sh", "--processes"], "--processes has no value"),
        (["gpu_node.sh", "--hosts", "a,b", "--config", "a.py"], "--workdir is missing: a folder that all nodes see"),
        (["gpu_node.sh", "stop"], "--hosts is missing"),
        (["tpu_pod.sh"], "the first word is run, status, stop or delete"),
        (["tpu_pod.sh", "stop", "--name", "a"], "--zone is missing"),
        (["tpu_pod.sh", "run", "--name", "a", "--zone", "z", "--config", "a.py"], "--workdir is missing: a folder that all hosts see"),
        (["tpu_pod.sh", "run", "--name", "a", "--zone", "z", "--config=a.py", "--workdir=gs://b/r"], "train.mirror keeps a copy"),
        (["tpu_pod.sh", "run", "--name", "a", "--zone", "z", "--config=a.py", "--workdir=runs/a"], "--workdir is not absolute"),
        (["tpu_pod.sh", "status", "--name", "a", "--zone", "z", "--slices", "0"], "--slices 0 is no number from 1"),
        (["tpu_pod.sh", "stop", "--name", "a", "--zone", "z", "--grace", "soon"], "--grace soon is no whole number"),
        (["tpu_pod.sh", "run", "--name", "a", "--zone", "z", "--env", "KEY", "--config=a.py"], "--env KEY is not NAME=VALUE"),
        (["gpu_node.sh", "--env=KEY", "--config=a.py"], "--env KEY is not NAME=VALUE"),
        (["slurm.sh", "--config", "a.py"], "sbatch --nodes 4"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_what_is_missing_or_unknown_is_told_with_the_usage(stubs, command, words):
    done = stubs.run(*command)
    assert done.returncode == 2 and words in done.stderr and "launch/" in done.stderr
    assert "set -euo" not in done.stderr and stubs.recorded() == []


@pytest.mark.parametrize("workdir", ["~/jaxalign/runs/a", "~me/jaxalign", "/homes/USER/jaxalign", "HOME/jaxalign/runs"])
@pytest.mark.parametrize("form", [["--workdir"], []])
def test_a_workdir_that_the_install_would_delete_is_refused(stubs, workdir, form):
    workdir = workdir.replace("HOME", str(stubs.home)).replace("USER", stubs.environment["USER"])
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--config=a.py", *(["--workdir", workdir] if form else [f"--workdir={workdir}"]))
    assert done.returncode == 2 and f"--workdir {workdir} lies in the checkout on the hosts" in done.stderr and stubs.recorded() == []


@pytest.mark.parametrize(
    ("options", "flags", "warned"),
    [
        ([], [], True),
        (["--prepare", "sudo mount -t nfs host:/runs /runs"], [], False),
        (["--prepare=gcsfuse runs /runs"], [], False),
        (["--prepare", "uv pip install x"], [], True),
        ([], ["--config.train.mirror=gs://b/r"], False),
        ([], ["--config.dpo.train.mirror", "gs://b/r"], False),
    ],
)
def test_a_workdir_that_is_lost_with_the_vm_is_told_before_anything_is_asked_for(stubs, options, flags, warned):
    cloud(stubs, nodes=("",), requests=("FAILED",))
    lines = stubs.run("tpu_pod.sh", "run", *TPU, *options, *TRAIN, *flags).stderr.splitlines()
    told = [number for number, line in enumerate(lines) if line.startswith(f"pod: --workdir {TRAIN[3]} is lost with the TPU VM")]
    assert told == ([0] if warned else []) and ("gs://BUCKET/RUN" in lines[1]) == warned


def test_local_is_one_plain_process(stubs):
    stubs.command("python", "exit 7")
    assert stubs.run("local.sh", *TRAIN).returncode == 7
    assert stubs.recorded() == [["python", "-m", "jaxalign.train", *TRAIN]]


def test_local_starts_processes_that_know_each_other_and_marks_their_lines(stubs):
    stubs.command("python", real_python(f'echo "{LAST} on $JAX_PLATFORMS"; echo "error {LAST}" >&2'), records=False)
    done = stubs.run("local.sh", "--processes=2", *TRAIN)
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["0 on cpu", "[1] 1 on cpu"])
    assert sorted(done.stderr.splitlines()) == ["[1] error 1", "error 0"]
    calls = sorted(stubs.recorded())
    address = calls[0][len(TRAIN) + 4]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", address)
    flags = ["--coordinator", address, "--processes", "2", "--process"]
    assert calls == [["python", "-m", "jaxalign.train", *TRAIN, *flags, str(number)] for number in range(2)]


def test_local_ends_the_others_when_one_fails_and_names_it(stubs):
    body = f'if [[ {LAST} == 1 ]]; then exit 3; fi; trap "echo asked; exit 75" TERM; for i in {{1..600}}; do sleep 0.1; done'
    stubs.command("python", real_python(body), records=False)
    stubs.environment["PATIENCE_S"] = "0.2"
    done = stubs.run("local.sh", "--processes", "2", *TRAIN)
    assert done.returncode == 3 and "asked" in done.stdout
    assert done.stderr.splitlines() == ["process 1 ended with exit code 3", "process 0 ended with exit code 75"]


def test_local_hands_a_signal_on_to_all(stubs):
    stubs.command("python", real_python('trap "echo asked; exit 75" TERM; echo up; for i in {1..600}; do sleep 0.1; done'), records=False)
    command = [str(stubs.checkout / "launch" / "local.sh"), "--processes", "2", *TRAIN]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as launcher:
        assert {launcher.stdout.readline(), launcher.stdout.readline()} == {"up\n", "[1] up\n"}
        launcher.terminate()
        rest = launcher.stdout.read()
    assert launcher.returncode == 75 and sorted(rest.splitlines()) == ["[1] asked", "asked"]


def test_one_gpu_node_is_one_process_that_refuses_to_run_without_its_gpus(stubs):
    stubs.command("python", "echo $JAX_PLATFORMS $LEVEL")
    assert stubs.run("gpu_node.sh", "--env=LEVEL=high", *TRAIN).stdout == "cuda,cpu high\n"
    assert stubs.recorded() == [["python", "-m", "jaxalign.train", *TRAIN]]


def nodes(lost="false"):
    """A body of ssh whose nodes are this machine, with folders of their own; a connection is lost at once where `lost` is true in bash."""
    return f"""host="${{@: -2:1}}" command={LAST}
command=${{command//first/$host}}
if [[ $command == *follow* ]] && {lost}; then
  (timeout 2 bash -c "$command" >/dev/null 2>&1 &)
  until [[ -s "/tmp/jaxalign-$USER/$host/pid" ]]; do sleep 0.1; done
  exit 255
fi
bash -c "$command"
"""


def test_several_gpu_nodes_get_the_words_as_they_were_typed(stubs):
    stubs.command("ssh", nodes())
    stubs.command("python", f'echo "this is {LAST}"; exit $(({LAST} * 4))')
    done = stubs.run("gpu_node.sh", "--hosts", "me@one,two", "--port=99", "--name", "first", *TRAIN)
    shutil.rmtree(f"/tmp/jaxalign-{stubs.environment['USER']}")
    assert sorted(done.stdout.splitlines()) == ["[1] this is 1", "this is 0"]
    assert (done.returncode, done.stderr) == (4, "process 1 ended with exit code 4\n")
    ssh = [call for call in stubs.recorded() if call[0] == "ssh"]
    options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=30"]
    assert sorted(call[:-1] for call in ssh) == [["ssh", "-n", *options, host] for host in ("me@one", "me@one", "two", "two")]
    flags = ["--coordinator", "one:99", "--processes", "2", "--process"]
    trained = sorted(call for call in stubs.recorded() if call[0] == "python")
    assert trained == [["python", "-m", "jaxalign.train", *TRAIN, *flags, str(number)] for number in range(2)]


def test_a_node_that_cannot_be_reached_is_named(stubs):
    stubs.command("python")
    stubs.command("ssh", 'host="${@: -2:1}"; if [[ $host == two ]]; then echo "no route to $host" >&2; exit 255; fi')
    done = stubs.run("gpu_node.sh", "--hosts", "one,two", *TRAIN)
    assert done.returncode == 255 and "no route to two" in done.stderr and "process 1 ended with exit code 255" in done.stderr
    assert not any("follow" in call[-1] for call in stubs.recorded())  # nothing was started


def test_a_connection_that_is_lost_is_made_again_and_nobody_is_asked_to_stop(stubs):
    outage = stubs.answers("outage", "lost", "lost", "there")
    stubs.command("ssh", nodes(f"[[ $host == two && $({outage}) == lost ]]"))
    stubs.command("python", f'trap "exit 75" TERM; echo "{LAST} is up"; for i in {{1..30}}; do sleep 0.1; done; echo "{LAST} ends"; exit 0')
    stubs.environment["PATIENCE_S"] = "0.2"
    done = stubs.run("gpu_node.sh", "--hosts", "one,two", "--name", "first", *TRAIN)
    shutil.rmtree(f"/tmp/jaxalign-{stubs.environment['USER']}")
    assert sorted(done.stdout.splitlines()) == ["0 ends", "0 is up", "[1] 1 ends", "[1] 1 is up"]
    assert done.returncode == 0 and done.stderr.count("[1] two: the connection is lost; what runs there goes on") == 1
    assert not any(" stop " in call[-1] for call in stubs.recorded()) and len(calls(stubs, "python")) == 2


def test_a_node_that_does_not_answer_again_leaves_the_run_to_the_others(stubs):
    stubs.command("ssh", nodes("[[ $host == two ]]"))
    stubs.command("python", 'trap "exit 75" TERM; for i in {1..20}; do sleep 0.1; done; exit 0')
    stubs.environment |= {"PATIENCE_S": "0.2", "LOST_S": "0"}
    done = stubs.run("gpu_node.sh", "--hosts", "one,two", "--name", "first", *TRAIN)
    shutil.rmtree(f"/tmp/jaxalign-{stubs.environment['USER']}")
    assert done.returncode == 255 and "two: no answer for 0 s; what runs there goes on, and the same command shows it again" in done.stderr
    assert not any(" stop " in call[-1] for call in stubs.recorded())


def host(stubs, *words):
    return stubs.run("on_host.sh", words[0], str(stubs.home / "the run"), *words[1:])


def test_a_process_on_a_host_is_started_once_per_id_and_shown_again(stubs):
    stubs.command("work", 'printf "%s|" "$@"; exit 5')
    for _ in range(2):
        done = host(stubs, "follow", "id 1", "work", "a b", "c'd")
        assert (done.returncode, done.stdout) == (5, "a b|c'd|")
    assert stubs.recorded() == [["work", "a b", "c'd"]]
    assert host(stubs, "follow", "id 2", "work").returncode == 5 and len(stubs.recorded()) == 2
    assert host(stubs, "running").returncode == 1


def test_a_host_whose_disk_is_full_says_so_and_runs_nothing_on(stubs):
    stubs.command("work", "sleep 5")
    stubs.command("rm", '/bin/rm "$@"; if [[ ${!#} == */pid ]]; then ln -s /dev/full "${!#}"; fi', records=False)
    stubs.environment["START_S"] = "1"
    done = host(stubs, "follow", "1", "work")
    assert done.returncode == 1 and "nothing was started" in done.stderr and "is the disk full?" in done.stderr
    assert host(stubs, "running").returncode == 1


def test_a_process_on_a_host_outlives_the_connection_and_is_stopped_by_name(stubs):
    stubs.command("work", 'trap "echo saved; exit 75" TERM; echo up; for i in {1..600}; do sleep 0.1; done')
    command = [str(stubs.checkout / "launch" / "on_host.sh"), "follow", str(stubs.home / "the run"), "1", "work"]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "up\n"
        follower.kill()
    assert host(stubs, "running").returncode == 0
    with subprocess.Popen(command[:-2] + ["2", "work"], env=stubs.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "up\n"
        assert "asked to save and end" in host(stubs, "stop").stderr
        assert follower.stdout.read() == "saved\n"
    assert follower.returncode == 143 and len(stubs.recorded()) == 1
    assert "nothing runs" in host(stubs, "stop").stderr


def test_the_exit_code_is_kept_when_a_host_is_shut_down(stubs):
    stubs.command("work", 'trap "sleep 0.2; exit 75" TERM; echo up; for i in {1..600}; do sleep 0.1; done')
    command = [str(stubs.checkout / "launch" / "on_host.sh"), "follow", str(stubs.home / "the run"), "1", "work"]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "up\n"
        os.killpg(os.getpgid(int((stubs.home / "the run" / "pid").read_text())), signal.SIGTERM)
        follower.stdout.read()
    assert follower.returncode == 75


def test_only_ssh_itself_ends_with_255(stubs):
    stubs.command("work", "exit 255")
    assert host(stubs, "follow", "1", "work").returncode == 1


def test_a_process_is_shown_from_its_last_lines_on(stubs):
    stubs.command("work", "seq 9")
    assert host(stubs, "follow", "1", "work").stdout.startswith("1\n2\n")
    stubs.environment["SHOW"] = "2"
    assert host(stubs, "follow", "1", "work").stdout == "8\n9\n"


def test_a_process_that_does_not_end_is_killed(stubs):
    stubs.command("work", 'trap "" TERM; echo up; for i in {1..600}; do sleep 0.1; done')
    stubs.environment["GRACE_S"] = "1"
    command = [str(stubs.checkout / "launch" / "on_host.sh"), "follow", str(stubs.home / "the run"), "1", "work"]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "up\n"
        stopped = host(stubs, "stop")
        assert stopped.returncode == 1 and "killed after 1 s, so the run continues from its newest checkpoint" in stopped.stderr
        follower.stdout.read()
    assert follower.returncode == 137  # nothing was saved, so it is not 143


def test_a_run_whose_save_fails_after_a_stop_is_no_run_that_saved(stubs):
    stubs.command("work", 'trap "exit 1" TERM; echo up; for i in {1..600}; do sleep 0.1; done')
    command = [str(stubs.checkout / "launch" / "on_host.sh"), "follow", str(stubs.home / "the run"), "1", "work"]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout.readline() == "up\n"
        assert host(stubs, "stop", "30").returncode == 0
        follower.stdout.read()
    assert follower.returncode == 1


def test_a_run_whose_host_started_anew_may_start_again(stubs):
    stubs.command("work", "exit 0")
    assert host(stubs, "follow", "1", "work").returncode == 0
    (stubs.home / "the run" / "code").unlink()  # as where the host went down in the middle
    done = host(stubs, "follow", "1", "work")
    assert done.returncode == 75 and "was the host started anew?" in done.stderr and len(stubs.recorded()) == 1


def slurm(stubs, code, *told, requeue=0):
    lines = "".join(f"echo 'srun: error: {line}' >&2\n" for line in told)
    stubs.command("srun", f"{lines}exit {code}")
    stubs.command("scontrol", f"exit {requeue}")
    stubs.environment["SLURM_JOB_ID"] = "12"
    return stubs.run("slurm.sh", *TRAIN)


def test_slurm_starts_one_process_per_node(stubs):
    assert slurm(stubs, 0).returncode == 0
    train = ["python", "-m", "jaxalign.train", *TRAIN, "--coordinator", "auto", "--stopped-exit-code", "75"]
    assert stubs.recorded() == [["srun", "--cpu-bind=none", "--wait=600", *train]]
    options = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sh").read_text(), re.M)
    assert {"--ntasks-per-node=1", "--signal=TERM@120", "--requeue"} <= set(options)


def test_slurm_queues_a_stopped_job_again_and_no_other(stubs):
    done = slurm(stubs, 75)
    assert done.returncode == 75 and stubs.recorded()[-1] == ["scontrol", "requeue", "12"]
    done = slurm(stubs, 1)
    assert done.returncode == 1 and "ended with exit code 1; the job is not queued again" in done.stderr
    assert [call[0] for call in stubs.recorded()] == ["srun", "scontrol", "srun"]


KILLED, LOST = "gpu[3-4]: task 0: Killed", "gpu[5-6]: tasks 1-2: Exited with exit code 75"


@pytest.mark.parametrize(
    ("code", "told", "ended"),
    [
        (137, [KILLED, LOST], 75),
        (137, ["gpu3: task 0: Out Of Memory", LOST], 75),
        (137, ["gpu3: task 0: Exited with exit code 137", LOST], 75),
        (137, [KILLED], 137),
        (137, [KILLED, LOST, "gpu9: task 3: Exited with exit code 1"], 1),
        (75, [LOST, "gpu9: task 3: Exited with exit code 1"], 1),
        (134, ["gpu3: task 0: Killed", "gpu4: task 1: Aborted (core dumped)"], 134),
    ],
)
def test_slurm_queues_a_job_again_whose_processes_lost_one_that_was_killed(stubs, code, told, ended):
    done = slurm(stubs, code, *told)
    assert done.returncode == ended and all(line in done.stderr for line in told)
    assert (["scontrol", "requeue", "12"] in stubs.recorded()) == (ended == 75)


def test_slurm_tells_that_a_job_cannot_go_back_into_the_queue(stubs):
    done = slurm(stubs, 75, requeue=1)
    assert done.returncode == 75 and "job 12 cannot go back into the queue; submit it again" in done.stderr


TPU = ["--name", "pod", "--zone", "us-east5-a", "--project", "p"]
WHERE = ["--zone", "us-east5-a", "--project", "p"]


def cloud(stubs, *, nodes=("READY",), requests=("ACTIVE",), codes=(0,), create="exit 0", scp="", connections=("there",)):
    """A gcloud whose slices have one host each, with a home folder of its own; states and exit codes of the runs follow each other.

    A state "" is of what is not there; with "lost" gcloud finds no network. A connection that is not "there" while a run is shown is lost
    with that code of gcloud, and the run ends meanwhile.
    """
    stubs.command("uv", 'if [[ $1 == venv ]]; then mkdir -p "${@: -1}/bin"; ln -s "$(command -v python)" "${@: -1}/bin/python"; fi')
    stubs.command("python", f"echo 'step 1'; exit $({stubs.answers('codes', *map(str, codes))})")
    stubs.command(
        "gcloud",
        f'''state() {{
  case $1 in
    "") echo "ERROR: (gcloud.compute.tpus.describe) NOT_FOUND: Resource 'pod' was not found." >&2; exit 1 ;;
    lost) echo "ERROR: gcloud crashed (ConnectionError): no network" >&2; exit 1 ;;
    *) echo "$1" ;;
  esac
}}
case "$3 $4" in
  "tpu-vm describe") state "$({stubs.answers("nodes", *nodes)})" ;;
  "queued-resources describe") state "$({stubs.answers("requests", *requests)})" ;;
  "queued-resources create") {create} ;;
  "tpu-vm scp") {scp}
    mkdir -p "$HOME/${{6%:*}}"
    cp "$5" "$HOME/${{6/://}}" ;;
  "tpu-vm ssh") cd "$HOME/$5"
    connection=there
    if [[ {LAST} == *follow* ]]; then connection=$({stubs.answers("connections", *connections)}); fi
    if [[ $connection == there ]]; then HOME=$PWD bash -c "{LAST}"; exit; fi
    HOME=$PWD bash -c "{LAST}" >/dev/null 2>&1
    exit "$connection" ;;
esac''',
    )
    subprocess.run(["git", "init", "-q", "."], cwd=stubs.checkout, check=True)


def calls(stubs, *words):
    return [call for call in stubs.recorded() if call[: len(words)] == list(words)]


def test_a_slice_is_asked_for_waited_for_set_up_and_run_on(stubs):
    cloud(stubs, nodes=("", "", "CREATING", "READY"), requests=("", "WAITING_FOR_RESOURCES", "PROVISIONING"))
    (stubs.checkout / "my config.py").write_text("")
    kind = ["--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite", "--create=--spot", "--create=--network=n"]
    done = stubs.run("tpu_pod.sh", "run", *TPU, *kind, "--prepare", 'touch "$HOME/a mount"', *TRAIN)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("pod: ") and "--workdir" not in line][:4] == [
        "pod: asks for v5litepod-16",
        "pod: WAITING_FOR_RESOURCES",
        "pod: PROVISIONING",
        "pod: the slice is ready",
    ]
    (create,) = calls(stubs, "gcloud", "compute", "tpus", "queued-resources", "create")
    named = ["--node-id", "pod", "--accelerator-type", "v5litepod-16", "--runtime-version", "v2-alpha-tpuv5-lite"]
    assert create[5:] == ["pod", *WHERE, *named, "--quiet", "--spot", "--network=n"]
    (scp,) = calls(stubs, "gcloud", "compute", "tpus", "tpu-vm", "scp")
    assert scp[6:] == ["pod:jaxalign.tar.gz", *WHERE, "--worker", "all"] and not Path(scp[5]).exists()
    assert (stubs.home / "pod" / "jaxalign" / "my config.py").exists() and (stubs.home / "pod" / "a mount").exists()
    assert [call[1:3] for call in calls(stubs, "uv")] == [["venv", "-q"], ["pip", "install"]]
    (train,) = calls(stubs, "python")
    assert train == ["python", "-m", "jaxalign.train", *TRAIN, "--coordinator", "auto", "--stopped-exit-code", "75"]


def test_a_run_that_was_pre_empted_starts_again_on_a_new_slice(stubs):
    ready = ["READY"]
    cloud(stubs, nodes=ready + ["READY", "PREEMPTED", "PREEMPTED", "", *ready], requests=("SUSPENDED", ""), codes=(75, 134, 0))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert len(calls(stubs, "python")) == 3
    assert "ended with 75, after a save or as it lost a process" in done.stderr and "the slice is gone (exit code 134)" in done.stderr
    queued = [call[4] for call in calls(stubs, "gcloud", "compute", "tpus", "queued-resources")]
    assert queued == ["describe", "delete", "describe", "create"]


def test_a_slice_that_somebody_gave_back_is_not_asked_for_again(stubs):
    cloud(stubs, nodes=("READY", ""), requests=("",), codes=(255,))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 1 and "its request is gone, as it was deleted; nothing is asked for anew" in done.stderr
    assert not calls(stubs, "gcloud", "compute", "tpus", "queued-resources", "create")


def test_a_request_that_is_deleted_while_it_waits_is_not_made_again(stubs):
    cloud(stubs, nodes=("",), requests=("WAITING_FOR_RESOURCES", ""))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 1 and "pod: WAITING_FOR_RESOURCES" in done.stderr and "its request is gone" in done.stderr
    assert not calls(stubs, "gcloud", "compute", "tpus", "queued-resources", "create")


def test_variables_reach_the_hosts_of_a_slice_and_the_end_says_what_still_costs(stubs):
    cloud(stubs)
    stubs.command("python", 'echo "$HF_TOKEN, $EMPTY"')
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--env", "HF_TOKEN=a b'c", "--env=EMPTY=", *TRAIN)
    assert done.returncode == 0 and "a b'c, \n" in done.stdout
    assert "the slice is still there: launch/tpu_pod.sh delete --name pod --zone us-east5-a --project p gives back" in done.stderr


def test_a_slice_of_which_gcloud_learns_nothing_is_not_gone(stubs):
    cloud(stubs, nodes=("lost", "READY", "lost", "READY"), codes=(3,))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 3 and "ended with exit code 3 and is not started again" in done.stderr
    assert done.stderr.count("pod: gcloud fails: ERROR: gcloud crashed (ConnectionError): no network; tries again in 0 s") == 2
    assert not calls(stubs, "gcloud", "compute", "tpus", "queued-resources")


@pytest.mark.parametrize(
    ("action", "nodes", "requests"),
    [
        ("run", ("lost",), ("",)), ("run", ("",), ("lost",)), ("run", ("READY", "lost"), ("",)),
        ("status", ("lost",), ("",)), ("status", ("",), ("lost",)),
    ],
)  # fmt: skip
def test_without_a_network_the_launcher_ends_with_the_words_of_gcloud_and_asks_for_nothing(stubs, action, nodes, requests):
    cloud(stubs, nodes=nodes, requests=requests, codes=(255,))
    done = stubs.run("tpu_pod.sh", action, *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 1 and done.stderr.endswith("\nERROR: gcloud crashed (ConnectionError): no network\n")
    assert "is gone" not in done.stderr and "request:" not in done.stderr
    assert not calls(stubs, "gcloud", "compute", "tpus", "queued-resources", "create")


def test_a_request_whose_answer_was_lost_is_not_made_twice(stubs):
    create = f"{stubs.answers('creations', 'reset', 'ALREADY_EXISTS')} >&2; exit 1"
    cloud(stubs, nodes=("", "READY"), requests=("",), create=create)
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == 0 and "gcloud fails: reset; tries again" in done.stderr


@pytest.mark.parametrize("code", [1, 2, 143])
def test_a_run_that_failed_on_a_slice_that_is_there_does_not_start_again(stubs, code):
    cloud(stubs, codes=(code,))
    done = stubs.run("tpu_pod.sh", "run", *TPU, *TRAIN)
    assert done.returncode == code and f"pod: ended with exit code {code} and is not started again" in done.stderr
    assert len(calls(stubs, "python")) == 1


def test_a_slice_that_vanishes_while_it_is_set_up_is_asked_for_again(stubs):
    scp = f"if [[ $({stubs.answers('copies', 'fails', 'works')}) == fails ]]; then exit 255; fi"
    cloud(stubs, nodes=("READY", "PREEMPTED", "READY"), scp=scp)
    done = stubs.run("tpu_pod.sh", "run", *TPU, *TRAIN)
    assert done.returncode == 0 and "the slice is gone (exit code 255)" in done.stderr
    assert len(calls(stubs, "python")) == 1


@pytest.mark.parametrize("own", [1, 255])
def test_a_host_that_was_out_of_reach_is_followed_again(stubs, own):
    scp = f"if [[ $({stubs.answers('copies', 'fails', 'works')}) == fails ]]; then exit {own}; fi"
    cloud(stubs, scp=scp)
    done = stubs.run("tpu_pod.sh", "run", *TPU, *TRAIN)
    assert done.returncode == 0 and f"pod: a host cannot be reached (exit code {own} of gcloud)" in done.stderr


@pytest.mark.parametrize("own", ["1", "255"])
@pytest.mark.parametrize("code", [0, 1, 3])
def test_what_a_run_ends_with_while_the_connection_is_lost_is_told_and_it_does_not_start_again(stubs, own, code):
    cloud(stubs, connections=(own, own, "there"), codes=(code,))
    done = stubs.run("tpu_pod.sh", "run", *TPU, *TRAIN)
    assert (done.returncode, done.stdout.count("step 1"), len(calls(stubs, "python"))) == (code, 1, 1)
    assert ("is not started again" in done.stderr) == bool(code)


def test_a_connection_that_stays_lost_ends_the_launcher_and_not_the_run(stubs):
    cloud(stubs, connections=("1",))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--restarts", "0", *TRAIN)
    assert done.returncode == 255 and "what runs there goes on, and the same command shows it again" in done.stderr
    assert len(calls(stubs, "python")) == 1


def test_an_install_that_fails_on_a_host_is_no_connection_that_is_lost(stubs):
    cloud(stubs)
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--prepare", "false", *TRAIN)
    assert done.returncode == 1 and "pod: ended with exit code 1 and is not started again" in done.stderr and not calls(stubs, "python")


@pytest.mark.parametrize("through", ["", "a link"])
def test_a_host_refuses_a_workdir_in_its_checkout_and_deletes_nothing(stubs, through):
    cloud(stubs)
    runs = stubs.home / "pod" / "jaxalign" / "runs"
    runs.mkdir(parents=True)
    if through:
        (stubs.home / through).symlink_to(runs)
    workdir = stubs.home / through if through else runs
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--config=a.py", "--workdir", f"{workdir}/a")
    assert done.returncode == 2 and f"--workdir {workdir}/a lies in the checkout on the hosts" in done.stderr
    assert runs.is_dir() and not calls(stubs, "python")


def test_restarts_have_an_end(stubs):
    cloud(stubs, codes=(75,))
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--restarts", "1", *TRAIN)
    assert done.returncode == 75 and "started again --restarts 1 times; the same command continues" in done.stderr
    assert len(calls(stubs, "python")) == 2


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"create": "echo 'no quota' >&2; exit 4", "nodes": ("",), "requests": ("",)}, 4, "no quota"),
        ({"scp": "echo 'no key' >&2; exit 5"}, 5, "no key"),
        ({"nodes": ("",), "requests": ("FAILED",)}, 1, "the request failed: gcloud compute tpus queued-resources describe pod"),
    ],
    ids=["create", "copy", "request"],
)
def test_what_gcloud_cannot_do_is_told_and_ends_the_launcher(stubs, fault, code, words):
    cloud(stubs, **fault)
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--type", "t", "--version", "v", *TRAIN)
    assert done.returncode == code and words in done.stderr and not calls(stubs, "python")


def test_a_slice_that_is_not_there_needs_its_type(stubs):
    cloud(stubs, nodes=("",), requests=("",))
    done = stubs.run("tpu_pod.sh", "run", *TPU, *TRAIN)
    assert done.returncode == 2 and "there is no slice pod in us-east5-a; --type and --version specify which to ask for" in done.stderr


def test_stop_status_and_delete_of_a_slice(stubs):
    cloud(stubs, codes=(0,))
    assert stubs.run("tpu_pod.sh", "status", *TPU).stderr == "pod: request: ACTIVE, slice: READY\n"
    assert stubs.run("tpu_pod.sh", "delete", *TPU).returncode == 0
    assert stubs.recorded()[-1] == ["gcloud", "compute", "tpus", "queued-resources", "delete", "pod", *WHERE, "--force", "--quiet"]
    (stubs.home / "pod").mkdir()
    (stubs.home / "pod" / "jaxalign").symlink_to(stubs.checkout)
    assert "nothing runs" in stubs.run("tpu_pod.sh", "stop", *TPU).stderr


def test_several_slices_are_one_request_and_all_their_hosts_start(stubs):
    nodes = ("", "", "READY", "CREATING", "READY")  # of the first and the second slice in turn
    cloud(stubs, nodes=nodes, requests=("", "ACTIVE"))
    kind = ["--slices", "2", "--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite"]
    done = stubs.run("tpu_pod.sh", "run", *TPU, *kind, *TRAIN, "--config.mesh.data=2")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("pod: ") and "--workdir" not in line]
    assert told[:3] == ["pod: asks for 2 x v5litepod-16 (none none)", "pod: ACTIVE (READY CREATING)", "pod: all slices are ready"]
    (create,) = calls(stubs, "gcloud", "compute", "tpus", "queued-resources", "create")
    several = ["--node-count", "2", "--node-prefix", "pod", "--accelerator-type", "v5litepod-16"]
    assert create[5:] == ["pod", *WHERE, *several, "--runtime-version", "v2-alpha-tpuv5-lite", "--quiet"]
    copies = calls(stubs, "gcloud", "compute", "tpus", "tpu-vm", "scp")
    assert sorted(call[6:] for call in copies) == [[f"pod-{number}:jaxalign.tar.gz", *WHERE, "--worker", "all"] for number in range(2)]
    assert [call for call in stubs.recorded() if call[1:4] == ["-m", "jaxalign.train", TRAIN[0]]] == [
        ["python", "-m", "jaxalign.train", *TRAIN, "--config.mesh.data=2", "--coordinator", "auto", "--stopped-exit-code", "75"]
    ] * 2
    assert sorted(done.stdout.splitlines())[-2:] == ["[1] step 1", "step 1"]


@pytest.mark.parametrize(
    ("codes", "connections", "code", "runs"),
    [(("1",), ("255", "there"), 1, 2), (("1",), ("1", "there"), 1, 2), (("75", "0"), ("there",), 0, 4), (("0",), ("255", "there"), 0, 2)],
)
def test_a_slice_that_fails_decides_how_the_run_of_several_goes_on(stubs, codes, connections, code, runs):
    cloud(stubs, codes=codes, connections=connections)
    done = stubs.run("tpu_pod.sh", "run", *TPU, "--slices=2", *TRAIN)
    assert done.returncode == code and len(calls(stubs, "python")) == runs


def test_what_shows_a_run_of_several_slices_ends_with_the_launcher_and_the_run_does_not(stubs):
    cloud(stubs)
    stubs.command("python", 'trap "exit 75" TERM; echo up; for i in {1..600}; do sleep 0.1; done')
    command = [str(stubs.checkout / "launch" / "tpu_pod.sh"), "run", *TPU, "--slices", "2", *TRAIN]
    with subprocess.Popen(command, env=stubs.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as launcher:
        shown = iter(launcher.stdout.readline, "")
        assert {next(line for line in shown if "up" in line) for _ in range(2)} == {"up\n", "[1] up\n"}
        launcher.terminate()
        assert launcher.stdout.read() == ""
    for number in range(2):
        folder = str(stubs.home / f"pod-{number}" / ".jaxalign" / "pod")
        assert stubs.run("on_host.sh", "running", folder).returncode == 0
        assert "asked to save and end" in stubs.run("on_host.sh", "stop", folder).stderr


def test_stop_status_and_delete_of_several_slices(stubs):
    cloud(stubs, nodes=("READY", "PREEMPTED"))
    several = [*TPU, "--slices", "2"]
    assert stubs.run("tpu_pod.sh", "status", *several).stderr == "pod: request: ACTIVE, slices: READY PREEMPTED\n"
    assert stubs.run("tpu_pod.sh", "delete", *several).returncode == 0
    assert stubs.recorded()[-1] == ["gcloud", "compute", "tpus", "queued-resources", "delete", "pod", *WHERE, "--force", "--quiet"]
    for number in range(2):
        (stubs.home / f"pod-{number}").mkdir()
        (stubs.home / f"pod-{number}" / "jaxalign").symlink_to(stubs.checkout)
    lines = stubs.run("tpu_pod.sh", "stop", *several).stderr.splitlines()
    assert len(lines) == 2 and all("nothing runs" in line for line in lines) and sum(line.startswith("[1] ") for line in lines) == 1


FIELDS = {  # of a JobSet and of what it contains, as far as gke.yaml uses them: field -> type, or the fields below it
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "annotations": None},
    "spec": {
        "failurePolicy": {"maxRestarts": int, "rules": [{"name": str, "action": str, "onJobFailureReasons": [str]}]},
        "replicatedJobs": [
            {
                "name": str,
                "replicas": int,
                "template": {
                    "spec": {
                        "completionMode": str,
                        "parallelism": int,
                        "completions": int,
                        "backoffLimit": int,
                        "podFailurePolicy": {
                            "rules": [
                                {
                                    "action": str,
                                    "onExitCodes": {"containerName": str, "operator": str, "values": [int]},
                                    "onPodConditions": [{"type": str}],
                                }
                            ]
                        },
                        "template": {
                            "spec": {
                                "restartPolicy": str,
                                "terminationGracePeriodSeconds": int,
                                "nodeSelector": None,
                                "containers": [
                                    {
                                        "name": str,
                                        "image": str,
                                        "command": [str],
                                        "args": [str],
                                        "env": [{"name": str, "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
                                        "ports": [{"containerPort": int}],
                                        "resources": {"requests": None, "limits": None},
                                        "volumeMounts": [{"name": str, "mountPath": str}],
                                    }
                                ],
                                "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
                            }
                        },
                    }
                },
            }
        ],
    },
}


def faults(value, fields, path=""):
    """Every place of a document that `fields` does not allow."""
    if isinstance(fields, dict):
        unknown = [f"{path}.{key} is unknown" for key in value if key not in fields]
        return unknown + [fault for key in value if key in fields for fault in faults(value[key], fields[key], f"{path}.{key}")]
    if isinstance(fields, list):
        return [fault for number, each in enumerate(value) for fault in faults(each, fields[0], f"{path}[{number}]")]
    return [] if fields is None or type(value) is fields else [f"{path} is {value!r}"]


def test_the_jobset_has_the_fields_of_one_and_they_agree():
    (document,) = yaml.safe_load_all((LAUNCH / "gke.yaml").read_text())
    assert faults(document, FIELDS) == []
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = document["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["parallelism"] == spec["completions"] and spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    chips = [int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")]
    assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips[0] * chips[1]
    assert (LAUNCH.parent / container["args"][1]).exists()
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # the code that the run ends with after a request to stop is the one that starts it again, and no other is
    code = int(container["args"][container["args"].index("--stopped-exit-code") + 1])
    exits, disrupted = spec["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [code]}
    assert disrupted["onPodConditions"] == [{"type": "DisruptionTarget"}] and spec["backoffLimit"] == 0
    (rule,) = document["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])


def test_the_variables_of_the_readme_for_gpus_are_those_that_are_read():
    block = re.search(r"```yaml\n(.*?)```", (LAUNCH / "README.md").read_text(), re.S).group(1)
    variables = {each["name"]: each.get("value", "jaxalign-slice-0-0.jaxalign") for each in yaml.safe_load(block)["env"]}
    found = processes.find("auto", None, None, variables | {"JOB_COMPLETION_INDEX": "3", "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found == processes.Processes("variables", "jaxalign-slice-0-0.jaxalign:8476", 4, 3)


def test_every_launcher_is_explained_and_can_be_executed():
    readme = (LAUNCH / "README.md").read_text()
    for script in (path for path in SCRIPTS if path.name != "shared.sh"):
        assert os.access(script, os.X_OK) and script.name in readme
        assert script.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert "gke.yaml" in readme
