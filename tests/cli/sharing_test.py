"""Several processes that work through one prompt file: under torchrun, SLURM's and MPI's variables,
with --rendezvous, and by file locks alone; some of them are killed in the middle. Afterwards every
picture is there once, with the bytes that one undisturbed process gives it.

Usage: sharing_test.py PROGRAM MODEL_FOLDER [--prompts 40] [--only WORD] [--require-torch]
The cases with torchrun and with a store in Python want a Python that can import torch: that of
$STEADYFLUX_TORCH_PYTHON, of .venv, or the one on the PATH. Without it they are skipped (with
--require-torch: fail); imitations, whose store rank 0 or the first process runs, always go."""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = ["-W", "32", "-H", "32", "--steps", "1", "--device", "cpu", "--threads", "1"]
# Long enough for another process to come while it lasts.
LONG = ["-W", "64", "-H", "64", "--steps", "40", "--device", "cpu", "--threads", "1"]
THINGS = ["apple", "panda", "rocket", "castle", "pizza", "owl", "tree", "star", "dog", "car",
          "house", "fish", "rose", "moon", "bus", "bear", "crab", "bell", "key", "tent"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "gray"]
# The lease of a dead process lasts 30 s; the rest is for a machine that does other things too.
PATIENCE = 240
STORE = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(10**6)
"""


class Skipped(Exception):
    pass


def check(condition, *shown):
    if not condition:
        raise AssertionError(" ".join(str(part) for part in shown))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, seconds=60):
    until = time.monotonic() + seconds
    while not (result := condition()):
        check(time.monotonic() < until, "waited in vain until", what)
        time.sleep(0.002)
    return result


def find_torch_python():
    top = pathlib.Path(__file__).resolve().parents[2]
    for python in [os.environ.get("STEADYFLUX_TORCH_PYTHON"), str(top / ".venv/bin/python"),
                   shutil.which("python3")]:
        if python and subprocess.run([python, "-c", "from torch.distributed import TCPStore"],
                                     capture_output=True).returncode == 0:
            return python
    return None


class Case:
    """A folder with a prompt file, and the processes that were started in it."""

    def __init__(self, program, model, torch_python, reference, prompts):
        self.program, self.torch_python = program, torch_python
        self.reference, self.prompts = reference, prompts
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-sharing-"))
        (self.folder / "prompts.txt").write_text("\n".join(prompts) + "\n")
        self.output = self.folder / "pictures"
        self.processes = []
        launchers = ("SLURM", "OMPI", "PMI", "MPI", "MASTER_", "TORCHELASTIC", "RANK", "WORLD_SIZE")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(launchers)}
        self.environment.update(STEADYFLUX_MODEL=model, STEADYFLUX_CACHE=str(self.folder / "cache"),
                                OMP_WAIT_POLICY="passive")

    def command(self, *options, prompts="prompts.txt", settings=SMALL):
        return [self.program, "batch", prompts, "-o", "pictures", *settings, *options]

    def start(self, command, **variables):
        log = tempfile.TemporaryFile(dir=self.folder)
        process = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=log,
                                   env={**self.environment, **variables})
        process.log = log
        self.processes.append(process)
        return process

    def said(self, process):
        """Without the lines for finished pictures."""
        process.log.seek(0)
        lines = process.log.read().decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not re.match(r"\[\d+/\d+\] ", line))

    def finish(self, *processes, code=0):
        for process in processes:
            process.wait(PATIENCE)
            check(process.returncode == code, f"exit code {process.returncode}, not {code}:",
                  self.said(process))

    def clear(self):
        for process in self.processes:
            if process.poll() is None:
                for pid in children(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.kill()
            process.wait()
            process.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def journal(self):
        """Its complete lines."""
        with contextlib.suppress(FileNotFoundError):
            data = (self.output / "journal.jsonl").read_bytes()
            return [json.loads(line) for line in data.split(b"\n")[:-1]]
        return []

    def makers(self):
        """How many pictures each process has finished."""
        return collections.Counter(e["pid"] for e in self.journal() if e["event"] == "done")

    def kill_one(self, spared=()):
        """One that has just finished the first of the pictures that it took."""
        pid = wait_until(lambda: next((p for p in self.makers() if p not in spared), None),
                         "a process has made a picture")
        os.kill(pid, signal.SIGKILL)
        left = len(self.prompts) - self.makers().total()
        check(left > 1, "it was killed too late to be of use")
        return pid

    def check_pictures(self, killed=0):
        names = sorted(p.name for p in self.output.iterdir())
        check(names == sorted([*self.reference, "journal.jsonl"]), "what is there:", names)
        for name, data in self.reference.items():
            check((self.output / name).read_bytes() == data, name, "is not that of one process")
        done = collections.Counter(e["output"] for e in self.journal() if e["event"] == "done")
        twice = [name for name, times in done.items() if times > 1]
        check(not twice, "made more than once:", twice)
        # A process may die between a picture and its line.
        check(len(done) >= len(self.reference) - killed, "only", len(done), "lines in the journal")

    def shares(self):
        return "pictures by process: " + " + ".join(str(n) for n in self.makers().values())


def children(pid):
    with contextlib.suppress(OSError):
        return [int(child) for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()]
    return []


def has_socket(process):
    """It has come as far as to call the others."""
    with contextlib.suppress(FileNotFoundError):  # a file that was closed meanwhile
        return any(os.readlink(file).startswith("socket:")
                   for file in pathlib.Path(f"/proc/{process.pid}/fd").iterdir())
    return False


def torchrun(case):
    """torchrun starts all of them again when one was killed; they go on by the journal."""
    if not case.torch_python:
        raise Skipped("no Python that can import torch")
    agent = case.start([case.torch_python, "-m", "torch.distributed.run", "--no-python",
                        "--nproc-per-node", "4", "--max-restarts=3", "--master-port",
                        str(free_port()), *case.command()])
    killed = case.kill_one()
    first_group = set(case.makers()) | set(children(agent.pid))
    check(killed in first_group)
    case.finish(agent)
    case.check_pictures(killed=1)
    new = set(case.makers()) - first_group
    check(new, "nothing was made after the restart")
    return case.shares()


def group(case, port, restart):
    """Four processes with torchrun's variables, where no agent has a store."""
    return [case.start(case.command(), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="4",
                       LOCAL_WORLD_SIZE="4", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                       TORCHELASTIC_RUN_ID="test", TORCHELASTIC_RESTART_COUNT=str(restart))
            for rank in range(4)]


