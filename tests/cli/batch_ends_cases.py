"""steadyflux batch: what is refused before work, how a batch ends that cannot go on or is stopped,
and how it goes on then; embeddings from files and from the cache. Part of cli_test.py."""

import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import time

from batch_program import SLOW, SMALL, BatchTest, of, pixels
from png_pixels import write_png
from program import CACHE, MODEL, PROGRAM, environment

SLOW_STEPS = int(SLOW[SLOW.index("--steps") + 1])


class BatchRefusalsTest(BatchTest):
    def test_bad_lines(self):
        for name, text, line in [
                ("p.txt", b"one\ntwo \xff\n", 2), ("p.txt", b"one\n\nnul \0\n", 3),
                ("p.txt", 'one\n{"prompt": \n', 2), ("p.txt", '{"prompt": "x", "seeed": 1}', 1),
                ("p.jsonl", '{"prompt": "x"}\n\n{"prompt": "x", "width": 33}\n', 3),
                ("p.jsonl", '{"prompt": "x"}\n{"seed": 1}\n', 2), ("p.jsonl", "prompt\n", 1),
                ("p.jsonl", '{"prompt": "x"}\n{"prompt": "y", "seed": null}', 2),
                ("p.jsonl", '{"prompt": "x"}\n{"prompt": "y", "steps": 0}', 2),
                ("p.jsonl", '{"prompt": "x", "max-sequence-length": 513}', 1),
                ("p.csv", "prompt,seed\nx,1\ny\n", 3),
                ("p.csv", 'prompt,seed\n"x\ny",1\nz,-2\n', 4),
                ("p.csv", "prompt,colour\nx,red\n", 1)]:
            for options in [[], ["--keep-going"]]:
                with self.subTest(name=name, text=text):
                    self.refuse(3, self.write(name, text), *SMALL, *options, says=f"{name}:{line}:")

    def test_files_that_hold_nothing(self):
        for name, text in [("p.txt", ""), ("p.txt", "# no\n\n"), ("p.jsonl", "\n"),
                           ("p.csv", "prompt\n"), ("p.csv", "")]:
            self.refuse(3, self.write(name, text), *SMALL, says=name)
        self.refuse(3, "missing.txt", *SMALL, says="missing.txt")
        self.refuse(3, self.write("p.txt", "x"), *SMALL, "-m", "no/model", says="no/model")

    def test_outputs(self):
        for output, says in [("../x.png", "below the output folder"), ("/tmp/x.png", "below"),
                             ("a/../../x.png", "below"), ("sub/", "below"), (".", "png"),
                             ("journal.jsonl", "is the journal"), ("x.gif", "gif"), ("x", "png"),
                             ("0002.png", "p.jsonl:1 has the same"),
                             ("./a/../0002.png", "p.jsonl:1 has the same")]:
            lines = [f'{{"prompt": "x", "output": "{output}"}}', '{"prompt": "y"}']
            with self.subTest(output):
                self.refuse(3, self.write("p.jsonl", "\n".join(lines)), *SMALL,
                            says=["p.jsonl:", says])

    def test_options(self):
        prompts = self.write("p.txt", "x\n")
        for options in [["--chunk-size", "0"], ["--order", "time"], ["--checkpoint-every", "0"],
                        ["--contact-sheet", "x.gif"], ["--gallery", "x.htm"], ["--seed", "-2"]]:
            self.refuse(2, prompts, *SMALL, *options, says=options[0])
        self.refuse(2, *SMALL, says="no prompt file")

    def test_folders_that_cannot_be(self):
        prompts = self.write("p.txt", "x\n")
        for folder in ["p.txt", "p.txt/sub", "/proc/pictures"]:
            self.refuse(5, prompts, *SMALL, "-o", folder, says=folder)
        if os.geteuid() != 0:  # root may write everywhere
            (self.folder / "closed").mkdir(mode=0o500)
            self.refuse(5, prompts, *SMALL, "-o", "closed", says="closed")


