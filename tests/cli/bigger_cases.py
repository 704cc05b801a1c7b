"""--progressive, --tile and upscale. Part of cli_test.py."""

import json

from picture_program import PictureTest


class ProgressiveTest(PictureTest):
    def test_stages_are_told_and_repeated(self):
        done = self.succeed("a red apple", "-W", "256", "-H", "160", "--progressive", "--steps", "2",
                            "--json", "--events", "events.jsonl", "-o", "a.png")
        told = json.loads(done.stdout)
        self.assertEqual((told["width"], told["height"]), (256, 160))
        self.assertEqual(told["progressive"], {"base": 128, "strength": 0.3})
        self.assertEqual([(phase["name"], phase["stage"]) for phase in told["phases"]
                          if phase["name"] in ("encode_image", "denoise")],
                         [("denoise", 1), ("encode_image", 2), ("denoise", 2)])
        self.assertIn(b"stage 2 of 2: 256 x 160, 1 steps, up to ", done.stderr)
        events = [json.loads(line) for line in
                  (self.folder / "events.jsonl").read_text().splitlines()]
        stages = [(event["stage"], event["width"], event["height"], event["steps"])
                  for event in events if event["event"] == "stage"]
        self.assertEqual(stages, [(1, 128, 80, 2), (2, 256, 160, 1)])
        self.succeed("--from", "a.png", "-o", "b.png")
        self.assertSamePixels("a.png", "b.png")

    def test_a_memory_report_shows_all_stages(self):
        self.succeed("a fox", "-W", "96", "-H", "96", "--base-size", "48", "--steps", "2",
                     "--no-cache", "--memory-report", "m.json")
        phases = json.loads((self.folder / "m.json").read_bytes())["phases"]
        self.assertEqual([phase["name"] for phase in phases],
                         ["encode 1", "modulate 1", "denoise 1", "decode 1",
                          "encode_image 2", "modulate 2", "denoise 2", "decode 2"])
        times = [time for phase in phases for time in (phase["start"], phase["end"])]
        self.assertEqual(times, sorted(times))

    def test_several_pictures_are_those_that_are_made_alone(self):
        options = ["-W", "96", "-H", "96", "--base-size", "32", "--steps", "2"]
        self.succeed("a fox", *options, "-s", "4", "-n", "2", "-o", "n.png")
        for index, seed in enumerate(["4", "5"]):
            self.succeed("a fox", *options, "-s", seed, "-o", f"alone{seed}.png")
            self.assertSamePixels(f"alone{seed}.png", f"n-{index + 1}.png")

    def test_a_batch_mixes_them_with_others(self):
        (self.folder / "p.jsonl").write_text(
            '{"prompt": "a fox", "steps": 2}\n'
            '{"prompt": "a fox", "steps": 2, "width": 96, "height": 96, "base_size": 48}\n'
            '{"prompt": "a cat", "steps": 2, "width": 96, "height": 96, "base_size": 48}\n')
        self.succeed("batch", "p.jsonl", "-o", "out")
        self.succeed("a fox", "--steps", "2", "-W", "96", "-H", "96", "--base-size", "48", "-o",
                     "fox.png")
        self.assertSamePixels("fox.png", "out/0002.png")
        again = self.succeed("batch", "p.jsonl", "-o", "out")
        self.assertIn(b"0 made, 3 were there", again.stderr)

    def test_what_memory_does_not_allow_stays_smaller(self):
        options = ["--base-size", "64", "--steps", "1", "--device", "cpu"]
        limit = self.least_ram("--size", "128", *options) + (8 << 20)
        done = self.succeed("a red apple", "--size", "2048", *options, "--max-ram", limit, "--json",
                            "-o", "a.png")
        told = json.loads(done.stdout)
        self.assertGreater(told["width"], 64)
        self.assertLess(told["width"], 2048)
        self.assertLess(max(phase["peak_rss"] for phase in told["phases"]), limit)
        self.assertIn(b"memory does not suffice for 2048 x 2048", done.stderr)
        self.succeed("--from", "a.png", "-o", "b.png")
        self.assertSamePixels("a.png", "b.png")

    def test_usage(self):
        self.succeed("a fox", "--steps", "1", "-o", "in.png")
        self.fail_with(2, "x", "--progressive", "--image", "in.png", says=["--progressive"])
        self.fail_with(2, "x", "--base-size", "50", says=["base-size 50", "multiple of 16"])
        self.fail_with(2, "x", "--base-size", "32", "--strength", "2", says=["--strength"])
        self.fail_with(2, "x", "--strength", "0.5", says=["--strength without"])

    def test_plan_is_of_the_last_stage(self):
        plan = json.loads(self.succeed("plan", "--json", "--device", "cpu", "--size", "256",
                                       "--progressive").stdout)
        self.assertIn("encode_image", [phase["name"] for phase in plan["phases"]])
        self.assertEqual(plan["workload"]["width"], 256)