def group_restarted(case):
    """As torchrun does it, with rank 0's own store: SIGTERM to all others, and then again."""
    workers = group(case, free_port(), restart=0)
    killed = case.kill_one()
    for worker in workers:
        if worker.pid != killed:
            worker.terminate()
    for worker in workers:
        code = worker.wait(PATIENCE)
        # 0: it had come to its end; 5: rank 0 and its store had gone before it.
        allowed = [-signal.SIGKILL] if worker.pid == killed else [143, -signal.SIGTERM, 0, 5]
        check(code in allowed, f"exit code {code}:", case.said(worker))
    case.finish(*group(case, free_port(), restart=1))
    case.check_pictures(killed=1)
    return case.shares()


def killed_beside_a_store(case):
    """The store is elsewhere; the lease of the killed one runs out, and others make what it had."""
    if not case.torch_python:
        raise Skipped("no Python that can import torch")
    store = subprocess.Popen([case.torch_python, "-c", STORE], stdout=subprocess.PIPE, text=True)
    try:
        meeting = f"127.0.0.1:{int(store.stdout.readline())}"
        workers = [case.start(case.command("--rendezvous", meeting)) for _ in range(4)]
        return outlive_one(case, workers)
    finally:
        store.kill()
        store.wait()
        store.stdout.close()


def killed_beside_its_peers(case):
    """The same where the first of them runs the store, and another one is killed."""
    port = free_port()
    options = ["--rendezvous", f"127.0.0.1:{port}"]
    host = case.start(case.command(*options))

    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    wait_until(listens, "the first process listens")
    host.send_signal(signal.SIGSTOP)  # or it might be done before the others come
    workers = [case.start(case.command(*options)) for _ in range(3)]
    wait_until(lambda: all(map(has_socket, workers)), "the others have called", seconds=8)
    host.send_signal(signal.SIGCONT)
    return outlive_one(case, [host, *workers], spared=[host.pid])


def outlive_one(case, workers, spared=()):
    killed = case.kill_one(spared)
    at = time.monotonic()
    case.finish(*(w for w in workers if w.pid != killed))
    case.finish(*(w for w in workers if w.pid == killed), code=-signal.SIGKILL)
    case.check_pictures(killed=1)
    return f"{case.shares()}; done {time.monotonic() - at:.0f} s after one was killed"


def file_locks(case):
    """Nobody told them of each other: what one has claimed, the other leaves and waits for."""
    first = case.start(case.command("--chunk-size", "4"))
    wait_until(lambda: case.makers()[first.pid], "the first one made a picture")
    second = None
    while second is None or not case.makers()[second.pid]:
        # Stopped in the middle of a chunk, but not while it holds the lock for appending.
        first.send_signal(signal.SIGSTOP)
        check(len(case.makers()) == 1, "the first one ended before the second began")
        second = second or case.start(case.command("--chunk-size", "4"))
        with contextlib.suppress(AssertionError):
            wait_until(lambda: case.makers()[second.pid], "the second made a picture", seconds=5)
        if not case.makers()[second.pid]:
            first.send_signal(signal.SIGCONT)
            time.sleep(0.005)
    first.send_signal(signal.SIGCONT)
    case.finish(first, second)
    case.check_pictures()
    check(len(case.makers()) == 2)
    return case.shares()


