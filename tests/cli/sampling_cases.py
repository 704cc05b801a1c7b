"""Schedulers, noise levels and shifts: --scheduler, --sigmas, --shift, --compat, and the same in
prompt files. Part of cli_test.py."""

import json

from batch_program import BatchTest
from image_cases import GOLDENS
from picture_program import PictureTest
from program import png_text

SMALL = ["-W", "32", "-H", "32", "--device", "cpu"]


class SamplingTest(PictureTest):
    def draw(self, *arguments, output="out.png"):
        """The record of the picture, and its bytes."""
        self.succeed("a red apple", *SMALL, "-q", "-o", output, *arguments)
        data = (self.folder / output).read_bytes()
        return json.loads(png_text(data, "steadyflux")), data

    def pixels(self, *arguments):
        self.draw(*arguments)
        return super().pixels()


class SamplingGoldensTest(SamplingTest):
    def options(self, golden, manifest):
        options = ["-m", GOLDENS / golden["model"] / "model", "-s", manifest["seed"],
                   "-W", manifest["width"], "-H", manifest["height"],
                   "--dtype", "fp32", "--device", "cpu"]
        if golden["guidance"] is not None:
            options += ["--guidance", golden["guidance"]]
        for name, value in golden["options"].items():
            if name == "image":
                inputs = GOLDENS / "image_to_image"
                options += ["--image", inputs / "picture.png", "--strength", value["strength"]]
                options += ["--mask", inputs / "mask.png"] if value["mask"] else []
            elif name == "sigmas":
                options += ["--sigmas", ",".join(map(str, value))]
            else:
                options += [f"--{name}", value]
        if "compat" not in golden["options"]:  # else it says how many tokens there are
            options += ["--max-sequence-length", manifest["max_sequence_length"]]
        return options

    def test_pictures_are_those_of_diffusers(self):
        folder = GOLDENS / "schedules"
        manifest = json.loads((folder / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"], options=golden["options"]):
                self.succeed(manifest["prompt"], *self.options(golden, manifest), "-q")
                self.assertGolden(folder / golden["file"])


class SamplingOptionsTest(SamplingTest):
    def test_what_is_usual_changes_nothing(self):
        usual = self.pixels("--steps", "3")
        for options in [["--scheduler", "euler", "--compat", "diffusers", "--steps", "3"],
                        ["--shift", "auto", "--steps", "3"]]:
            self.assertEqual(self.pixels(*options), usual)
        record, _ = self.draw("--steps", "3", "--scheduler", "euler", "--compat", "diffusers")
        self.assertEqual(record.keys() & {"scheduler", "compat", "sigmas", "shift"}, set())

    def test_sigmas_say_how_many_steps_there_are(self):
        record, _ = self.draw("--sigmas", "1, 0.5  0.25")
        self.assertEqual((record["sigmas"], record["num_inference_steps"]), ([1.0, 0.5, 0.25], 3))
        self.draw("--sigmas", "1,0.5", "--steps", "2")
        (self.folder / "c.toml").write_text('sigmas = "1,0.6,0.3"\nscheduler = "heun"\n')
        record, _ = self.draw("--config", "c.toml")
        self.assertEqual((record["num_inference_steps"], record["scheduler"]), (3, "heun"))
        record, _ = self.draw("--config", "c.toml", "--steps", "2")  # typed: before the file's
        self.assertEqual((record["num_inference_steps"], "sigmas" in record), (2, False))

    def test_values_that_make_no_sense(self):
        for options, says in [
            (["--scheduler", "ddim"], "expected euler, heun or dpmpp_2m"),
            (["--compat", "forge"], "expected diffusers, comfyui or bfl"),
            (["--compat", "bfl", "--scheduler", "dpmpp_2m"], "dpmpp_2m with --compat bfl"),
            (["--sigmas", "1,0.5", "--steps", "3"], "--steps 3 with 2 --sigmas"),
            (["--sigmas", "1,x"], "expected numbers"), (["--sigmas", ""], "expected numbers"),
            (["--sigmas", "1,1"], "not below"), (["--sigmas", "0.5,0.6"], "not below"),
            (["--sigmas", "1,0.5,0"], "0 at the end is added"),
            (["--sigmas", "1.5"], "up to 1"), (["--sigmas", "nan"], "expected numbers"),
            (["--sigmas=-1"], "above 0"), (["--sigmas", ",".join(["1"] * 1001)], "at most"),
            (["--shift", "0"], "above 0"), (["--shift=-1"], "above 0"),
            (["--shift", "inf"], "above 0"), (["--shift", "1e9"], "up to 1000"),
            # After so strong a shift these are the same float.
            (["--sigmas", "1,0.9999999", "--shift", "1000"], "one noise level")]:
            with self.subTest(options):
                self.fail_with(2, "x", *SMALL, *options, says=says)

    def test_what_is_recorded_repeats_the_picture(self):
        options = ["--scheduler", "dpmpp_2m", "--sigmas", "1,0.7,0.4,0.1", "--shift", "1.5"]
        record, first = self.draw(*options, output="first.png")
        self.assertEqual([record[k] for k in ("scheduler", "sigmas", "shift")],
                         ["dpmpp_2m", [1.0, 0.7, 0.4, 0.1], 1.5])
        self.assertIn("Steps: 4, Sampler: DPM++ 2M, Shift: 1.5, ",
                      png_text(first, "parameters"))
        self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        self.succeed("--from", "first.png", "--steps", "2", "--shift", "auto", "-o", "other.png")
        record = json.loads(png_text((self.folder / "other.png").read_bytes(), "steadyflux"))
        self.assertEqual((record["num_inference_steps"], record["scheduler"],
                          record.keys() & {"sigmas", "shift"}), (2, "dpmpp_2m", set()))

    def test_json_says_what_was_asked_for(self):
        done = self.succeed("x", *SMALL, "--sigmas", "1,0.5", "--compat", "bfl", "--json")
        result = json.loads(done.stdout)
        self.assertEqual((result["sigmas"], result["compat"]), ([1.0, 0.5], "bfl"))
        self.assertEqual(result["max_sequence_length"], 256)
        plain = json.loads(self.succeed("x", *SMALL, "--steps", "1", "--json").stdout)
        self.assertEqual(plain.keys() & {"scheduler", "compat", "sigmas", "shift"}, set())

    def test_compat_says_the_tokens_unless_they_are_given(self):
        for options, expected in [(["--compat", "comfyui"], 256),
                                  (["--compat", "comfyui", "--max-sequence-length", "40"], 40)]:
            plan = json.loads(self.succeed("plan", *SMALL, "--json", *options).stdout)
            self.assertEqual(plan["workload"]["max_sequence_length"], expected)

    def test_heun_goes_twice_over_the_weights_but_once_in_the_last_step(self):
        passes = {}
        for scheduler in ["euler", "heun"]:
            plan = json.loads(self.succeed("plan", *SMALL, "--steps", "8", "--json",
                                           "--scheduler", scheduler).stdout)
            denoise = next(p for p in plan["phases"] if p["name"] == "denoise")
            passes[scheduler] = denoise["weights"][0]["passes"]
        self.assertEqual(passes, {"euler": 8, "heun": 15})



class SamplingBatchTest(BatchTest, SamplingTest):
    ENTRIES = [
        ({}, ["--steps", "3"]),
        ({"scheduler": "heun"}, ["--steps", "3", "--scheduler", "heun"]),
        ({"scheduler": "dpmpp_2m", "steps": 5}, ["--steps", "5", "--scheduler", "dpmpp_2m"]),
        ({"sigmas": [1, 0.5]}, ["--sigmas", "1,0.5"]),
        ({"sigmas": "1, 0.9, 0.5, 0.2", "scheduler": "heun", "shift": 2},
         ["--sigmas", "1,0.9,0.5,0.2", "--scheduler", "heun", "--shift", "2"]),
        ({"compat": "comfyui"}, ["--steps", "3", "--compat", "comfyui"])]

    def prompts(self):
        return self.write("p.jsonl", "\n".join(
            json.dumps({"prompt": f"p{i}", **entry})
            for i, (entry, _) in enumerate(self.ENTRIES)))

    def test_every_prompt_may_have_its_own(self):
        answers, _ = self.batch(self.prompts(), *SMALL, "--steps", "3", "--json")
        self.assertEqual([a["steps"] for a in answers], [3, 3, 5, 2, 4, 3])
        self.assertEqual([a.get("scheduler") for a in answers],
                         [None, "heun", "dpmpp_2m", None, "heun", None])
        self.assertEqual(self.pictures(), self.generated(
            {f"000{i + 1}.png": [f"p{i}", *SMALL, *options]
             for i, (_, options) in enumerate(self.ENTRIES)}))

    def test_other_sampling_is_other_settings(self):
        prompts = self.prompts()
        self.batch(prompts, *SMALL, "--steps", "3")
        answers, _ = self.batch(prompts, *SMALL, "--steps", "3", "--json")
        self.assertEqual([a.get("skipped") for a in answers], [True] * len(self.ENTRIES))
        self.refuse(2, prompts, *SMALL, "--steps", "3", "--shift", "2", says="0001.png")

    def test_wrong_values_are_named_with_their_line(self):
        for entry, says in [('"scheduler": "x"', "expected euler"), ('"shift": 0', "above 0"),
                            ('"sigmas": [0.5, 1]', "not below"), ('"scheduler": 1', "a string"),
                            ('"sigmas": [1, 0.5], "steps": 3', "--steps 3 with 2 --sigmas")]:
            prompts = self.write("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", %s}\n' % entry)
            with self.subTest(entry):
                self.refuse(3, prompts, *SMALL, says=["p.jsonl:2: ", says])

    def test_kill_and_checkpoints(self):
        for scheduler in ["heun", "dpmpp_2m"]:
            with self.subTest(scheduler):
                self.check_goes_on_after_a_kill(
                    self.write("p.txt", "one\ntwo\n"), "--scheduler", scheduler, "--steps", "40",
                    "-W", "64", "-H", "64", "--device", "cpu", step=47,  # of the second
                    folder=scheduler)
