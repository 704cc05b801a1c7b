"""steadyflux batch with prompt files: what it makes, and what running it again does.
Part of cli_test.py."""

import json
import pathlib
import shutil
import struct
import zlib

from batch_program import SMALL, BatchTest, of, pixels

GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"

TEXT = ("\ufeff# five of them\r\na red apple\r\n\r\n  a fox, sitting  \r\n"
        '{"prompt": "a cat", "seed": 18446744073709551615, "steps": 2}\r\n'
        '{"prompt": "a cat", "width": 48, "output": "pets/cat.png"}\r\n'
        "\N{RED APPLE} say \"hello\"")
JSONL = "\n".join(json.dumps(line) for line in [
    {"prompt": "a red apple"}, {"prompt": "a fox, sitting"},
    {"prompt": "a cat", "seed": 18446744073709551615, "num_inference_steps": 2},
    {"prompt": "a cat", "width": 48.0, "output": "pets/cat.png"},
    {"prompt": "\N{RED APPLE} say \"hello\""}])
CSV = ("prompt,output,seed,steps,width\na red apple,,,,\n\"a fox, sitting\",,,,\n"
       "a cat,,18446744073709551615,2,\na cat,pets/cat.png,,,48\n"
       "\"\N{RED APPLE} say \"\"hello\"\"\",,,,\n")
# The pictures of each of the three, by themselves.
ALONE = {
    "0001.png": ["a red apple", *SMALL],
    "0002.png": ["a fox, sitting", *SMALL],
    "0003.png": ["a cat", "-s", "18446744073709551615", "-W", "32", "-H", "32", "--steps", "2",
                 "--device", "cpu"],
    "pets/cat.png": ["a cat", "-W", "48", "-H", "32", "--steps", "1", "--device", "cpu"],
    "0005.png": ["\N{RED APPLE} say \"hello\"", *SMALL],
}


