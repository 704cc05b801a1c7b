"""FLUX.1-Redux: pictures that are taken up beside the prompt. Part of cli_test.py."""

import json
import pathlib
import shutil
import tempfile

from batch_program import BatchTest, of
from image_cases import GOLDENS, ImageTest
from picture_program import largest_difference
from png_pixels import read_png
from variant_models import change_json, make_variant

FOLDER = GOLDENS / "redux"
MODEL = FOLDER / "model"
PHOTO, TALL, DEPTH = (GOLDENS / f"variants/{name}.png" for name in ["photo", "tall", "depth"])
SHORT = ["-m", GOLDENS / "b/model", "--steps", "2", "-W", "48", "-H", "32", "--device", "cpu",
         "--dtype", "fp32", "--max-sequence-length", "24"]
REDUX = ["--redux", MODEL, "--redux-image", PHOTO]


class ReduxTest(ImageTest):
    def drawn(self, *options, prompt="a red apple", output="out.png"):
        """prompt: None for none."""
        self.succeed(*([] if prompt is None else [prompt]), *SHORT, "-q", "-o", output, *options)
        return (self.folder / output).read_bytes()

    def pixels(self, *options, **more):
        self.drawn(*options, **more)
        return read_png(self.folder / "out.png")[2]


class ReduxGoldensTest(ReduxTest):
    @classmethod
    def setUpClass(cls):
        cls.models = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-redux-"))
        cls.addClassCleanup(shutil.rmtree, cls.models)
        for kind in ["kontext", "control"]:
            make_variant(kind, cls.models / kind)

    def test_pictures_are_those_of_diffusers(self):
        manifest = json.loads((FOLDER / "manifest.json").read_text())
        options = ["-W", manifest["width"], "-H", manifest["height"], "--steps",
                   manifest["steps"], "--guidance", manifest["guidance"], "-s", manifest["seed"],
                   "--max-sequence-length", manifest["max_sequence_length"], "--dtype", "fp32",
                   "--device", "cpu", "--redux", MODEL]
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"]):
                kind = golden["model"]
                model = GOLDENS / "b/model" if kind == "dev" else self.models / kind
                own = ["-m", model]
                for name, scale in golden["images"]:
                    own += ["--redux-image", f"{GOLDENS / 'variants' / name}:{scale}"]
                for name, value in golden["options"].items():
                    is_file = name in ["reference", "control-image"]
                    own += [f"--{name}", GOLDENS / "variants" / value if is_file else value]
                prompt = [] if golden["prompt"] is None else [golden["prompt"]]
                self.succeed(*prompt, *options, *own, "-q", "-o", "out.png")
                self.assertGolden(FOLDER / golden["file"])


class ReduxPictureTest(ReduxTest):
    def test_what_is_taken_up_counts(self):
        plain, shown = self.pixels(), self.pixels(*REDUX)
        self.assertGreater(largest_difference(plain, shown), 20)
        for options in [["--redux-image", TALL], ["--redux-image", f"{PHOTO}:0.3"],
                        ["--redux-image", PHOTO, "--redux-image", TALL]]:
            self.assertGreater(
                largest_difference(shown, self.pixels("--redux", MODEL, *options)), 5, options)
        self.assertEqual(self.pixels("--redux", MODEL, "--redux-image", f"{PHOTO}:1"), shown)

    def test_with_or_without_a_prompt(self):
        none = self.pixels(*REDUX, prompt=None)
        self.assertNotEqual(none, self.pixels(*REDUX))
        self.assertNotEqual(none, self.pixels(*REDUX, prompt=""))
        # No text encoder is needed then.
        model = shutil.copytree(GOLDENS / "b/model", self.folder / "model")
        for part in ["text_encoder", "text_encoder_2"]:
            for shard in (model / part).glob("*.safetensors"):
                shard.unlink()
        self.assertEqual(self.pixels(*REDUX, "-m", model, prompt=None), none)
        self.fail_with(3, "a", *SHORT, *REDUX, "-m", model, says="text_encoder")

    def test_beside_other_pictures(self):
        init = ["--image", DEPTH, "--strength", "0.7"]
        self.assertNotEqual(self.pixels(*init), self.pixels(*init, *REDUX))

    def test_single_files(self):
        expected = self.pixels(*REDUX)
        parts = [MODEL / "image_embedder/diffusion_pytorch_model.safetensors",
                 MODEL / "image_encoder/model.safetensors"]
        redux, siglip = (shutil.copy(part, self.folder / name)
                         for part, name in zip(parts, ["redux.safetensors", "siglip.safetensors"],
                                               strict=True))
        image = ["--redux-image", PHOTO]
        # A file does not tell how many heads SigLIP has; a component folder does.
        found = self.pixels("--redux", redux, "--image-encoder", MODEL / "image_encoder", *image)
        self.assertEqual(found, expected)
        self.fail_with(3, "a", *SHORT, "--redux", redux, *image, says="--image-encoder")
        self.fail_with(3, "a", *SHORT, "--redux", redux, "--image-encoder", siglip, *image,
                       says="no multiple")
        self.fail_with(3, "a", *SHORT, "--redux", siglip, "--image-encoder",
                       MODEL / "image_encoder", *image, says=["siglip.safetensors", "redux_up"])

    def test_texts_come_from_the_cache(self):
        self.drawn()  # keeps the embeddings of the prompt
        result = json.loads(self.succeed("a red apple", *SHORT, *REDUX, "--json").stdout)
        self.assertEqual([phase["name"] for phase in result["phases"]],
                         ["encode", "modulate", "denoise", "decode"])
        # What is kept is the prompt alone.
        self.assertEqual(self.pixels(), self.pixels("--no-cache"))

    def test_predictions_hold(self):
        done = self.succeed("x", *SHORT, *REDUX, "--redux-image", TALL, "--json")
        for phase in json.loads(done.stdout)["phases"]:
            self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"], phase)