class BatchFailuresTest(BatchTest):
    # Of the second picture, 4096 x 4096, the decoded pixels alone take more than the limit.
    TOO_LARGE = '{"prompt": "a"}\n{"prompt": "b", "width": 4096, "height": 4096}\n{"prompt": "c"}\n'
    LIMIT = ["--max-ram", "440MiB"]

    def test_a_picture_that_does_not_fit(self):
        prompts = self.write("p.jsonl", self.TOO_LARGE)
        self.refuse(4, prompts, *SMALL, *self.LIMIT, says=["p.jsonl:2", "4096 x 4096"])
        answers, error = self.batch(prompts, *SMALL, *self.LIMIT, "--keep-going", "--json",
                                    "--events", "events.jsonl", code=6)
        self.assertEqual([a.get("exit_code", 0) for a in answers], [0, 4, 0])
        self.assertIn("p.jsonl:2", answers[1]["error"])
        self.assertIn("1 of the prompts failed", error)
        self.assertEqual(sorted(self.pictures()), ["0001.png", "0003.png"])
        (failed,) = of(self.journal(), "failed")
        self.assertEqual(failed["output"], "0002.png")
        (event,) = of(self.events(), "error")
        self.assertEqual((event["kind"], event["prompt_index"]), ("does_not_fit", 1))
        self.assertEqual(self.events()[-1]["exit_code"], 6)
        # Again: what is there stays, the failed one is tried once more.
        before = self.everything()
        answers, _ = self.batch(prompts, *SMALL, *self.LIMIT, "--keep-going", "--json", code=6)
        self.assertEqual([a.get("skipped") for a in answers if "error" not in a], [True, True])
        after = self.everything()
        self.assertEqual(after["out/0001.png"], before["out/0001.png"])
        # One that can be made takes the failure back.
        self.write("p.jsonl", self.TOO_LARGE.replace("4096", "32"))
        answers, _ = self.batch(prompts, *SMALL, *self.LIMIT, "--json")
        self.assertEqual([a["output"] for a in answers if "skipped" not in a], ["out/0002.png"])

    def test_a_line_whose_picture_is_too_large_to_read(self):
        write_png(self.folder / "large.png", 4000, 4000, bytes(3 * 4000 * 4000))
        plain, with_picture = '{"prompt": "a"}\n', '{"prompt": "a", "image": "large.png"}\n'
        plain_ram = self.least_ram(*SMALL)
        limit = (plain_ram + self.least_ram(*SMALL, "--image", "large.png")) // 2
        prompts = self.write("p.jsonl", plain + with_picture)
        self.refuse(4, prompts, *SMALL, "--max-ram", limit, says=["p.jsonl:2"])

    def test_a_prompt_that_fails_in_the_middle(self):
        self.succeed("encode", "@" + self.write("some.txt", "one\nthree\n"), "-o", "e.safetensors")
        prompts = self.write("p.txt", "one\ntwo\nthree\n")
        options = [prompts, *SMALL, "--prompt-embeds", "e.safetensors"]
        answers, error = self.batch(*options, "--json", code=3)
        self.assertEqual([a.get("exit_code", 0) for a in answers], [0, 3])
        self.assertIn("p.txt:2", error)
        self.assertEqual(sorted(self.pictures()), ["0001.png"])
        answers, _ = self.batch(*options, "--json", "--keep-going", code=6)
        self.assertEqual([a.get("exit_code", 0) for a in answers], [0, 3, 0])
        self.assertEqual({e["output"] for e in of(self.journal(), "failed")}, {"0002.png"})
        self.batch(prompts, *SMALL)
        self.assertEqual(self.pictures(), self.generated(
            {f"000{i}.png": [prompt, *SMALL]
             for i, prompt in enumerate(["one", "two", "three"], 1)}))

    def finish_after(self, options, folder="out"):
        """Pictures made so far are whole; the same command makes the others."""
        self.assertEqual(self.count_temporaries(folder), 0)
        made = self.pictures(folder)
        self.assertEqual({e["output"] for e in of(self.journal(folder), "done")} - set(made), set())
        self.batch(*options)
        whole = self.pictures(folder)
        shutil.rmtree(self.folder / folder)
        self.batch(*options)
        self.assertEqual(self.pictures(folder), whole)
        self.assertEqual(made, {name: whole[name] for name in made})
        return len(made), len(whole)

    def test_a_full_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "none", disk],
                                 stderr=subprocess.DEVNULL)
        if mounted.returncode != 0:
            self.skipTest("no disk can be mounted here")
        try:
            options = [self.write("p.txt", "".join(f"number {i}\n" for i in range(12))), "-W", "64",
                       "-H", "64", "--steps", "1", "--device", "cpu", "-o", "disk/out"]
            for more in [[], ["--chunk-size", "1"]]:
                _, error = self.batch(*options, *more, code=5)
                self.assertRegex(error, r"steadyflux: error: disk/out/\S+: cannot [^\n]*\n\Z")
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            made, whole = self.finish_after(options, "disk/out")
            self.assertEqual(whole, 12)
            self.assertTrue(0 < made < 12, made)
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_files_that_may_not_become_larger(self):
        options = [self.write("p.txt", "".join(f"number {i}\n" for i in range(20))), *SMALL]
        for limit, least in [(1500, 0), (5000, 3)]:  # below a picture; below a journal of them all
            with self.subTest(limit):
                def limited(limit=limit):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                _, error = self.batch(*options, "--no-cache", "--chunk-size", "1", code=5,
                                      preexec_fn=limited)
                self.assertIn("cannot write", error)
                self.assertGreaterEqual(self.finish_after(options)[0], least)
                shutil.rmtree(self.folder / "out")


