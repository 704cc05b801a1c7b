"""kill -9 at random moments of a batch, which is started anew until it ends by itself: every
picture is there once and is that of an undisturbed run, nothing else is left, and nothing was made
again after the journal said that it is done. In some batches one of two processes is killed.
Usage: batch_kill.py PROGRAM MODEL_FOLDER [--kills 200] [--seed N] [--keep]"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

# What batches take turns in. With checkpoints, more steps: there is more to be saved.
VARIANTS = [[], ["--chunk-size", "4"], ["--order", "prompt"],
            ["--chunk-size", "7", "--checkpoint-every", "1"], ["--chunk-size", "5", "--no-cache"]]
PAIR_EVERY = 4  # batches
COMMON = ["-W", "32", "-H", "32", "--steps", "2", "--device", "cpu", "--threads", "1", "-q"]


def prompts():
    """Thirty; several pictures of one, other names, JPEG (which records nothing), subfolders."""
    lines = [f"prompt number {i}" for i in range(30)]
    lines[3] = '{"prompt": "three of it", "n": 3}'
    lines[7] = '{"prompt": "a photograph", "output": "seven.jpg"}'
    lines[11] = '{"prompt": "below", "output": "sub/folder/below.png", "steps": 4}'
    lines[19] = '{"prompt": "prompt number 2", "seed": 5}'
    lines[23] = '{"prompt": "another photograph", "output": "sub/23.jpeg", "width": 48}'
    return "\n".join(lines) + "\n"


class Killer:
    def __init__(self, options, root):
        self.program, self.model = (str(pathlib.Path(p).resolve())
                                    for p in (options.program, options.model))
        self.random = random.Random(options.seed)
        self.root = root
        self.prompts = root / "prompts.txt"
        self.prompts.write_text(prompts())
        self.moments = collections.Counter()  # what was killed: phases, and what it left
        self.left = collections.Counter()
        self.kills = self.runs = self.batches = self.pairs = self.events_files = 0
        self.whole = {}
        self.length = 0.0

    # Running

    def start(self, folder, cache, variant):
        self.runs += 1
        self.events_files += 1
        events = self.root / f"events-{self.events_files}.jsonl"
        environment = dict(os.environ, STEADYFLUX_CACHE=str(cache))
        process = subprocess.Popen(
            [self.program, "batch", str(self.prompts), *COMMON, "-m", self.model, "-o", str(folder),
             *variant, "--events", str(events)], env=environment, stderr=subprocess.PIPE)
        return process, events

    def finish(self, process, events, expected=0):
        """The end of a run that nobody kills."""
        error = process.communicate(timeout=300)[1].decode()
        if process.returncode != expected:
            raise AssertionError(f"exit code {process.returncode}: {error}")
        events.unlink(missing_ok=True)

    def undisturbed(self):
        """The pictures, and how long it takes from an empty cache."""
        for attempt in range(2):  # the first one has the files read from the disk
            folder, cache = self.root / f"whole-{attempt}", self.root / f"cache-{attempt}"
            begin = time.monotonic()
            self.finish(*self.start(folder, cache, VARIANTS[0]))
            self.length = time.monotonic() - begin
            self.whole = self.pictures(folder)
            shutil.rmtree(folder)
            shutil.rmtree(cache)
        visible = [name for name in self.whole if self.is_picture(name)]
        assert len(visible) == len(self.whole) == 32, sorted(self.whole)

    # What is there

    @staticmethod
    def pictures(folder):
        return {str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"}

    @staticmethod
    def is_picture(name):
        return not pathlib.PurePath(name).name.startswith(".")

    def check_whole(self, folder):
        """In the middle: what has the name of a picture is that picture."""
        found = {n: data for n, data in self.pictures(folder).items() if self.is_picture(n)}
        for name, data in found.items():
            assert data == self.whole.get(name), f"{name} is not that of an undisturbed run"
        return found

    def check_end(self, folder):
        found = self.pictures(folder)
        assert sorted(found) == sorted(self.whole), (
            f"missing: {sorted(set(self.whole) - set(found))}, "
            f"too much: {sorted(set(found) - set(self.whole))}")
        self.check_whole(folder)
        settings = {}  # of what is done, by output
        done = collections.Counter()
        text = (folder / "journal.jsonl").read_bytes()
        assert text.endswith(b"\n")
        for line in text.splitlines():
            entry = json.loads(line)
            output = entry["output"]
            assert output not in settings, f"{output}: '{entry['event']}' after it was done"
            assert entry["event"] in ("started", "done"), line
            if entry["event"] == "done":
                settings[output] = entry["settings"]
                done[output] += 1
        self.left["pictures whose 'done' line was lost"] += len(self.whole) - len(done)

    def note_kill(self, folder, events):
        self.kills += 1
        lines = events.read_bytes().split(b"\n") if events.exists() else [b""]
        seen = [json.loads(line) for line in lines[:-1]]
        last = seen[-1]["event"] if seen else ""
        if last in ("phase_started", "step"):
            moment = seen[-1]["phase"]
        else:
            moment = {"": "before the first event", "picture": "decode",
                      "memory_released": "between chunks", "finished": "at the end",
                      "phase_finished": "between phases"}.get(last, "planning")
        self.moments[moment] += 1
        events.unlink(missing_ok=True)
        if not folder.exists():
            self.left["no folder"] += 1
            return
        shown = self.check_whole(folder)
        hidden = [name for name in self.pictures(folder) if not self.is_picture(name)]
        self.left["hidden files"] += any(name.endswith(".tmp") for name in hidden)
        self.left["saved latents"] += any(name.endswith(".latents") for name in hidden)
        journal = folder / "journal.jsonl"
        text = journal.read_bytes() if journal.exists() else b""
        self.left["half a journal line"] += not text.endswith(b"\n") and len(text) > 0
        done = {json.loads(line)["output"] for line in text.split(b"\n")[:-1]
                if b'"event":"done"' in line}
        self.left["a picture without its journal line"] += bool(set(shown) - done)
        self.left["some pictures, not all"] += 0 < len(shown) < len(self.whole)

    # Batches

    def ends(self, process):
        """Whether it does so in a random time."""
        try:
            process.wait(self.random.uniform(0, 1.05 * self.length))
            return True
        except subprocess.TimeoutExpired:
            return False

    def one_batch(self, folder, cache, variant, most):
        """Kills the process, up to `most` times, until one ends before it is killed."""
        is_first = True
        while True:
            begin = time.monotonic()
            process, events = self.start(folder, cache, variant)
            if most == 0:
                return self.finish(process, events)
            if self.ends(process):
                if is_first:  # the machine has become faster
                    self.length = time.monotonic() - begin
                return self.finish(process, events)
            is_first = False
            process.kill()
            process.communicate()
            if process.returncode != -9:  # it ended in that moment
                return self.finish(process, events)
            self.note_kill(folder, events)
            most -= 1

    def pair(self, folder, cache, variant):
        """Of two processes at work one is killed; the other does all that is left."""
        self.pairs += 1
        runs = [self.start(folder, cache, variant) for _ in range(2)]
        victim, survivor = self.random.sample(runs, 2)
        self.ends(victim[0])
        victim[0].kill()
        victim[0].communicate()
        if victim[0].returncode == -9:
            self.note_kill(folder, victim[1])
        self.finish(*survivor)
        missing = set(self.whole) - set(self.check_whole(folder))
        assert not missing, f"the survivor left out {sorted(missing)}"
        journal = (folder / "journal.jsonl").read_bytes()
        self.finish(*self.start(folder, cache, variant))
        made = (folder / "journal.jsonl").read_bytes()
        assert made == journal, f"made once more: {made[len(journal):]}"

    def run(self, kills):
        self.undisturbed()
        while self.kills < kills:
            variant = VARIANTS[self.batches % len(VARIANTS)]
            folder, cache = self.root / f"batch-{self.batches}", self.root / "cache"
            try:
                if self.batches % PAIR_EVERY == PAIR_EVERY - 1:
                    self.pair(folder, cache, variant)
                else:
                    self.one_batch(folder, cache, variant, kills - self.kills)
                self.check_end(folder)
            except AssertionError as error:
                raise AssertionError(f"batch {self.batches} {variant}, {folder}: {error}") from None
            self.batches += 1
            shutil.rmtree(folder)
            shutil.rmtree(cache, ignore_errors=True)

    def report(self):
        print(f"{self.kills} kills in {self.batches} batches, {self.pairs} of them by two "
              f"processes; an undisturbed run takes {self.length:.2f} s")
        for title, counts in [("killed in", self.moments), ("kills that left", self.left)]:
            print(f"{title}: " + "; ".join(f"{n} {name}" for name, n in counts.most_common() if n))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="the folder, if something is wrong")
    options = parser.parse_args()
    root = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-kill-"))
    killer = Killer(options, root)
    try:
        killer.run(options.kills)
    except AssertionError:
        killer.report()
        if options.keep:
            print(f"kept: {root}", file=sys.stderr)
            root = None
        raise
    finally:
        if root:
            shutil.rmtree(root)
    killer.report()
    # A test whose kills all come too early, or too late, tests nothing.
    assert killer.moments["denoise"] > 0 or options.kills < 10, "no kill while denoising"


if __name__ == "__main__":
    main()