class ReduxRepeatTest(ReduxTest):
    def test_from_repeats_bit_for_bit(self):
        for prompt in ["a red apple", None]:
            first = self.drawn(*REDUX, "--redux-image", f"{TALL}:-0.5", "-s", "3", prompt=prompt,
                               output="first.png")
            done = self.succeed("--from", "first.png", "-o", "again.png")
            self.assertEqual((self.folder / "again.png").read_bytes(), first)
            self.assertNotIn(b"warning", done.stderr)
        self.assertNotEqual(self.drawn("--from", "first.png", "--redux-image", PHOTO, prompt=None),
                            first)
        plain = self.drawn("--from", "first.png", "--redux-image", "", prompt="a red apple")
        self.assertEqual(plain, self.drawn("-s", "3"))

    def test_what_is_recorded(self):
        self.drawn(*REDUX, "--redux-image", f"{TALL}:0.5", prompt=None)
        record = self.record()
        self.assertEqual(record["prompt"], "")
        self.assertEqual(record["redux"]["prompt"], False)
        self.assertEqual([(i["image"], i["scale"]) for i in record["redux"]["images"]],
                         [(str(PHOTO), 1.0), (str(TALL), 0.5)])
        self.assertEqual(record["model_parts"], {"redux": str(MODEL)})
        self.drawn()
        self.assertNotIn("redux", self.record())

    def test_what_changed_is_said(self):
        shutil.copy(PHOTO, self.folder / "photo.png")
        model = shutil.copytree(MODEL, self.folder / "redux")
        self.drawn("--redux", model, "--redux-image", "photo.png", output="first.png")
        shutil.copy(TALL, self.folder / "photo.png")
        change_json(model / "image_embedder/config.json", note="changed")
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertIn(b"warning: Redux (its files' hash)", done.stderr)
        self.assertIn(b"warning: picture that is taken up", done.stderr)
        shutil.rmtree(model)
        self.fail_with(3, "--from", "first.png", says="image_encoder")


class ReduxRefusalsTest(ReduxTest):
    def refused(self, *options, says, code=2, commands=("x",)):
        for command in commands:
            self.fail_with(code, command, *SHORT, *options, says=says)

    def test_options_that_do_not_go_together(self):
        self.refused("--redux-image", PHOTO, says="--redux-image without --redux",
                     commands=["x", "plan"])
        self.fail_with(2, "x", *SHORT, "--redux", MODEL, says="--redux without --redux-image")
        self.refused("--image-encoder", MODEL, says="--image-encoder without --redux")
        self.fail_with(2, *SHORT, *REDUX, "--prompt-2", "x", says="--prompt-2 without a prompt")
        self.fail_with(2, *SHORT, "--redux", MODEL, "--redux-image", "", says="no prompt given")
        self.refused("--redux", "", "--redux-image", PHOTO, says="--redux: the name is empty")
        self.refused("--redux", MODEL, "--redux-image", f"{PHOTO}:much", says="photo.jpg:0.7")

    def test_files_that_are_no_pictures(self):
        (self.folder / "notes.png").write_text("a red apple\n")
        for name in ["notes.png", "missing.png"]:
            self.refused("--redux", MODEL, "--redux-image", name, says=name, code=3)

    def test_folders_that_are_no_redux(self):
        image = ["--redux-image", PHOTO]
        self.refused("--redux", "nowhere", *image, code=3, says=["nowhere", "FLUX.1-Redux"])
        self.refused("--redux", GOLDENS / "b/model", *image, code=3, says="image_encoder")
        model = shutil.copytree(MODEL, self.folder / "redux")
        shutil.rmtree(model / "image_encoder")
        self.refused("--redux", model, *image, code=3, says="image_encoder: no such")
        for file, change, says in [
                ("image_embedder/config.json", {"txt_in_features": 24}, "gives tokens of 24"),
                ("image_embedder/config.json", {"redux_dim": 16}, "takes 16 values"),
                ("image_encoder/config.json", {"hidden_act": "gelu"}, "hidden_act"),
                ("image_encoder/config.json", {"image_size": 40}, "preprocessor_config.json: size"),
                ("feature_extractor/preprocessor_config.json", {"resample": 2}, "resample"),
                ("feature_extractor/preprocessor_config.json", {"image_mean": [0.4, 0.5, 0.5]},
                 "image_mean")]:
            with self.subTest(says):
                shutil.rmtree(model)
                shutil.copytree(MODEL, model)
                change_json(model / file, **change)
                self.refused("--redux", model, *image, code=3, says=says)
        shutil.rmtree(model)
        shutil.copytree(MODEL, model)
        change_json(model / "image_encoder/config.json", intermediate_size=32)
        self.fail_with(3, "x", *SHORT, "--redux", model, *image, says="mlp.fc1")

    def test_a_redux_folder_is_no_model(self):
        self.fail_with(3, "x", "-m", MODEL, says=["FluxPriorReduxPipeline", "--redux"])