class BatchStoppedTest(BatchTest):
    def setUp(self):
        super().setUp()
        self.options = [self.write("p.txt", "one\ntwo\nthree\n"), *SLOW]

    def undisturbed(self):
        self.batch(*self.options, "-o", "whole", "-q")
        return self.pictures("whole")

    def in_denoise(self, least):
        return lambda e: e["event"] == "step" and e["phase"] == "denoise" and e["step"] >= least

    def steps_of(self, *options):
        """Runs to the end; the first step of denoising that was reported."""
        self.batch(*self.options, *options, "--events", "events.jsonl")
        return next(e["step"] for e in self.events() if self.in_denoise(0)(e))

    def test_signals(self):
        whole = self.undisturbed()
        for number in [signal.SIGINT, signal.SIGTERM]:
            with self.subTest(number):
                with self.running(*self.options, "--chunk-size", "1") as (process, stream):
                    self.wait_for(stream, lambda e: e["event"] == "picture")
                    self.wait_for(stream, self.in_denoise(1))
                    process.send_signal(number)
                    end = self.wait_for(stream, lambda e: e["event"] == "finished")
                    error = process.communicate(timeout=60)[1]
                    self.assertEqual(process.returncode, 128 + number, error)
                self.assertEqual((end["exit_code"], end["pictures"]), (128 + number, 1))
                self.assertIn(b"steadyflux: error: interrupted", error)
                self.assertEqual(self.pictures(), {"0001.png": whole["0001.png"]})
                self.batch(*self.options)
                self.assertEqual(self.pictures(), whole)
                shutil.rmtree(self.folder / "out")

    def test_a_second_signal_ends_at_once(self):
        # One step of a large picture: the first signal waits for it.
        with self.running(self.options[0], "-W", "1024", "-H", "1024", "--steps", "1", "--device",
                          "cpu", "--threads", "1") as (process, stream):
            self.wait_for(stream, lambda e: e.get("phase") == "denoise")
            process.send_signal(signal.SIGINT)
            status = pathlib.Path(f"/proc/{process.pid}/status")
            while int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) & 2:
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            process.wait(60)
            self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertEqual(self.pictures(), {})

    def test_kill_and_checkpoints(self):
        whole = self.undisturbed()
        checkpoints = ["--checkpoint-every", "1"]
        # The second picture is under way.
        with self.running(*self.options, *checkpoints) as (process, stream):
            self.wait_for(stream, self.in_denoise(SLOW_STEPS + 3))
            process.kill()
        self.assertGreaterEqual(self.count_temporaries(), 2)
        # The last step that was seen may not have been saved.
        self.assertGreaterEqual(self.steps_of(*checkpoints), SLOW_STEPS + 3)
        self.assertEqual(self.pictures(), whole)

    def test_checkpoints_of_finished_pictures_go(self):
        checkpoints = ["--checkpoint-every", "1"]
        with self.running(*self.options, *checkpoints) as (process, stream):
            self.wait_for(stream, self.in_denoise(SLOW_STEPS + 3))
            process.kill()
        saved = {name: data for name, data in self.pictures().items() if name.startswith(".")}
        self.assertGreaterEqual(len(saved), 2)
        self.batch(*self.options)
        self.assertEqual(self.count_temporaries(), 0)
        # As if it had been killed between a picture and the end of its checkpoint.
        for name, data in saved.items():
            (self.folder / "out" / name).write_bytes(data)
        self.batch(*self.options)
        self.assertEqual(self.count_temporaries(), 0)

    def test_a_signal_saves_what_there_is(self):
        whole = self.undisturbed()
        checkpoints = ["--checkpoint-every", "1000"]
        with self.running(*self.options, *checkpoints) as (process, stream):
            self.wait_for(stream, self.in_denoise(5))
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 143)
        self.assertGreater(self.steps_of(*checkpoints), 5)
        self.assertEqual(self.pictures(), whole)

    def test_checkpoints_of_other_settings(self):
        checkpoints = ["--checkpoint-every", "1"]
        with self.running(*self.options, "-s", "7", *checkpoints) as (process, stream):
            self.wait_for(stream, self.in_denoise(5))
            process.kill()
        whole = self.undisturbed()
        self.assertEqual(self.steps_of(*checkpoints), 1)
        self.assertEqual(self.pictures(), whole)