class BatchFilesTest(BatchTest):
    def test_every_format_and_chunking_makes_what_generate_makes(self):
        expected = self.generated(ALONE)
        for number, (name, text, options) in enumerate([
                ("p.txt", TEXT, []), ("p.jsonl", JSONL, []), ("p.csv", CSV, []),
                ("p.jsonl", JSONL, ["--chunk-size", "1"]), ("p.csv", CSV, ["--chunk-size", "3"]),
                ("p.txt", TEXT, ["--order", "prompt", "--no-cache"])]):
            with self.subTest(name=name, options=options):
                self.batch(self.write(name, text), *SMALL, *options, "-o", f"out{number}")
                self.assertEqual(self.pictures(f"out{number}"), expected)

    def test_no_picture_depends_on_the_others_of_its_chunk(self):
        # Rows of 20 numbers, in fp32: nothing is a multiple of what a vector register holds.
        options = ["-m", GOLDENS / "a" / "model", "-W", "32", "-H", "32", "--device", "cpu",
                   "--threads", "1"]
        lines = [{"prompt": f"prompt number {i}"} for i in (10, 11, 12, 13, 18)]
        lines[1]["steps"] = 4
        lines.append({"prompt": "prompt number 2", "seed": 5})
        expected = self.generated(
            {f"000{i}.png": [line["prompt"], *options, "-s", line.get("seed", 0), "--steps",
                             line.get("steps", 2)]
             for i, line in enumerate(lines, 1)})
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, lines)))
        for size in range(1, 7):
            with self.subTest(size=size):
                self.batch(prompts, *options, "--steps", "2", "--chunk-size", size, "-o",
                           f"out{size}")
                self.assertEqual(self.pictures(f"out{size}"), expected)

    def test_streamed_weights(self):
        # Computing in fp32, weights stored as bf16 are converted: kept, or again in every step.
        options = ["-W", "32", "-H", "32", "--steps", "2", "--device", "cpu", "--dtype", "fp32"]
        prompts = self.write("p.txt", "one\ntwo\nthree\n")
        expected = self.generated({f"000{i}.png": [prompt, *options]
                                   for i, prompt in enumerate(["one", "two", "three"], 1)})
        # The smallest limit that runs with all three in one group: what the process holds before it
        # plans, and so where that lies, differs by some MiB from run to run.
        for limit in range(120, 600, 4):  # MiB
            done = self.run_program("batch", prompts, *options, "--max-ram", f"{limit}MiB",
                                    "--events", "events.jsonl")
            if done.returncode != 4:
                self.assertEqual(done.returncode, 0, done.stderr)
                plan = of(self.events(), "plan")[0]
                if plan["denoise_group"] == 3:
                    break
                self.assertEqual(self.pictures(), expected)
                shutil.rmtree(self.folder / "out")
            (self.folder / "events.jsonl").unlink(missing_ok=True)
        self.assertEqual((plan["pictures"], plan["denoise_group"]), (3, 3))
        self.assertGreater(plan["disk_read_bytes_per_step"], 1 << 20)
        self.assertEqual(self.pictures(), expected)

    def test_several_pictures_of_a_prompt(self):
        prompts = self.write("p.jsonl", '{"prompt": "x", "seed": 5}\n'
                                        '{"prompt": "x", "n": 1, "output": "one.jpg"}\n')
        answers, _ = self.batch(prompts, *SMALL, "-n", "3", "--json")
        self.assertEqual([(a["index"], a["line"], a["output"], a["seed"]) for a in answers],
                         [(0, 1, "out/0001-1.png", 5), (1, 1, "out/0001-2.png", 6),
                          (2, 1, "out/0001-3.png", 7), (3, 2, "out/one.jpg", 0)])
        expected = {f"0001-{i}.png": ["x", "-s", 4 + i, *SMALL] for i in (1, 2, 3)}
        self.assertEqual(self.pictures(), self.generated({**expected, "one.jpg": ["x", *SMALL]}))

    def test_each_distinct_prompt_is_encoded_once(self):
        def encode_steps(text):
            self.batch(self.write("p.txt", text), *SMALL, "--no-cache", "-o", "out", "--overwrite",
                       "--events", "events.jsonl")
            (phase,) = [e["total"] for e in of(self.events(), "phase_started")
                        if e["phase"] == "encode"]
            (self.folder / "events.jsonl").unlink()
            shutil.rmtree(self.folder / "out")
            return phase
        self.assertEqual(encode_steps("a\nb\na\na\n"), encode_steps("c\nd\n"))
        self.assertGreater(encode_steps("a\nb\nc\n"), encode_steps("a\nb\nb\n"))

    def test_events(self):
        prompts = self.write("p.txt", "one\ntwo\n")
        self.batch(prompts, *SMALL, "--events", "events.jsonl")
        events = self.events()
        self.assertEqual(events[0]["event"], "started")
        self.assertEqual((events[0]["pictures"], events[0]["skipped"]), (2, 0))
        self.assertEqual([e["phase"] for e in of(events, "phase_started")],
                         ["encode", "modulate", "denoise", "decode"])
        self.assertEqual([(e["index"], e["output"]) for e in of(events, "picture")],
                         [(0, "out/0001.png"), (1, "out/0002.png")])
        for event in of(events, "memory_released"):
            self.assertGreater(event["rss_before"], 1 << 20)
            self.assertGreater(event["rss_after"], 1 << 20)
        self.assertEqual(len(of(events, "memory_released")), len(of(events, "chunk_started")))
        end = events[-1]
        self.assertEqual([end[key] for key in ["event", "pictures", "skipped", "failed",
                                               "exit_code"]], ["finished", 2, 0, 0, 0])
        self.batch(prompts, *SMALL, "--events", "events.jsonl")  # appended to
        more = self.events()[len(events):]
        self.assertEqual([e["event"] for e in more], ["started", "finished"])
        self.assertEqual((more[0]["skipped"], more[1]["skipped"], more[1]["pictures"]), (2, 2, 0))

    def test_contact_sheet_and_gallery(self):
        prompts = self.write("p.txt", "a <b>fox</b> & co\na cat\na dog\n")
        self.batch(prompts, *SMALL, "--contact-sheet", "sheet.png", "--gallery", "page.html")
        self.assertEqual(sorted(self.pictures()), ["0001.png", "0002.png", "0003.png"])
        sheet = (self.folder / "sheet.png").read_bytes()
        width, height = struct.unpack(">II", sheet[16:24])
        self.assertGreaterEqual(width * height, 3 * 32 * 32)
        data = zlib.decompress(b"".join(c[8:-4] for c in pixels(sheet) if c[4:8] == b"IDAT"))
        self.assertGreater(len(set(data)), 16)  # pictures, and not one colour
        page = (self.folder / "page.html").read_text()
        self.assertIn("a &lt;b&gt;fox&lt;/b&gt; &amp; co", page)
        self.assertNotIn("<b>fox", page)
        self.assertEqual(page.count("src=\"data:image/"), 3)
        self.assertNotRegex(page, r"(src|href)=\"(https?:)?//")
        # They are made anew of what is there, without making pictures.
        (self.folder / "sheet.png").unlink()
        answers, _ = self.batch(prompts, *SMALL, "--contact-sheet", "sheet.png", "--json")
        self.assertTrue(all(a["skipped"] for a in answers))
        self.assertEqual((self.folder / "sheet.png").read_bytes(), sheet)