class ReduxPlanTest(ReduxTest):
    def plan(self, *options):
        done = self.succeed("plan", "--json", *SHORT, *options)
        return json.loads(done.stdout)

    def test_tokens_are_part_of_the_plan(self):
        plain, shown = self.plan(), self.plan(*REDUX)
        self.assertIsNone(plain["workload"]["redux"])
        self.assertEqual(shown["workload"]["redux"], {"images": 1, "tokens": 9})
        encode = {phase["name"]: phase for phase in shown["phases"]}["encode"]
        self.assertEqual([weights["component"] for weights in encode["weights"]],
                         ["text_encoder", "text_encoder_2", "image_encoder", "image_embedder"])

        def activations(plan):
            return {phase["name"]: phase["host_activation_bytes"] for phase in plan["phases"]}
        self.assertGreater(activations(shown)["denoise"], activations(plain)["denoise"])
        self.assertEqual(self.plan("--redux", MODEL)["workload"], shown["workload"])
        self.assertGreater(shown["disk_bytes"], plain["disk_bytes"])
        text = self.succeed("plan", *SHORT, *REDUX).stdout
        self.assertIn(b"with 9 tokens of a picture behind the prompt", text)

    def test_inspect_says_what_it_is(self):
        described = json.loads(self.succeed("inspect", "--json", MODEL).stdout)
        self.assertEqual((described["kind"], described["tokens"], described["width"]),
                         ("redux", 9, 20))
        self.assertEqual(set(described["components"]), {"image_embedder", "image_encoder"})
        self.assertIn(b"FLUX.1-Redux", self.succeed("inspect", MODEL).stdout)
        for part, what in [("image_encoder", b"a SigLIP image encoder"),
                           ("image_embedder", b"FLUX.1 Redux")]:
            self.assertIn(what, self.succeed("inspect", MODEL / part).stdout)


class ReduxBatchTest(BatchTest, ReduxTest):
    def test_every_prompt_may_have_its_own(self):
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, [
            {"prompt": "a", "redux-image": str(PHOTO), "n": 2},
            {"prompt": "a", "redux_image": [f"{PHOTO}:0.5", str(TALL)]},
            {"prompt": "a"}, {"prompt": "b", "redux-image": str(TALL)}])))
        options = [*SHORT, "--redux", MODEL]
        answers, _ = self.batch(prompts, *options, "--json", "--no-cache")
        self.assertEqual([len(a.get("redux", {}).get("images", [])) for a in answers],
                         [1, 1, 2, 0, 1])
        both = ["--redux-image", f"{PHOTO}:0.5", "--redux-image", TALL]
        self.assertEqual(self.pictures(), self.generated({
            "0001-1.png": ["a", *options, "--redux-image", PHOTO],
            "0001-2.png": ["a", *options, "--redux-image", PHOTO, "-s", "1"],
            "0002.png": ["a", *options, *both],
            "0003.png": ["a", *SHORT],
            "0004.png": ["b", *options, "--redux-image", TALL]}))

    def test_other_content_is_other_settings(self):
        shutil.copy(PHOTO, self.folder / "photo.png")
        options = [self.write("p.txt", "one\n"), *SHORT, "--redux", MODEL, "--redux-image",
                   "photo.png"]
        self.batch(*options)
        self.batch(*options, "--events", "events.jsonl")
        self.assertEqual(of(self.events(), "picture"), [])
        shutil.copy(TALL, self.folder / "photo.png")
        self.refuse(2, *options, says="0001.png")

    def test_lines_that_are_wrong(self):
        for entry, says in [('"redux-image": "missing.png"', "missing.png"),
                            ('"redux-image": 3', "expected a string or a list of strings"),
                            ('"redux": "x"', "--redux on the command line")]:
            prompts = self.write("p.jsonl", '{"prompt": "b", %s}\n' % entry)
            self.refuse(3, prompts, *SHORT, "--redux", MODEL, says=["p.jsonl:1: ", says])
        prompts = self.write("p.jsonl", '{"prompt": "b", "redux-image": "%s"}\n' % PHOTO)
        self.refuse(3, prompts, *SHORT, says=["p.jsonl:1: ", "without --redux"])
