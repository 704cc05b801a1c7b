"""--compute: products in fewer bits, what is recorded of them, and the same in prompt files.
Part of cli_test.py."""

import json
import math

from batch_program import BatchTest
from picture_program import PictureTest

SMALL = ["--device", "cpu", "--steps", "4", "-q"]
LEAST_PSNR = 35  # of pictures beside those with products in bf16: what int8 is meant to keep


def psnr(pixels, reference):
    squares = sum((a - b) ** 2 for a, b in zip(pixels, reference))
    return 10 * math.log10(255 ** 2 * len(reference) / squares) if squares else math.inf


class ComputeTest(PictureTest):
    def picture(self, prompt, *options):
        self.succeed(prompt, *SMALL, *options)
        return self.pixels()

    def test_int8_is_another_picture_but_hardly(self):
        for prompt in ["a red apple", "a dog on a blue background", "three apples", "a house"]:
            with self.subTest(prompt):
                plain = self.picture(prompt)
                self.assertNotIn("compute", self.record())
                self.assertEqual(self.picture(prompt, "--compute", "auto"), plain)
                self.assertEqual(self.picture(prompt, "--compute", "bf16"), plain)
                rounded = self.picture(prompt, "--compute", "int8")
                self.assertNotEqual(rounded, plain)
                self.assertGreaterEqual(psnr(rounded, plain), LEAST_PSNR)

    def test_int8_is_the_same_within_any_budget(self):
        one = self.picture("a fox", "--compute", "int8", "--threads", "2")
        self.assertEqual(self.picture("a fox", "--compute", "int8", "--threads", "2",
                                      "--max-ram", "400MiB"), one)

    def test_what_is_recorded_repeats_the_picture(self):
        (self.folder / "c.toml").write_text('compute = "int8"\n')
        done = self.succeed("x", *SMALL, "--config", "c.toml", "--json", "-o", "first.png")
        self.assertEqual(json.loads(done.stdout)["compute"], "int8")
        self.assertEqual(self.record("first.png")["compute"], "int8")
        self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(),
                         (self.folder / "first.png").read_bytes())
        other = self.succeed("--from", "first.png", "--compute", "auto", "-o", "other.png")
        self.assertIn(b"compute differs from the recorded picture's (auto now, int8 then)",
                      other.stderr)
        self.succeed("x", *SMALL, "-o", "plain.png")
        self.assertSamePixels("other.png", "plain.png")

    def test_what_is_not_there(self):
        for command in [["x"], ["plan"]]:
            self.fail_with(2, *command, "--device", "cpu", "--compute", "fp8",
                           says=["--compute fp8", "int8"])
        self.succeed("plan", "--device", "cuda", "--max-vram", "6GiB", "--compute", "fp8")
        self.fail_with(2, "x", *SMALL, "--compute", "int4",
                       says=["--compute", "auto, bf16, int8, fp8"])

    def test_plans_say_it(self):
        plan = ["plan", *SMALL[:4], "-W", "64", "-H", "64", "--compute", "int8"]
        self.assertEqual(json.loads(self.succeed(*plan, "--json").stdout)["workload"]["compute"],
                         "int8")
        self.assertIn(b"bf16 with products in int8", self.succeed(*plan).stdout)


class ComputeBatchTest(BatchTest):
    def test_is_the_same_for_all_prompts(self):
        prompts = self.write("p.txt", "a\nb\n")
        options = [*SMALL[:4], "-W", "32", "-H", "32"]
        self.batch(prompts, *options, "--compute", "int8")
        self.assertEqual(self.pictures(), self.generated(
            {f"000{i + 1}.png": [prompt, *options, "--compute", "int8"]
             for i, prompt in enumerate("ab")}))
        # What is there was made otherwise.
        self.refuse(2, prompts, *options, says="0001.png")
        wrong = self.write("w.jsonl", '{"prompt": "a", "compute": "int8"}\n')
        self.refuse(3, wrong, *options, says=["w.jsonl:1: ", "--compute"])
