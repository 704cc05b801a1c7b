"""Batches of the bundled model for the tests: running them, what they answer, and what they leave.
Part of cli_test.py."""

import contextlib
import json
import os
import pathlib
import signal
import struct
import subprocess

from program import PROGRAM, CliTest, environment

SMALL = ["-W", "32", "-H", "32", "--steps", "1", "--device", "cpu"]
# Of these, an interrupted run has done something and not all.
SLOW = ["-W", "64", "-H", "64", "--steps", "30", "--device", "cpu"]


def json_lines(data):
    return [json.loads(line) for line in data.splitlines()]


def of(events, name):
    return [event for event in events if event["event"] == name]


def pixels(png):
    """All chunks of a PNG but the texts."""
    at, result = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind not in (b"iTXt", b"tEXt", b"zTXt"):
            result.append(png[at : at + 12 + length])
        at += 12 + length
    return result


class BatchTest(CliTest):
    def write(self, name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (self.folder / name).write_bytes(data)
        return name

    def batch(self, *arguments, code=0, **options):
        """Answers, and what was said on standard error."""
        done = self.run_program("batch", *arguments, **options)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, code, error)
        self.assertNotIn("internal", error)
        return json_lines(done.stdout), error

    def refuse(self, code, *arguments, says=(), **options):
        """Nothing is touched, no folder is made, and one line says why."""
        before = self.everything()
        self.fail_with(code, "batch", *arguments, says=says, **options)
        self.assertEqual(self.everything(), before)

    def everything(self):
        """All files and folders below the test's: {name: what a change would change}."""
        result = {}
        for path in self.folder.rglob("*"):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            result[str(path.relative_to(self.folder))] = (content, info.st_mtime_ns, info.st_ino)
        return result

    def pictures(self, folder="out"):
        """{name: bytes} of all that a folder holds but the journal, hidden files too."""
        root = self.folder / folder
        return {str(path.relative_to(root)): path.read_bytes()
                for path in root.rglob("*") if path.is_file() and path.name != "journal.jsonl"}

    def journal(self, folder="out"):
        return json_lines((self.folder / folder / "journal.jsonl").read_bytes())

    def events(self, name="events.jsonl"):
        return json_lines((self.folder / name).read_bytes())

    def generated(self, arguments_of):
        """What `generate` makes: {name: arguments} -> {name: bytes}."""
        result = {}
        for number, (name, arguments) in enumerate(arguments_of.items()):
            suffix = pathlib.Path(name).suffix
            picture = self.folder / f"generated-{number}{suffix}"
            self.succeed(*arguments, "-q", "-o", picture)
            result[name] = picture.read_bytes()
            picture.unlink()
        return result

    @contextlib.contextmanager
    def running(self, *arguments, **options):
        """A batch under way, and its events as a stream; killed at the end if it is still there."""
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [PROGRAM, "batch", *map(str, arguments), "--events", f"fd:{writer}"], cwd=self.folder,
            env=environment(), pass_fds=[writer], stderr=subprocess.PIPE, **options)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            try:
                yield process, stream
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait(60)
                for pipe in [process.stdin, process.stdout, process.stderr]:
                    if pipe and not pipe.closed:
                        pipe.close()

    def wait_for(self, stream, matches):
        """The first event that does; events end with the process."""
        for line in stream:
            event = json.loads(line)
            if matches(event):
                return event
        self.fail("the batch ended before what was waited for")

    def check_goes_on_after_a_kill(self, *options, step, folder="out", temporaries=1):
        """A batch that is killed behind this step of denoising leaves so many temporaries at least;
        run again, it goes on there, to the bytes of a batch that nobody disturbed."""
        self.batch(*options, "-o", f"{folder}-whole", "--events", f"{folder}-whole.jsonl")
        checkpoints = [*options, "--checkpoint-every", "1", "-o", folder]

        def in_denoise(event, least=0):
            return (event["event"] == "step" and event["phase"] == "denoise"
                    and event["step"] >= least)
        with self.running(*checkpoints) as (process, stream):
            self.wait_for(stream, lambda event: in_denoise(event, step))
            process.send_signal(signal.SIGKILL)
        self.assertGreaterEqual(self.count_temporaries(folder), temporaries)
        self.batch(*checkpoints, "--events", f"{folder}.jsonl")
        first = next(e["step"] for e in self.events(f"{folder}.jsonl") if in_denoise(e))
        self.assertGreaterEqual(first, step)
        self.assertEqual(self.pictures(folder), self.pictures(f"{folder}-whole"))

    def count_temporaries(self, folder="out"):
        return sum(name.startswith(".") for name in self.pictures(folder))