def other_prompts(case):
    """A process that would work on something else is refused, and the others go on."""
    meeting = ["--rendezvous", f"127.0.0.1:{free_port()}"]
    first = case.start(case.command(*meeting, "--chunk-size", "1", settings=LONG))
    wait_until(case.makers, "the first one has made a picture")
    (case.folder / "others.txt").write_text("a train\n" * 2)
    for command in [case.command(*meeting, prompts="others.txt", settings=LONG),
                    case.command(*meeting, "--seed", "7", settings=LONG)]:
        command[command.index("pictures")] = "elsewhere"
        late = case.start(command)
        case.finish(late, code=2)
        said = case.said(late)
        check("other prompts or settings" in said and said.count("\n") == 1, said)
        check(first.poll() is None, "the first one had ended:", case.said(first))
    check([p.name for p in (case.folder / "elsewhere").iterdir()] == ["journal.jsonl"])
    first.send_signal(signal.SIGTERM)
    case.finish(first, code=143)
    return ""


def launched(case, *variables):
    """One process for each dictionary of variables, with a folder of its own: what one makes, the
    others can only know from the store."""
    workers = []
    for number, each in enumerate(variables):
        command = case.command("--chunk-size", "1")
        command[command.index("pictures")] = f"pictures-{number}"
        workers.append(case.start(command, **each))
    case.finish(*workers)
    case.output.mkdir()
    journals = []
    for folder in sorted(case.folder.glob("pictures-*")):
        journals.append((folder / "journal.jsonl").read_bytes())
        for picture in folder.glob("*.png"):
            check(not (case.output / picture.name).exists(), picture.name, "was made by both")
            picture.rename(case.output / picture.name)
    (case.output / "journal.jsonl").write_bytes(b"".join(journals))
    case.check_pictures()
    return case.shares()


def slurm(case):
    """srun -n 2: they meet on the first node, at a port that follows from job and step."""
    job = str(uuid.uuid4().int % 10**9)
    return launched(case, *(dict(SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_NTASKS="2",
                                 SLURM_STEP_NUM_TASKS="2", SLURM_JOB_ID=job, SLURM_STEP_ID="0",
                                 SLURM_STEP_NODELIST="localhost") for rank in "01"))


def open_mpi(case):
    job = uuid.uuid4().hex
    return launched(case, *(dict(OMPI_COMM_WORLD_RANK=rank, OMPI_COMM_WORLD_SIZE="2",
                                 OMPI_COMM_WORLD_LOCAL_RANK=rank, OMPI_COMM_WORLD_LOCAL_SIZE="2",
                                 PMIX_NAMESPACE=job) for rank in "01"))


def mpich(case):
    job = uuid.uuid4().hex
    return launched(case, *(dict(PMI_RANK=rank, PMI_SIZE="2", MPI_LOCALRANKID=rank,
                                 MPI_LOCALNRANKS="2", PMI_JOBID=job) for rank in "01"))


# The slow ones, which mostly wait for a lease, first.
CASES = [killed_beside_a_store, killed_beside_its_peers, torchrun, group_restarted, file_locks,
         other_prompts, slurm, open_mpi, mpich]


def make_reference(program, model, prompts):
    """What one undisturbed process makes: name -> bytes."""
    case = Case(program, model, None, {}, prompts)
    try:
        case.finish(case.start(case.command()))
        pictures = {p.name: p.read_bytes() for p in case.output.glob("*.png")}
    finally:
        case.clear()
    check(len(pictures) == len(prompts) == len(set(pictures.values())), len(pictures), "pictures")
    check(all(data.startswith(PNG) for data in pictures.values()))
    return pictures


def run_case(function, *arguments):
    case = Case(*arguments)
    begin = time.monotonic()
    try:
        said = function(case)
        return f"ok, {time.monotonic() - begin:.0f} s" + (f"; {said}" if said else "")
    except Skipped as reason:
        return f"skipped: {reason}"
    except Exception as error:  # the other cases go on
        logs = [case.said(p)[-2000:] for p in case.processes]
        return f"FAILED: {error!r}\n" + "\n".join(f"--- {log}" for log in logs if log)
    finally:
        case.clear()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--only", metavar="WORD", action="append", default=[])
    parser.add_argument("--require-torch", action="store_true")
    options = parser.parse_args()
    check(options.prompts <= len(THINGS) * len(COLOURS), "too many prompts")
    prompts = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS][:options.prompts]
    cases = [c for c in CASES
             if not options.only or any(word in c.__name__ for word in options.only)]

    program, model = str(options.program.resolve()), str(options.model.resolve())
    torch_python = find_torch_python()
    reference = make_reference(program, model, prompts)
    failed = skipped = 0
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        runs = {pool.submit(run_case, c, program, model, torch_python, reference, prompts):
                c.__name__ for c in cases}
        for run in concurrent.futures.as_completed(runs):
            result = run.result()
            print(f"{runs[run]}: {result}", flush=True)
            failed += result.startswith("FAILED")
            skipped += result.startswith("skipped")
    print(f"{len(cases)} cases, {len(prompts)} prompts each: {failed} failed, {skipped} skipped")
    return 1 if failed or (skipped and options.require_torch) or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
