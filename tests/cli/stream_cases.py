"""steadyflux batch -: prompts that come in by a pipe, each answered by a JSON line; and pipes that
are closed, slow, or full of what is no prompt. Part of cli_test.py."""

import json
import os
import select
import signal
import subprocess
import time

from batch_program import SLOW, SMALL, BatchTest, json_lines, of
from program import PROGRAM, environment

MIB = 1 << 20


class StreamTest(BatchTest):
    def stream(self, data, *options, code=0):
        """The answers to all of it, and what was said."""
        data = data if isinstance(data, bytes) else data.encode()
        return self.batch("-", *SMALL, *options, stdin=data, code=code)

    def start(self, *options, **changes):
        process = subprocess.Popen(
            [PROGRAM, "batch", "-", *SMALL, *options], cwd=self.folder, env=environment(),
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
               **changes})
        self.addCleanup(self.stop, process)
        return process

    def stop(self, process):
        if process.poll() is None:
            process.kill()
        process.wait(60)
        for pipe in [process.stdin, process.stdout, process.stderr]:
            if pipe:
                pipe.close()

    def answer(self, process):
        """The next line, which has to come although the stream stays open."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([process.stdout], [], [], 60)
            self.assertTrue(ready, "no answer")
            byte = os.read(process.stdout.fileno(), 1)
            self.assertTrue(byte, process.stderr.read() if process.poll() else "closed")
            line += byte
        return json.loads(line)

    def say(self, process, line):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()

    # Answers

    def test_answers_come_while_the_stream_is_open(self):
        process = self.start()
        lines = ["a red apple", '{"prompt": "x", "seed": 3, "n": 2}', "last"]
        for number, line in enumerate(lines):
            self.say(process, line)
            count = 2 if number == 1 else 1
            for _ in range(count):
                answer = self.answer(process)
                self.assertEqual(answer["line"], number + 1)
                # What is answered is there.
                self.assertTrue((self.folder / answer["output"]).is_file(), answer)
        self.say(process, '{"prompt":')
        self.assertEqual(self.answer(process)["line"], 4)
        process.stdin.close()
        self.assertEqual(process.wait(60), 3)  # a line was bad
        self.assertEqual(process.stdout.read(), b"")

    def test_pictures_are_those_of_generate(self):
        answers, _ = self.stream('# no prompt\n\na red apple\r\n{"prompt": "x", "seed": 3}\nz')
        self.assertEqual([(a["index"], a["line"], a["prompt"], a["seed"]) for a in answers],
                         [(0, 3, "a red apple", 0), (1, 4, "x", 3), (2, 5, "z", 0)])
        self.assertEqual(self.pictures(), self.generated({
            "0001.png": ["a red apple", *SMALL], "0002.png": ["x", *SMALL, "-s", "3"],
            "0003.png": ["z", *SMALL]}))
        # Again: answered, not made.
        before = self.everything()
        again, _ = self.stream('# no prompt\n\na red apple\r\n{"prompt": "x", "seed": 3}\nz')
        self.assertTrue(all(a["skipped"] for a in again))
        self.assertEqual(self.everything(), before)

    def test_streams_without_prompts(self):
        for data in ["", "\n\n\n", "# nothing\n", "\ufeff"]:
            with self.subTest(data):
                self.assertEqual(self.stream(data)[0], [])
        process = self.start(stdin=subprocess.DEVNULL)
        self.assertEqual(process.communicate(timeout=60)[0], b"")
        self.assertEqual(process.returncode, 0)
        # No stream at all is a mistake of the caller's.
        closed = self.start(stdin=None, preexec_fn=lambda: os.close(0))
        out, error = closed.communicate(timeout=60)
        self.assertEqual((closed.returncode, out), (5, b""), error)
        self.assertIn(b"standard input", error)

    def test_names_and_settings_that_are_taken(self):
        self.stream("one\n")
        answers, error = self.stream('other\nmore\n{"prompt": "x", "output": "0002.png"}\n'
                                     '{"prompt": "x", "output": "../x.png"}\n', code=3)
        errors = {a["line"]: a for a in answers if "error" in a}
        self.assertEqual(sorted(errors), [1, 3, 4])
        self.assertEqual([errors[line]["exit_code"] for line in (1, 3, 4)], [2, 3, 3])
        self.assertEqual([a["line"] for a in answers if "error" not in a], [2])

    # What is no prompt

    def test_bad_lines_are_answered_and_the_next_ones_made(self):
        lines = [b"one", b"\xff\xfe", b"nul \0 byte", b"", b'{"prompt": ',
                 b'{"prompt": "x", "y": 1}', b'{"prompt": "x", "width": 33}',
                 b'{"prompt": "\\u0000"}', b"[]", b"\x1b[31m\xc3\xa9"]
        for options in [[], ["--chunk-size", "1"], ["--order", "prompt"]]:
            with self.subTest(options):
                answers, error = self.stream(b"\n".join(lines), *options, "-o",
                                             "out" + "".join(options), code=3)
                errors = [a for a in answers if "error" in a]
                self.assertEqual(sorted(a["line"] for a in errors), [2, 3, 5, 6, 7, 8])
                self.assertEqual({a["exit_code"] for a in errors}, {3})
                self.assertEqual([a["line"] for a in answers if "error" not in a], [1, 9, 10])
                self.assertNotIn("\x1b", error)
        with_errors, _ = self.stream(b"\n".join(lines), "--keep-going", "-o", "kept", code=6)
        self.assertEqual(len(with_errors), 9)

    def test_long_lines(self):
        prompt = ("apple " * (MIB // 6 + 1))[:MIB]
        answers, _ = self.stream("\n".join(["one", prompt, "x" * (5 * MIB), "last"]), code=3)
        self.assertEqual([a.get("line") for a in answers if "error" in a], [3])
        made = [a for a in answers if "error" not in a]
        self.assertEqual([(a["line"], a["prompt"]) for a in made],
                         [(1, "one"), (2, prompt.strip()), (4, "last")])
        self.assertEqual(len(self.pictures()), 3)

    def test_bytes_that_mean_nothing(self):
        # Every byte there is, in lines of every kind: answered line by line, whatever it is.
        noise = bytes((i * 7919 + i // 256 * 31) % 256 for i in range(2048)).replace(b"\n", b"")
        lines = [noise[at : at + 64] for at in range(0, len(noise), 64)]
        answers, _ = self.stream(b"\n".join(lines) + b"\nlast", code=3)
        self.assertEqual(sorted(a["line"] for a in answers), list(range(1, len(lines) + 2)))
        self.assertEqual(answers[-1]["prompt"], "last")

    # Pipes

    def test_stdout_that_is_closed(self):
        process = self.start()
        self.say(process, "one")
        self.answer(process)
        process.stdout.close()
        self.say(process, "two")
        error = process.stderr.read()
        self.assertEqual(process.wait(60), 5, error)
        self.assertEqual(error.count(b"steadyflux: error:"), 1, error)
        self.assertIn(b"standard output", error)
        # The second one was made before it could be told; it is whole.
        made = self.pictures()
        self.assertEqual(made, self.generated({"0001.png": ["one", *SMALL],
                                               "0002.png": ["two", *SMALL]}))
        answers, _ = self.stream("one\ntwo\nthree\n")
        self.assertEqual([a.get("skipped", False) for a in answers], [True, True, False])

    def test_stdout_that_takes_nothing(self):
        with open("/dev/full", "wb") as full:
            process = self.start(stdout=full)
            _, error = process.communicate(b"one\ntwo\n", timeout=60)
        self.assertEqual(process.returncode, 5, error)
        for name, data in self.pictures().items():
            self.assertEqual(data[-8:-4], b"IEND", name)

    def test_a_slow_reader(self):
        # Prompts large enough that their answers do not fit into a pipe.
        lines = [f"{i} " + "x" * 50000 for i in range(6)]
        process = self.start("--no-cache", "-q")
        os.set_blocking(process.stdin.fileno(), False)
        data = "\n".join(lines).encode() + b"\n"
        got = b""
        while True:
            readable, writable, _ = select.select([process.stdout], [process.stdin] if data else [],
                                                  [], 60)
            self.assertTrue(readable or writable, "neither takes nor gives")
            if writable:
                data = data[os.write(process.stdin.fileno(), data[:9000]) :]
                if not data:
                    process.stdin.close()
            if readable:
                time.sleep(0.01)
                chunk = os.read(process.stdout.fileno(), 7000)
                if not chunk:
                    break
                got += chunk
        self.assertEqual(process.wait(60), 0)
        self.assertEqual([a["prompt"] for a in json_lines(got)], lines)

    def test_a_writer_that_ends_in_the_middle_of_a_line(self):
        process = self.start()
        process.stdin.write(b'one\n{"prompt": "tw')
        process.stdin.flush()
        self.assertEqual(self.answer(process)["prompt"], "one")
        process.stdin.close()
        self.assertEqual(self.answer(process)["line"], 2)
        self.assertEqual(process.wait(60), 3)

    # Signals

    def test_signals_while_waiting(self):
        for number in [signal.SIGINT, signal.SIGTERM]:
            with self.subTest(number):
                process = self.start("-o", f"out{number}")
                self.say(process, "one")
                self.answer(process)
                process.send_signal(number)
                error = process.communicate(timeout=60)[1]
                self.assertEqual(process.returncode, 128 + number, error)
                self.assertIn(b"interrupted", error)
                self.assertEqual(sorted(self.pictures(f"out{number}")), ["0001.png"])

    def test_a_signal_in_the_middle_of_a_picture(self):
        with self.running("-", *SLOW, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as (process, stream):
            self.say(process, "one")
            self.wait_for(stream, lambda e: e["event"] == "step" and e["phase"] == "denoise")
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
            self.assertEqual((process.returncode, out), (130, b""), error)
        self.assertEqual(self.pictures(), {})

    # Failures

    def test_pictures_that_cannot_be_made(self):
        limit = ["--max-ram", "440MiB", "--chunk-size", "1"]
        lines = 'one\n{"prompt": "two", "width": 4096, "height": 4096}\nthree\n'
        answers, error = self.stream(lines, *limit, code=4)
        self.assertEqual([(a["line"], a.get("exit_code")) for a in answers], [(1, None), (2, 4)])
        answers, _ = self.stream(lines, *limit, "--keep-going", code=6)
        self.assertEqual([(a["line"], a.get("exit_code"), a.get("skipped")) for a in answers],
                         [(1, None, True), (2, 4, None), (3, None, None)])
        self.assertEqual({e["output"] for e in of(self.journal(), "failed")}, {"0002.png"})

    def test_options_that_need_a_file(self):
        done = self.run_program("batch", "-", "--rendezvous", "127.0.0.1:1", *SMALL)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(b"standard input", done.stderr)
        self.assertEqual(self.files(), [])

    def test_overviews(self):
        self.stream("one\ntwo\n", "--contact-sheet", "sheet.png", "--gallery", "page.html")
        self.assertEqual((self.folder / "sheet.png").read_bytes()[:4], b"\x89PNG")
        self.assertEqual((self.folder / "page.html").read_text().count("<figure>"), 2)
