"""--prompt-2, --negative-prompt, --true-cfg-scale, and the same in prompt files and files of embeddings.
Part of cli_test.py."""

import json
import pathlib
import shutil

from batch_program import BatchTest, of, pixels
from picture_program import PictureTest
from program import CACHE, MODEL, png_text

SHORT = ["--steps", "2", "--device", "cpu", "-W", "32", "-H", "32"]
GUIDED = ["--negative-prompt", "a panda", "--true-cfg-scale", "3.5"]
GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"
NO_SCALE = "--negative-prompt has no effect without a --true-cfg-scale above 1"
NO_NEGATIVE = "--true-cfg-scale has no effect without a --negative-prompt"


class PromptsTest(PictureTest):
    def draw(self, *arguments, output="out.png"):
        """The bytes of a picture of which nothing is to be said."""
        done = self.succeed("a red apple", *SHORT, "-q", "-o", output, *arguments)
        self.assertEqual(done.stderr, b"")
        return (self.folder / output).read_bytes()


class GuidanceGoldensTest(PromptsTest):
    def test_pictures_are_those_of_diffusers(self):
        folder = GOLDENS / "true_cfg"
        inputs = GOLDENS / "image_to_image"
        manifest = json.loads((folder / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"]):
                options = ["-m", GOLDENS / golden["model"] / "model",
                           "-W", manifest["width"], "-H", manifest["height"],
                           "--steps", golden["steps"], "-s", manifest["seed"],
                           "--max-sequence-length", manifest["max_sequence_length"],
                           "--dtype", "fp32", "--device", "cpu"]
                for key in ["guidance", "prompt_2", "negative_prompt", "negative_prompt_2",
                            "true_cfg_scale", "strength"]:
                    if golden.get(key) is not None:
                        options += ["--" + key.replace("_", "-"), golden[key]]
                if "strength" in golden:
                    options += ["--image", inputs / "picture.png"]
                if "mask" in golden:
                    options += ["--mask", inputs / "mask.png"]
                self.succeed(manifest["prompt"], *options, "-q", "-o", "out.png")
                self.assertGolden(folder / golden["file"])


class GuidanceTest(PromptsTest):
    def test_texts_change_the_picture(self):
        pictures = {}
        for options in [(), ("--prompt-2", "a panda"), GUIDED,
                        (*GUIDED, "--negative-prompt-2", "snow"), (*GUIDED[:3], "2"),
                        ("--negative-prompt", "", "--true-cfg-scale", "3.5")]:
            pictures[tuple(options)] = b"".join(pixels(self.draw(*options)))
        self.assertEqual(len(set(pictures.values())), len(pictures))

    def test_what_has_no_effect_is_the_same_and_said(self):
        plain = self.draw()
        for options, warning in [
            (["--prompt-2", "a red apple"], None),
            (["--prompt-2", ""], None),
            (["--true-cfg-scale", "1"], None),
            (["--true-cfg-scale", "0"], None),
            (["--true-cfg-scale", "4"], NO_NEGATIVE),
            (["--negative-prompt", "a panda"], NO_SCALE),
            (["--negative-prompt", "a panda", "--true-cfg-scale", "1"], NO_SCALE),
            (["--negative-prompt", "", "--true-cfg-scale", "0.5"], NO_SCALE),
        ]:
            with self.subTest(options):
                done = self.succeed("a red apple", *SHORT, *options)
                self.assertEqual((self.folder / "out.png").read_bytes(), plain)
                self.assertEqual(done.stderr.decode().count("warning"), 1 if warning else 0)
                self.assertIn(warning or "", done.stderr.decode())

    def test_wrong_values(self):
        for scale in ["nan", "inf", "", "x", "1,5", "-1"]:
            self.fail_with(2, "x", "--negative-prompt", "y", "--true-cfg-scale", scale,
                           says=["--true-cfg-scale", "0 or more"])
        self.fail_with(2, "x", "--negative-prompt-2", "y", says="without --negative-prompt")
        for option in ["--prompt-2", "--negative-prompt"]:
            self.fail_with(2, "x", option, b"caf\xe9".decode(errors="surrogateescape"),
                           says=[option, "UTF-8"])

    def test_lost_text_is_named(self):
        long = " ".join(["apple"] * 90)
        for options, parts in [
            (["--prompt-2", "short"], ["CLIP", "of the prompt;"]),
            (["--prompt-2", long], ["T5", "of prompt-2;"]),
            (["--negative-prompt", long, "--negative-prompt-2", "short"],
             ["CLIP", "of the negative prompt;"]),
            (["--negative-prompt", "short", "--negative-prompt-2", long],
             ["T5", "of negative-prompt-2;"]),
        ]:
            prompt = long if options == ["--prompt-2", "short"] else "a red apple"
            for _ in range(2):  # encoded, and from the cache
                done = self.succeed(prompt, *SHORT, *options, "--true-cfg-scale", "1",
                                    *(["--true-cfg-scale", "2"] if len(options) > 2 else []),
                                    "--max-sequence-length", "24")
                warnings = [line for line in done.stderr.decode().splitlines() if "lost" in line]
                self.assertEqual(len(warnings), 1, warnings)
                for part in parts:
                    self.assertIn(part, warnings[0])

    def test_pictures_of_one_run_are_those_of_their_own(self):
        self.succeed("a red apple", *SHORT, *GUIDED, "-q", "-n", "3", "-s", "7", "-o", "n.png")
        for number in range(3):
            self.assertEqual((self.folder / f"n-{number + 1}.png").read_bytes(),
                             self.draw(*GUIDED, "-s", 7 + number))

    def test_other_ways_to_make_a_picture_take_it(self):
        large = ["-W", "64", "-H", "32"]
        for options in [["--tile", "32"], ["--base-size", "32"]]:
            plain = self.draw(*large, *options)
            guided = self.draw(*large, *options, *GUIDED, "--prompt-2", "a castle",
                               output="guided.png")
            self.assertNotEqual(pixels(guided), pixels(plain))
            self.succeed("--from", "guided.png", "-q")
            self.assertEqual((self.folder / "out.png").read_bytes(), guided)
        # What a picture was made with counts when it is enlarged.
        self.succeed("upscale", "guided.png", "--to", "128", "--tile", "64", "--steps", "2",
                     "--device", "cpu", "-q")
        record = self.record("upscaled.png")
        self.assertEqual([record[key] for key in ["prompt_2", "negative_prompt", "true_cfg_scale"]],
                         ["a castle", "a panda", 3.5])

    def test_little_memory_changes_nothing(self):
        whole = self.draw(*GUIDED)
        plan = json.loads(self.succeed("plan", "--json", *SHORT, *GUIDED).stdout)
        limit = self.least_ram(*SHORT, *GUIDED) + (8 << 20)
        self.assertLess(limit, plan["ram_peak_bytes"] + (64 << 20))
        self.assertEqual(self.draw(*GUIDED, "--max-ram", limit), whole)

    def test_plan_shows_it(self):
        plain = json.loads(self.succeed("plan", "--json", *SHORT).stdout)
        guided = json.loads(self.succeed("plan", "--json", *SHORT, *GUIDED).stdout)
        empty = json.loads(self.succeed("plan", "--json", *SHORT, "--negative-prompt", "",
                                        "--true-cfg-scale", "2", "-n", "3").stdout)
        self.assertEqual([p["workload"]["num_guided"] for p in [plain, guided, empty]], [0, 1, 3])
        self.assertEqual([p["workload"]["num_prompts"] for p in [plain, guided, empty]], [1, 2, 2])
        taken = [{phase["name"]: phase["host_activation_bytes"] for phase in p["phases"]}
                 for p in [plain, guided]]
        for phase in ["encode", "modulate", "denoise"]:
            self.assertGreater(taken[1][phase], taken[0][phase])
        said = b"computes each step twice"
        self.assertIn(said, self.succeed("plan", *SHORT, *GUIDED).stdout)
        self.assertNotIn(said, self.succeed("plan", *SHORT).stdout)
        done = self.succeed("plan", *SHORT, *GUIDED[:2])
        self.assertNotIn(said, done.stdout)
        self.assertIn(NO_SCALE, done.stderr.decode())

    def test_configuration_files_may_say_it(self):
        (self.folder / "c.toml").write_text(
            'negative-prompt = "a panda"\ntrue-cfg-scale = 3.5\nprompt-2 = "a castle"\n')
        self.assertEqual(self.draw("--config", "c.toml"),
                         self.draw(*GUIDED, "--prompt-2", "a castle"))


class GuidanceRecordTest(PromptsTest):
    ALL = [*GUIDED, "--negative-prompt-2", "snow", "--prompt-2", "a castle"]
    KEYS = ["prompt_2", "negative_prompt", "negative_prompt_2", "true_cfg_scale"]

    def test_from_repeats_bit_for_bit(self):
        first = self.draw(*self.ALL, output="first.png")
        record = self.record("first.png")
        self.assertEqual([record[key] for key in self.KEYS], ["a castle", "a panda", "snow", 3.5])
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        self.assertNotIn(b"warning", done.stderr)

    def test_options_override(self):
        self.draw(*self.ALL, output="first.png")
        for options, expected in [
            (["--true-cfg-scale", "2"], ["a castle", "a panda", "snow", 2.0]),
            (["--prompt-2", ""], [None, "a panda", "snow", 3.5]),
            (["--prompt-2", "two"], ["two", "a panda", "snow", 3.5]),
            # What T5 read belongs to the prompt that is replaced.
            (["a red apple"], [None, "a panda", "snow", 3.5]),
            (["--negative-prompt", "rain"], ["a castle", "rain", None, 3.5]),
            (["--negative-prompt-2", "rain"], ["a castle", "a panda", "rain", 3.5]),
        ]:
            with self.subTest(options):
                self.succeed("--from", "first.png", "-q", *options)
                record = self.record()
                self.assertEqual([record.get(key) for key in self.KEYS], expected)
        done = self.succeed("--from", "first.png", "--true-cfg-scale", "1")
        self.assertIn(NO_SCALE, done.stderr.decode())
        self.assertNotIn("negative_prompt", self.record())

    def test_other_programs_read_the_negative_prompt(self):
        self.draw(*GUIDED)
        parameters = png_text((self.folder / "out.png").read_bytes(), "parameters")
        self.assertTrue(parameters.startswith("a red apple\nNegative prompt: a panda\nSteps: 2, "))
        self.assertIn(", CFG scale: 3.5, ", parameters)

    def test_json(self):
        answer = json.loads(self.succeed("x", *SHORT, *self.ALL, "--json").stdout)
        self.assertEqual([answer[key] for key in self.KEYS], ["a castle", "a panda", "snow", 3.5])
        self.assertEqual([p["name"] for p in answer["phases"]],
                         ["encode", "modulate", "denoise", "decode"])
        for phase in answer["phases"]:
            self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"], phase["name"])
        plain = json.loads(self.succeed("x", *SHORT, "--json").stdout)
        self.assertEqual([key for key in self.KEYS if key in plain], [])


class GuidanceBatchTest(BatchTest):
    LINES = [{"prompt": "a", "negative_prompt": "dark", "true_cfg_scale": 3},
             {"prompt": "b"},
             {"prompt": "c", "negative_prompt": "", "true_cfg_scale": "1.5", "prompt_2": "d", "n": 2},
             {"prompt": "dark", "negative_prompt": "a", "negative_prompt_2": "b",
              "true_cfg_scale": 2}]
    EXPECTED = {
        "0001.png": ["a", *SHORT, "--negative-prompt", "dark", "--true-cfg-scale", "3"],
        "0002.png": ["b", *SHORT],
        "0003-1.png": ["c", *SHORT, "--negative-prompt", "", "--true-cfg-scale", "1.5",
                       "--prompt-2", "d"],
        "0003-2.png": ["c", *SHORT, "--negative-prompt", "", "--true-cfg-scale", "1.5",
                       "--prompt-2", "d", "-s", "1"],
        "0004.png": ["dark", *SHORT, "--negative-prompt", "a", "--negative-prompt-2", "b",
                     "--true-cfg-scale", "2"]}

    def inputs(self, lines=None):
        return self.write("p.jsonl", "\n".join(map(json.dumps, lines or self.LINES)))

    def test_every_prompt_may_have_its_own(self):
        answers, error = self.batch(self.inputs(), *SHORT, "--json", "--gallery", "g.html")
        self.assertNotIn("warning", error)
        self.assertEqual([a.get("negative_prompt") for a in answers], ["dark", None, "", "", "a"])
        self.assertEqual([a.get("true_cfg_scale") for a in answers], [3, None, 1.5, 1.5, 2])
        self.assertEqual([a.get("prompt_2") for a in answers], [None, None, "d", "d", None])
        self.assertEqual(self.pictures(), self.generated(self.EXPECTED))
        done = [line for line in self.journal() if line["event"] == "done"]
        self.assertEqual(done[4]["negative_prompt_2"], "b")
        self.assertIn("<dt>negative prompt</dt><dd>dark</dd>", (self.folder / "g.html").read_text())

    def test_tables_too(self):
        prompts = self.write("p.csv", "prompt,negative-prompt,true_cfg_scale,prompt-2\n"
                                      "a,dark,3,\nb,,,\n")
        self.batch(prompts, *SHORT)
        expected = self.generated({name: self.EXPECTED[name] for name in ["0001.png", "0002.png"]})
        self.assertEqual(self.pictures(), expected)

    def test_the_command_lines_texts_are_for_all(self):
        lines = [{"prompt": "a"}, {"prompt": "b", "negative_prompt": "rain"},
                 {"prompt": "c", "true_cfg_scale": 1}]
        answers, error = self.batch(self.inputs(lines), *SHORT, *GUIDED, "--negative-prompt-2",
                                    "snow", "--json")
        self.assertEqual([a.get("negative_prompt") for a in answers], ["a panda", "rain", None])
        # What T5 reads belongs to the negative prompt that was replaced.
        self.assertEqual([a.get("negative_prompt_2") for a in answers], ["snow", None, None])
        self.assertEqual(error.count("warning"), 1)
        self.assertIn(f"p.jsonl:3: {NO_SCALE}", error)

    def test_what_has_no_effect_is_said_once(self):
        lines = [{"prompt": "a"}, {"prompt": "b", "negative_prompt": "x"},
                 {"prompt": "c", "negative_prompt": "x"}, {"prompt": "d", "true_cfg_scale": 2}]
        _, error = self.batch(self.inputs(lines), *SHORT)
        self.assertEqual(error.count("warning"), 2)
        self.assertIn(f"p.jsonl:2: {NO_SCALE}", error)
        self.assertIn(f"p.jsonl:4: {NO_NEGATIVE}", error)

    def test_wrong_values_are_named_with_their_line(self):
        for entry, says in [('"true_cfg_scale": -1', "--true-cfg-scale -1: expected a number"),
                            ('"true_cfg_scale": "nan"', "--true-cfg-scale nan"),
                            ('"negative_prompt_2": "a"', "without --negative-prompt"),
                            ('"negative_prompt": 5', "'negative_prompt' is a number")]:
            prompts = self.write("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", %s}\n' % entry)
            with self.subTest(entry):
                self.refuse(3, prompts, *SHORT, says=["p.jsonl:2: ", says])

    def test_other_texts_are_other_settings(self):
        first = [{"prompt": "a", "negative_prompt": "dark", "true_cfg_scale": 3}]
        self.batch(self.inputs(first), *SHORT)
        for change in [{"negative_prompt": "rain"}, {"true_cfg_scale": 4}, {"prompt_2": "x"},
                       {"negative_prompt_2": "x"}, {"true_cfg_scale": 1}]:
            self.refuse(2, self.inputs([{**first[0], **change}]), *SHORT, "-q", says="0001.png")
        _, error = self.batch(self.inputs(first), *SHORT)  # and these are the same
        self.assertIn("1 were there already", error)
        self.batch(self.inputs([{**first[0], "prompt_2": "a"}]), *SHORT)

    def test_kill_and_checkpoints(self):
        lines = [{"prompt": "one"}, {"prompt": "two"}]
        options = [self.inputs(lines), *GUIDED, "--steps", "40", "-W", "64", "-H", "64",
                   "--device", "cpu"]
        self.check_goes_on_after_a_kill(*options, step=42)  # of the second


class GuidanceEmbeddingsTest(BatchTest):
    def without_encoders(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        for encoder in ["text_encoder", "text_encoder_2"]:
            (model / encoder / "model.safetensors").unlink()
        shutil.rmtree(CACHE, ignore_errors=True)
        return ["-m", model, "--prompt-embeds", "e.safetensors"]

    def drawn(self, *arguments):
        self.succeed(*arguments, *SHORT, "-q", "-o", "out.png")
        return pixels((self.folder / "out.png").read_bytes())

    def test_one_prompt_with_other_texts(self):
        texts = ["--prompt-2", "a castle", "--negative-prompt", "", "--negative-prompt-2", "snow"]
        guided = [*texts, "--true-cfg-scale", "2"]
        expected = self.drawn("a red apple", *guided)
        self.succeed("encode", "a red apple", *texts, "-o", "e.safetensors")
        file = json.loads(self.succeed("inspect", "--json", "e.safetensors").stdout)
        self.assertEqual([(p["prompt"], p.get("prompt_2"), p["negative"]) for p in file["prompts"]],
                         [("a red apple", "a castle", False), ("", "snow", True)])
        shown = self.succeed("inspect", "e.safetensors").stdout
        self.assertIn(b"a red apple (T5 read: a castle)", shown)
        embeds = self.without_encoders()
        self.assertEqual(self.drawn("a red apple", *guided, *embeds), expected)
        # The file says the prompt, and what T5 read of it.
        self.assertEqual(self.drawn(*guided[2:], *embeds), expected)
        self.fail_with(3, "a red apple", *SHORT, "-q", *embeds, says='prompt "a red apple"')
        self.fail_with(3, "a red apple", *SHORT, "-q", *embeds, "--prompt-2", "x", says='"x" for T5')
        self.fail_with(3, *SHORT, "-q", *embeds, "--negative-prompt", "y", "--true-cfg-scale", "2",
                       says='prompt "y"')

    def test_a_prompt_file(self):
        lines = GuidanceBatchTest.LINES
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, lines)))
        self.batch(prompts, *SHORT, "-o", "whole")
        self.succeed("encode", "@p.jsonl", "-o", "e.safetensors")
        file = json.loads(self.succeed("inspect", "--json", "e.safetensors").stdout)
        # The first negative prompt is the last prompt.
        self.assertEqual([(p["prompt"], p.get("prompt_2")) for p in file["prompts"]],
                         [("a", None), ("b", None), ("c", "d"), ("dark", None), ("", None),
                          ("a", "b")])
        embeds = self.without_encoders()
        self.batch(prompts, *SHORT, *embeds, "--events", "events.jsonl")
        self.assertNotIn("encode", [e["phase"] for e in of(self.events(), "phase_started")])
        self.assertEqual({name: pixels(data) for name, data in self.pictures().items()},
                         {name: pixels(data) for name, data in self.pictures("whole").items()})
        # Without a prompt file: pictures of prompts only.
        answers, _ = self.batch(*SHORT, *embeds, "-o", "all", "--json")
        self.assertEqual([(a["prompt"], a.get("prompt_2")) for a in answers],
                         [("a", None), ("b", None), ("c", "d"), ("dark", None)])

    def test_wrong_lines_are_named(self):
        self.write("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "negative_prompt_2": "c"}\n')
        self.fail_with(3, "encode", "@p.jsonl", says=["p.jsonl:2: ", "--negative-prompt"])

    def test_the_cache_tells_texts_apart(self):
        first = self.drawn("a red apple", "--prompt-2", "a castle")
        for options, encodes in [(["--prompt-2", "a castle"], False), (["--prompt-2", ""], True),
                                 ([], False), (["--prompt-2", "a red apple"], False),
                                 (GUIDED, True), (GUIDED, False)]:
            done = self.succeed("a red apple", *SHORT, "--json", *options)
            phases = [p["name"] for p in json.loads(done.stdout)["phases"]]
            self.assertEqual("encode" in phases, encodes, options)
        self.assertEqual(self.drawn("a red apple", "--prompt-2", "a castle"), first)