class BatchAgainTest(BatchTest):
    def setUp(self):
        super().setUp()
        self.prompts = self.write("p.txt", "one\ntwo\nthree\n")

    def test_finished_pictures_are_skipped(self):
        self.batch(self.prompts, *SMALL)
        before = self.everything()
        answers, _ = self.batch(self.prompts, *SMALL, "--json")
        self.assertEqual([(a["output"], a["skipped"]) for a in answers],
                         [(f"out/000{i}.png", True) for i in (1, 2, 3)])
        self.assertEqual(self.everything(), before)  # the journal too

    def test_what_is_missing_or_damaged_is_made(self):
        self.batch(self.prompts, *SMALL)
        whole = self.pictures()
        (self.folder / "out/0001.png").unlink()
        cut = self.folder / "out/0003.png"
        cut.write_bytes(cut.read_bytes()[:-9])
        answers, _ = self.batch(self.prompts, *SMALL, "--json")
        self.assertEqual({a["output"]: "skipped" in a for a in answers},
                         {"out/0001.png": False, "out/0002.png": True, "out/0003.png": False})
        self.assertEqual(self.pictures(), whole)

    def test_more_prompts_at_the_end(self):
        self.batch(self.prompts, *SMALL)
        self.write("p.txt", "one\ntwo\nthree\nfour\n")
        answers, _ = self.batch(self.prompts, *SMALL, "--json")
        self.assertEqual([a["output"] for a in answers if "skipped" not in a], ["out/0004.png"])

    def test_without_a_journal_the_pictures_tell(self):
        self.batch(self.prompts, *SMALL)
        before = self.everything()
        (self.folder / "out/journal.jsonl").unlink()
        answers, _ = self.batch(self.prompts, *SMALL, "--json")
        self.assertTrue(all(a["skipped"] for a in answers))
        after = self.everything()
        for name in ["0001.png", "0002.png", "0003.png"]:
            self.assertEqual(after[f"out/{name}"], before[f"out/{name}"])

    def test_a_journal_that_was_cut_or_spoilt(self):
        self.batch(self.prompts, *SMALL)
        whole = self.pictures()
        journal = self.folder / "out/journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:2], b"no JSON\n", *lines[2:-1], lines[-1][:20]]))
        (self.folder / "out/0001.png").unlink()
        answers, error = self.batch(self.prompts, *SMALL, "--json")
        self.assertEqual([a["output"] for a in answers if "skipped" not in a], ["out/0001.png"])
        self.assertIn("journal.jsonl:3", error)
        self.assertEqual(self.pictures(), whole)

    def test_changed_settings_are_refused(self):
        self.batch(self.prompts, *SMALL)
        for options in [["--steps", "2"], ["-W", "48"], ["-s", "1"], ["--dtype", "fp32"]]:
            with self.subTest(options):
                self.refuse(2, self.prompts, *SMALL, *options, says=["0001.png", "--overwrite"])
        self.write("p.txt", "one\nTWO\nthree\n")
        self.refuse(2, self.prompts, *SMALL, says=["p.txt:2", "0002.png"])

    def test_overwrite_makes_what_changed(self):
        self.batch(self.prompts, *SMALL)
        before = self.everything()
        self.write("p.txt", "one\nTWO\nthree\n")
        answers, _ = self.batch(self.prompts, *SMALL, "--overwrite", "--json")
        self.assertEqual([a["output"] for a in answers if "skipped" not in a], ["out/0002.png"])
        after = self.everything()
        for name in ["out/0001.png", "out/0003.png"]:
            self.assertEqual(after[name], before[name])
        self.assertEqual(self.pictures()["0002.png"],
                         self.generated({"x.png": ["TWO", *SMALL]})["x.png"])
        answers, _ = self.batch(self.prompts, *SMALL, "--json")
        self.assertTrue(all(a["skipped"] for a in answers))

    def test_foreign_files_are_not_replaced(self):
        (self.folder / "out").mkdir()
        self.write("out/0002.png", "somebody's")
        before = self.everything()
        _, error = self.batch(self.prompts, *SMALL, code=2)
        self.assertIn("0002.png is there and not by this batch", error)
        after = self.everything()
        self.assertEqual(after["out/0002.png"], before["out/0002.png"])
        self.assertEqual(sorted(self.pictures()), ["0002.png"])
        self.batch(self.prompts, *SMALL, "--overwrite")
        self.assertEqual(len(self.pictures()), 3)
        shutil.rmtree(self.folder / "out")
        (self.folder / "out/0001.png").mkdir(parents=True)
        self.batch(self.prompts, *SMALL, code=2)

    def test_random_seeds_are_not_drawn_again(self):
        answers, _ = self.batch(self.prompts, *SMALL, "-s", "-1", "--json")
        seeds = {a["seed"] for a in answers}
        self.assertEqual(len(seeds), 3)  # by chance two are the same once in a billion runs
        before = self.everything()
        answers, _ = self.batch(self.prompts, *SMALL, "-s", "-1", "--json")
        self.assertTrue(all(a["skipped"] for a in answers))
        self.assertEqual(self.everything(), before)
        self.refuse(2, self.prompts, *SMALL, "-s", "1", says="0001.png")