class UpscaleTest(PictureTest):
    def setUp(self):
        super().setUp()
        self.succeed("a red apple", "--size", "64", "--steps", "4", "-s", "7", "-o", "apple.png")

    def test_settings_come_from_the_picture(self):
        done = self.succeed("upscale", "apple.png", "--to", "2x", "--json")
        told = json.loads(done.stdout)
        self.assertEqual((told["width"], told["height"]), (128, 128))
        self.assertEqual(told["output"], "upscaled.png")
        self.assertEqual((told["prompt"], told["seed"], told["steps"]), ("a red apple", 7, 4))
        self.assertEqual(told["tile"], 128)
        self.assertEqual(told["init_image"]["strength"], 0.3)
        self.succeed("--from", "upscaled.png", "-o", "again.png")
        self.assertSamePixels("upscaled.png", "again.png")
        # A little is changed, not all of it: the apple in the middle stays red.
        pixels = self.pixels("upscaled.png")
        red, green, blue = pixels[3 * (64 * 128 + 64):][:3]
        self.assertGreater(red, 150)
        self.assertLess(max(green, blue), 120)

    def test_a_tile_as_large_as_the_picture_is_image_to_image(self):
        self.succeed("upscale", "apple.png", "--to", "128", "-o", "a.png")
        self.succeed("a red apple", "--image", "apple.png", "-W", "128", "-H", "128", "--strength",
                     "0.3", "--steps", "4", "-s", "7", "-o", "b.png")
        self.assertSamePixels("a.png", "b.png")

    def test_tiles_do_not_depend_on_the_memory_there_is(self):
        options = ["upscale", "apple.png", "--to", "256x192", "--tile", "64", "--device", "cpu"]
        self.succeed(*options, "-o", "a.png")
        planned = ["--device", "cpu", "--tile", "64", "--size", "256x192", "--image", "apple.png",
                   "--steps", "4"]
        limit = self.least_ram(*planned) + (8 << 20)
        plan = self.succeed("plan", "--json", *planned, "--max-ram", limit)
        self.assertTrue(json.loads(plan.stdout)["fits"])
        self.succeed(*options, "--max-ram", limit, "-o", "b.png")
        self.assertSamePixels("a.png", "b.png")

    def test_usage(self):
        self.fail_with(2, "upscale", says=["no picture given"])
        self.fail_with(2, "upscale", "apple.png", says=["--to"])
        for goal in ["", "x", "0", "100", "1000x", "0.5x", "64", "64x64", "-128", "128x100",
                     "99999999x16", "nanx", "128xx128"]:
            self.fail_with(2, "upscale", "apple.png", "--to", goal, says=["--to"])
        self.fail_with(3, "upscale", "none.png", "--to", "2x", says=["none.png"])
        self.fail_with(2, "upscale", "apple.png", "--to", "2x", "-o", "apple.png",
                       says=["is the picture itself"])
        self.fail_with(2, "upscale", "apple.png", "--to", "2x", "--tile", "60", says=["tile 60 is not a multiple of 16"])

    def test_a_picture_of_someone_else(self):
        self.succeed("a fox", "--size", "64", "--steps", "1", "-o", "fox.jpg")
        done = self.succeed("upscale", "fox.jpg", "--to", "96", "--prompt", "a fox", "--steps", "4",
                            "--json", "-o", "big.png")
        self.assertEqual(json.loads(done.stdout)["prompt"], "a fox")
        done = self.succeed("upscale", "fox.jpg", "--to", "96", "--steps", "4", "--json", "-o",
                            "plain.png")
        self.assertEqual(json.loads(done.stdout)["prompt"], "")
