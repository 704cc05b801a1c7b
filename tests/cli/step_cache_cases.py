"""Step caching: --cache-threshold, what is recorded and told of it, and the same in prompt files.
Part of cli_test.py."""

import json

from batch_program import BatchTest, of
from image_cases import GOLDENS
from picture_program import PictureTest
from program import png_text

SMALL = ["-W", "32", "-H", "32", "--device", "cpu"]
CACHED = [*SMALL, "--steps", "12", "--cache-threshold", "0.15"]


class StepCacheGoldensTest(PictureTest):
    def test_pictures_are_those_of_diffusers(self):
        folder = GOLDENS / "step_cache"
        manifest = json.loads((folder / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            options = [text for name, value in golden["options"].items()
                       for text in (f"--{name}", value)]
            if golden["guidance"] is not None:
                options += ["--guidance", golden["guidance"]]
            with self.subTest(golden["file"], options=options):
                done = self.succeed(
                    manifest["prompt"], "-m", GOLDENS / golden["model"] / "model",
                    "-s", manifest["seed"], "-W", manifest["width"], "-H", manifest["height"],
                    "--max-sequence-length", manifest["max_sequence_length"],
                    "--dtype", "fp32", "--device", "cpu", "--json", *options)
                self.assertEqual(json.loads(done.stdout)["images"][0]["passes"], golden["passes"])
                self.assertGolden(folder / golden["file"])
                self.assertGreater(golden["passes"]["reused"], 0)
                self.assertGreater(golden["passes"]["computed"], 1)


class StepCacheTest(PictureTest):
    def passes(self, *options):
        done = self.succeed("a red apple", *options, "--json")
        return json.loads(done.stdout)["images"][0].get("passes")

    def test_never_is_the_default(self):
        plain = [*SMALL, "--steps", "12"]
        self.assertIsNone(self.passes(*plain))
        usual = self.pixels()
        self.assertNotIn("cache_threshold", self.record())
        self.assertIsNone(self.passes(*plain, "--cache-threshold", "0"))
        self.assertEqual(self.pixels(), usual)
        # Nothing changes as little as that, so every pass is whole.
        self.assertEqual(self.passes(*plain, "--cache-threshold", "1e-9"),
                         {"computed": 12, "reused": 0})
        self.assertEqual(self.pixels(), usual)

    def test_passes_are_told(self):
        (self.folder / "c.toml").write_text("cache-threshold = 0.15\n")
        passes = self.passes(*SMALL, "--steps", "12", "--config", "c.toml", "-n", "2",
                             "--events", "e.jsonl")
        self.assertEqual(passes["computed"] + passes["reused"], 12)
        self.assertGreater(passes["reused"], 0)
        events = [json.loads(line) for line in (self.folder / "e.jsonl").read_text().splitlines()]
        self.assertEqual(of(events, "picture")[0]["passes"], passes)
        said = self.succeed("a red apple", *CACHED, "-v").stderr.decode()
        self.assertIn(f"step cache: {passes['reused']} of 12 passes reused", said)

    def test_texts_tiles_evaluations_and_stages_have_their_own(self):
        count = lambda passes: passes["computed"] + passes["reused"]  # noqa: E731
        wide = ["-W", "64", "-H", "32", "--device", "cpu", "--cache-threshold", "0.15"]
        for options, expected in [
            (["--steps", "4", "--negative-prompt", "x", "--true-cfg-scale", "2"], 8),
            (["--steps", "4", "--scheduler", "heun"], 7),
            (["--steps", "4", "--tile", "32"], 12),  # 3 tiles
            (["--steps", "4", "--tile", "32", "--scheduler", "heun"], 21),
            (["--steps", "10", "--base-size", "32"], 13)]:  # 10, then 3 of 10
            with self.subTest(options):
                self.assertEqual(count(self.passes(*wide, *options)), expected)

    def test_values_that_make_no_sense(self):
        for value in ["-0.1", "nan", "1.5", "x", ""]:
            self.fail_with(2, "x", *SMALL, f"--cache-threshold={value}", says="--cache-threshold")

    def test_what_is_recorded_repeats_the_picture(self):
        self.succeed("x", *CACHED, "-o", "first.png")
        first = (self.folder / "first.png").read_bytes()
        self.assertEqual(self.record("first.png")["cache_threshold"], 0.15)
        self.assertIn("First block cache: 0.15, ", png_text(first, "parameters"))
        self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        self.succeed("--from", "first.png", "--cache-threshold", "0", "-o", "other.png")
        self.succeed("x", *SMALL, "--steps", "12", "-o", "plain.png")
        self.assertSamePixels("other.png", "plain.png")
        self.assertEqual(self.record("other.png"), self.record("plain.png"))

    def test_plans_count_whole_passes_and_what_is_kept(self):
        plans = {}
        for threshold in ["0", "0.1"]:
            done = self.succeed("plan", *SMALL, "--steps", "12", "--max-ram", "400MiB", "--json",
                                "--cache-threshold", threshold)
            plans[threshold] = json.loads(done.stdout)
        plain, cached = plans["0"], plans["0.1"]
        self.assertEqual((plain["workload"]["num_step_caches"],
                          cached["workload"]["num_step_caches"]), (0, 1))
        self.assertEqual(cached["disk_read_bytes_per_step"], plain["disk_read_bytes_per_step"])
        said = self.succeed("plan", *SMALL, "--cache-threshold", "0.1").stdout
        self.assertIn(b"step caching: every pass is counted as a whole one", said)


class StepCacheBatchTest(BatchTest):
    def test_every_prompt_may_have_its_own(self):
        prompts = self.write("p.jsonl", '{"prompt": "a"}\n'
                                        '{"prompt": "b", "cache-threshold": 0}\n'
                                        '{"prompt": "c", "cache_threshold": 0.3}\n')
        answers, said = self.batch(prompts, *CACHED, "--json", "--events", "events.jsonl")
        passes = [answer.get("passes") for answer in answers]
        self.assertIsNone(passes[1])
        self.assertGreater(passes[2]["reused"], 0)
        self.assertEqual([a.get("cache_threshold") for a in answers], [0.15, None, 0.3])
        self.assertEqual([e.get("passes") for e in of(self.events(), "picture")], passes)
        self.assertIn(f"{passes[2]['reused']} of 12 passes reused", said)
        self.assertEqual(self.pictures(), self.generated(
            {f"000{i + 1}.png": [prompt, *CACHED, "--cache-threshold", threshold]
             for i, (prompt, threshold) in enumerate([("a", 0.15), ("b", 0), ("c", 0.3)])}))
        self.refuse(2, prompts, *CACHED, "--cache-threshold", "0.2", says="0001.png")
        wrong = self.write("w.jsonl", '{"prompt": "a"}\n{"prompt": "b", "cache-threshold": 2}\n')
        self.refuse(3, wrong, *SMALL, says=["w.jsonl:2: ", "--cache-threshold 2"])

    def test_pictures_that_were_broken_off_go_on(self):
        """To the same bytes, so with what was kept of earlier passes, and with all passes counted."""
        prompts = self.write("p.txt", "one\ntwo\n")
        for number, others in enumerate([
                [], ["--scheduler", "heun", "--true-cfg-scale", "2", "--negative-prompt", "red"],
                ["--tile", "64", "-W", "96", "-H", "64"]]):
            options = [prompts, "-W", "64", "-H", "64", "--device", "cpu", "--steps", "40",
                       "--cache-threshold", "0.1", *others]
            folder = f"out{number}"
            self.check_goes_on_after_a_kill(*options, step=47, folder=folder)
            whole, made = ({e["output"].rsplit("/")[-1]: e["passes"]
                            for e in of(self.events(f"{folder}{part}.jsonl"), "picture")}
                           for part in ["-whole", ""])
            self.assertTrue(made.keys() & {"0001.png", "0002.png"}, made)
            for name, passes in whole.items():
                self.assertGreater(passes["reused"], 0)
                self.assertEqual(made.get(name, passes), passes)
