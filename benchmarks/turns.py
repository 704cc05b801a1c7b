"""Benchmarks that take turns, so that both meet the same machine: each makes a run for every line of
its standard input, and answers with the seconds taken. turns.h is this for C++."""
import json
import subprocess
import sys
import tempfile
import time


def timed_runs(repeats, run):
    """Seconds of `repeats` runs, or of one for each line of standard input where that is 0. `run` has
    run before, to warm up."""
    def seconds():
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    if repeats > 0:
        return [seconds() for _ in range(repeats)]
    print("ready", flush=True)
    times = []
    for _ in sys.stdin:
        times.append(seconds())
        print(times[-1], flush=True)
    return times


class Player:
    """The other end: a process that is ready for its turns."""

    def __init__(self, command):
        self.command = [str(part) for part in command]
        self.messages = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, text=True,
                                        stdout=subprocess.PIPE, stderr=self.messages)
        self._next(lambda line: line == "ready" or None)

    def turn(self):
        """Seconds of one run."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._next(float)

    def end(self):
        """What it says at the end, as JSON."""
        self.process.stdin.close()
        lines = self.process.stdout.read().strip().splitlines()
        if self.process.wait() != 0 or not lines:
            self._fail()
        return json.loads(lines[-1])

    def _next(self, read):
        """What `read` makes of the first line that it takes; libraries may print others."""
        for line in self.process.stdout:
            try:
                if (value := read(line.strip())) is not None:
                    return value
            except ValueError:
                continue
        self._fail()

    def _fail(self):
        self.process.kill()
        self.messages.seek(0)
        sys.exit(f"{' '.join(self.command)}: {self.messages.read().strip()[-500:]}")


def play(ours, theirs, rounds):
    """Two commands -> pairs of seconds, and what each said at the end. Who begins changes."""
    players = Player(ours), Player(theirs)
    pairs = []
    for i in range(rounds):
        order = (0, 1) if i % 2 == 0 else (1, 0)
        taken = {side: players[side].turn() for side in order}
        pairs.append((taken[0], taken[1]))
    return pairs, [player.end() for player in players]