class BatchEmbeddingsTest(BatchTest):
    TEXT = "one\ntwo\n{\"prompt\": \"one\", \"seed\": 3}\n\n"

    def phases(self, name="events.jsonl"):
        return [event["phase"] for event in of(self.events(name), "phase_started")]

    def test_drawing_without_encoders(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        prompts = self.write("p.txt", self.TEXT)
        self.succeed("encode", "@p.txt", "-m", model, "-o", "e.safetensors")
        self.batch(prompts, *SMALL, "-m", model, "-o", "whole")
        for encoder in ["text_encoder", "text_encoder_2"]:
            (model / encoder / "model.safetensors").unlink()
        embeds = ["--prompt-embeds", "e.safetensors", "-m", model]
        shutil.rmtree(CACHE)
        self.batch(prompts, *SMALL, *embeds, "--events", "events.jsonl")
        whole = self.pictures("whole")
        drawn = self.pictures()
        # The records differ: they name the model by what its folder holds.
        self.assertEqual({name: pixels(data) for name, data in drawn.items()},
                         {name: pixels(data) for name, data in whole.items()})
        self.assertNotIn("encode", self.phases())
        # Without a prompt file: what the embeddings are of, each once.
        answers, _ = self.batch(*SMALL, *embeds, "-o", "all", "--json")
        self.assertEqual([a["prompt"] for a in answers], ["one", "two"])
        self.assertEqual(pixels(self.pictures("all")["0002.png"]), pixels(whole["0002.png"]))

    def test_the_cache(self):
        prompts = self.write("p.txt", self.TEXT)
        self.batch(prompts, *SMALL, "-o", "first")
        self.batch(prompts, *SMALL, "-o", "second", "--events", "events.jsonl")
        self.assertEqual(self.phases(), ["modulate", "denoise", "decode"])
        self.batch(prompts, *SMALL, "-o", "third", "--no-cache", "--events", "third.jsonl")
        self.assertIn("encode", self.phases("third.jsonl"))
        self.assertEqual(self.pictures("first"), self.pictures("second"))
        self.assertEqual(self.pictures("first"), self.pictures("third"))

    def test_a_warm_run_leaves_the_encoders_closed(self):
        if not shutil.which("strace"):
            self.skipTest("no strace")
        prompts = self.write("p.txt", self.TEXT)
        mapped = []
        for folder in ["cold", "warm"]:
            traced = ["strace", "-f", "-y", "-e", "trace=mmap", "-o", folder + ".txt", PROGRAM,
                      "batch", prompts, *SMALL, "-q", "-o", folder]
            done = subprocess.run(traced, cwd=self.folder, env=environment(), capture_output=True)
            if b"ptrace" in done.stderr:
                self.skipTest("strace may not trace here")
            self.assertEqual(done.returncode, 0, done.stderr)
            mapped.append((self.folder / (folder + ".txt")).read_text().count(
                "/text_encoder_2/model.safetensors>"))
        self.assertGreater(mapped[0], mapped[1])
        self.assertLessEqual(mapped[1], 1)  # its header, for the dtype
