"""Kontext, Fill, Depth and Canny: models that are shown a picture. Part of cli_test.py."""

import json
import pathlib
import shutil
import tempfile

from batch_program import BatchTest, of
from image_cases import GOLDENS, ImageTest
from picture_program import largest_difference
from png_pixels import read_png, write_png
from variant_models import make_variant

FOLDER = GOLDENS / "variants"
PHOTO, MASK, DEPTH = (FOLDER / f"{name}.png" for name in ["photo", "mask", "depth"])
SHORT = ["--steps", "2", "--device", "cpu", "--dtype", "fp32", "--max-sequence-length", "24"]
SHOWN = {"kontext": ["--reference", PHOTO, "--reference-size", "own"],
         "fill": ["--image", PHOTO, "--mask", MASK],
         "control": ["--control-image", DEPTH]}


def mean_difference(a, b):
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


class VariantTest(ImageTest):
    @classmethod
    def setUpClass(cls):
        cls.models = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-variants-"))
        cls.addClassCleanup(shutil.rmtree, cls.models)
        for kind in SHOWN:
            make_variant(kind, cls.models / kind)

    def drawn(self, kind, *options, output="out.png"):
        return self.draw("-m", self.models / kind, *SHORT, *(options or SHOWN[kind]),
                         output=output)

    def pixels(self, *arguments):
        self.drawn(*arguments)
        return read_png(self.folder / "out.png")

    def plan(self, kind, *options):
        done = self.succeed("plan", "--json", "--device", "cpu", "-m", self.models / kind, *options)
        return json.loads(done.stdout)


class VariantGoldensTest(VariantTest):
    def test_pictures_are_those_of_diffusers(self):
        manifest = json.loads((FOLDER / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"]):
                options = ["-m", self.models / golden["model"], "-W", golden["width"], "-H",
                           golden["height"], "--steps", golden["steps"], "--guidance",
                           golden["guidance"], "-s", manifest["seed"], "--max-sequence-length",
                           manifest["max_sequence_length"], "--dtype", "fp32", "--device", "cpu"]
                for name, value in golden["shown"].items():
                    is_file = name != "reference-size"
                    options += [f"--{name}", FOLDER / value if is_file else value]
                self.succeed(manifest["prompt"], *options, "-q", "-o", "out.png")
                self.assertGolden(FOLDER / golden["file"])

    def test_what_is_shown_counts(self):
        write_png(self.folder / "grey.png", 48, 32, bytes([128]) * (48 * 32 * 3))
        for kind, option in [("kontext", "--reference"), ("fill", "--image"),
                             ("control", "--control-image")]:
            others = [option, "grey.png", *SHOWN[kind][2:]]
            self.assertGreater(
                largest_difference(self.pixels(kind)[2], self.pixels(kind, *others)[2]), 20, kind)
        inverted = [255 - value for value in read_png(MASK)[2]]
        write_png(self.folder / "inverted.png", 48, 32, bytes(inverted))
        others = ["--image", PHOTO, "--mask", "inverted.png"]
        self.assertGreater(
            largest_difference(self.pixels("fill")[2], self.pixels("fill", *others)[2]), 20)

    def test_kontext_without_a_folder_of_its_own(self):
        shown = SHOWN["kontext"]
        picture = self.drawn("kontext")
        self.assertEqual(self.drawn("kontext", "--image", PHOTO, *shown[2:]), picture)
        *_, expected = read_png(self.folder / "out.png")
        # The tensors are those of dev, the guidance is not.
        self.draw("-m", GOLDENS / "b/model", *SHORT, *shown, "--guidance", "2.5")
        self.assertEqual(read_png(self.folder / "out.png")[2], expected)

    def test_in_tiles(self):
        self.picture("wide.png", 96, 32)
        self.mask(lambda x, y: 20 < x < 70, width=96)
        for kind, options in [("control", ["--control-image", "wide.png"]),
                              ("fill", ["--image", "wide.png", "--mask", "mask.png"])]:
            whole = self.pixels(kind, *options)
            self.assertEqual(self.pixels(kind, *options, "--tile", "96"), whole)
            in_tiles = self.pixels(kind, *options, "--tile", "48")
            self.assertEqual(in_tiles[:2], (96, 32))
            self.assertNotEqual(in_tiles, whole)
            # What is shown goes with its tile: elsewhere it would be another picture.
            self.draw("-m", self.models / kind, *SHORT, *options, "--tile", "48", "-s", "1")
            other_seed = read_png(self.folder / "out.png")
            self.assertLess(mean_difference(in_tiles[2], whole[2]),
                            0.8 * mean_difference(other_seed[2], whole[2]))

    def test_from_a_single_file(self):
        *_, expected = self.pixels("fill")
        model = self.models / "fill"
        self.succeed("quantize", model, "fill.gguf", "--type", "bf16", "-q")
        described = json.loads(self.succeed("inspect", "--json", "fill.gguf").stdout)
        self.assertEqual(described["variant"], "FLUX.1-Fill")
        parts = ["--vae", model / "vae", "--clip-l", model / "text_encoder", "--t5",
                 model / "text_encoder_2", "--tokenizers", model]
        self.draw("-m", "fill.gguf", *parts, *SHORT, *SHOWN["fill"])
        self.assertEqual(read_png(self.folder / "out.png")[2], expected)


class VariantPlanTest(VariantTest):
    def test_sizes(self):
        self.picture("wide.png", 160, 50)
        for kind, options, expected in [
            ("control", ["--control-image", "wide.png"], (160, 48)),
            ("control", ["--control-image", "wide.png", "-W", "320"], (320, 96)),
            ("fill", ["--image", "wide.png", "--mask", MASK], (160, 48)),
            ("fill", [], (1024, 1024)),
            ("kontext", ["--reference", "wide.png"], (1568, 672)),
            ("kontext", ["--reference", "wide.png", "-H", "96"], (224, 96)),
            ("kontext", ["--reference", "wide.png", "--reference-size", "own"], (160, 48)),
            ("kontext", ["--reference", PHOTO], (1248, 832)),  # 48:32, of 53:37 cut down
            ("kontext", ["--reference", PHOTO, "--size", "64"], (64, 64)),
            ("kontext", [], (1024, 1024)),
        ]:
            with self.subTest((kind, options)):
                work = self.plan(kind, *options)["workload"]
                self.assertEqual((work["width"], work["height"]), expected)

    def test_what_is_shown_is_part_of_the_plan(self):
        size = ["-W", "256", "-H", "256"]

        def denoise(kind, *options):
            plan = self.plan(kind, *size, *options)
            phases = {phase["name"]: phase for phase in plan["phases"]}
            self.assertEqual("encode_image" in phases, kind != "kontext" or options != ())
            return (phases["denoise"]["ram_peak_bytes"] - plan["budget"]["ram_base"],
                    plan["workload"]["reference"])
        alone, none = denoise("kontext")
        self.assertIsNone(none)
        beside, reference = denoise("kontext", "--reference", PHOTO)
        self.assertEqual(reference, {"width": 1248, "height": 832})
        self.assertGreater(beside, alone + 1248 * 832 // 256 * 24 * 2)
        self.assertGreater(denoise("fill")[0], alone)
        self.assertEqual(denoise("fill"), denoise("fill", "--image", PHOTO, "--mask", MASK))
        text = self.succeed("plan", "-m", self.models / "kontext", "--reference", PHOTO).stdout
        self.assertIn(b"beside a reference of 1248 x 832", text)

    def test_predictions_hold(self):
        for kind in SHOWN:
            done = self.succeed("x", "-m", self.models / kind, *SHORT, *SHOWN[kind], "--json")
            result = json.loads(done.stdout)
            for phase in result["phases"]:
                self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"], (kind, phase))
            self.assertEqual(result["condition"]["role"],
                             "reference" if kind == "kontext" else kind)

    def test_the_models_say_what_they_are(self):
        for kind, steps, guidance in [("kontext", 28, 2.5), ("fill", 50, 30), ("control", 30, 10)]:
            described = json.loads(self.succeed("inspect", "--json", self.models / kind).stdout)
            self.assertEqual(described["variant"], kind)
            self.assertEqual((described["defaults"]["steps"], described["defaults"]["guidance"]),
                             (steps, guidance))
            report = json.loads(self.succeed("doctor", "--json", "-m", self.models / kind).stdout)
            self.assertEqual(report["models"][0]["variant"], kind)


class VariantRefusalsTest(VariantTest):
    def refused(self, kind, *options, says):
        for command in [["x"], ["plan"]]:
            self.fail_with(2, *command, "-m", self.models / kind, *options, says=says)

    def test_models_without_their_picture(self):
        for kind, option in [("fill", "--image"), ("control", "--control-image")]:
            self.fail_with(2, "x", "-m", self.models / kind, says=option)
        self.refused("fill", "--image", PHOTO, says="--mask")

    def test_pictures_that_are_not_for_the_model(self):
        strength = ["--strength", "0.5"]
        for kind, options, says in [
            ("fill", [*SHOWN["fill"], *strength], "--strength with FLUX.1-Fill"),
            ("fill", SHOWN["control"], "--image"),
            ("fill", SHOWN["kontext"], "--image"),
            ("control", ["--image", PHOTO], "--control-image"),
            ("control", [*SHOWN["control"], *strength], "--strength with --control-image"),
            ("control", [*SHOWN["control"], "--mask", MASK], "--mask with --control-image"),
            ("control", SHOWN["kontext"], "--control-image"),
            ("kontext", SHOWN["control"], "--control-image"),
            ("kontext", ["--reference", PHOTO, *strength], "--strength with --reference"),
            ("kontext", ["--image", PHOTO, *strength], "--strength with --image"),
            ("kontext", ["--image", PHOTO, "--mask", MASK], "--mask with --image"),
        ]:
            with self.subTest((kind, says)):
                self.refused(kind, *options, says=says)
        for option in ["--reference", "--control-image"]:  # the bundled model is a schnell
            self.fail_with(2, "x", option, PHOTO, says=f"no {option}")

    def test_options_that_do_not_go_together(self):
        self.refused("kontext", "--image", PHOTO, "--reference", PHOTO, says="give one")
        self.refused("kontext", "--control-image", PHOTO, "--reference", PHOTO, says="give one")
        self.refused("kontext", "--reference", PHOTO, "--reference-size", "64", says="preferred")
        self.refused("kontext", "--reference-size", "own", says="--reference-size without")
        self.refused("kontext", *SHOWN["kontext"], "--tile", "32", says="--tile")
        self.refused("control", *SHOWN["control"], "--progressive", says="--progressive")
        for kind, option in [("kontext", "--reference"), ("control", "--control-image")]:
            self.fail_with(2, "x", "-m", self.models / kind, option, PHOTO, "--size", "auto",
                           says="--size auto with " + option)

    def test_what_begins_from_noise_enlarges_nothing(self):
        for kind in ["fill", "control"]:
            self.fail_with(2, "upscale", PHOTO, "--to", "2x", "-m", self.models / kind,
                           says="enlarges no picture")

    def test_files_that_are_no_pictures(self):
        (self.folder / "notes.png").write_text("a red apple\n")
        for kind, options in [("kontext", ["--reference"]), ("control", ["--control-image"]),
                              ("fill", ["--image", PHOTO, "--mask"])]:
            for name in ["notes.png", "missing.png"]:
                self.fail_with(3, "x", "-m", self.models / kind, *options, name, says=name)

    def test_a_pipeline_that_is_not_known(self):
        model = shutil.copytree(self.models / "fill", self.folder / "model")
        index = model / "model_index.json"
        index.write_text(index.read_text().replace("FluxFillPipeline", "FluxPriorReduxPipeline"))
        self.fail_with(3, "x", "-m", "model", says=["FluxPriorReduxPipeline", "FluxFillPipeline"])
        index.write_text(index.read_text().replace("FluxPriorReduxPipeline", "FluxKontextPipeline"))
        self.fail_with(3, "x", "-m", "model", says="in_channels is 384")


class VariantRepeatTest(VariantTest):
    def test_from_repeats_bit_for_bit(self):
        for kind in SHOWN:
            with self.subTest(kind):
                first = self.drawn(kind, *SHOWN[kind], "-s", "3", output="first.png")
                done = self.succeed("--from", "first.png", "-o", "again.png")
                self.assertEqual((self.folder / "again.png").read_bytes(), first)
                self.assertNotIn(b"warning", done.stderr)

    def test_what_is_recorded(self):
        self.drawn("kontext")
        shown = self.record()["condition"]
        self.assertEqual((shown["role"], shown["image"], shown["width"], shown["height"]),
                         ("reference", str(PHOTO), 48, 32))
        self.drawn("fill", output="first.png")
        shown = self.record("first.png")["condition"]
        self.assertEqual((shown["role"], shown["image"], shown["mask"]),
                         ("fill", str(PHOTO), str(MASK)))
        self.succeed("--from", "first.png", "--mask", self.mask(lambda x, y: x < 9), "-q")
        changed = self.record()["condition"]
        self.assertEqual((changed["image"], changed["mask"]),
                         (str(PHOTO), str(self.folder / "mask.png")))
        self.fail_with(2, "--from", "first.png", "--strength", "0.5", says="FLUX.1-Fill")

    def test_pictures_that_changed(self):
        shutil.copy(DEPTH, self.folder / "depth.png")
        self.drawn("control", "--control-image", "depth.png", output="first.png")
        shutil.copy(FOLDER / "tall.png", self.folder / "depth.png")
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertIn(b"warning: picture that the model is shown", done.stderr)


class VariantBatchTest(BatchTest, VariantTest):
    def test_every_prompt_may_have_its_own(self):
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, [
            {"prompt": "a", "reference": str(PHOTO), "reference_size": "own", "n": 2},
            {"prompt": "b", "width": 32, "height": 32},
            {"prompt": "c", "image": str(DEPTH), "reference-size": "own", "seed": 4}])))
        model = ["-m", self.models / "kontext", *SHORT]
        answers, _ = self.batch(prompts, *model, "--json")
        self.assertEqual([a.get("condition", {}).get("image") for a in answers],
                         [str(PHOTO), str(PHOTO), None, str(DEPTH)])
        own = [*model, "--reference-size", "own"]
        self.assertEqual(self.pictures(), self.generated({
            "0001-1.png": ["a", *own, "--reference", PHOTO],
            "0001-2.png": ["a", *own, "--reference", PHOTO, "-s", "1"],
            "0002.png": ["b", *model, "-W", "32", "-H", "32"],
            "0003.png": ["c", *own, "--reference", DEPTH, "-s", "4"]}))

    def test_other_content_is_other_settings(self):
        for name in ["photo", "mask"]:
            shutil.copy(FOLDER / f"{name}.png", self.folder)
        options = [self.write("p.txt", "one\n"), "-m", self.models / "fill", *SHORT,
                   "--image", "photo.png", "--mask", "mask.png"]
        self.batch(*options)
        self.batch(*options, "--events", "events.jsonl")
        self.assertEqual(of(self.events(), "picture"), [])
        self.mask(lambda x, y: x < 9)
        self.refuse(2, *options, says="0001.png")

    def test_lines_that_do_not_fit_the_model(self):
        for kind, entry, says in [("fill", '"image": "%s"' % PHOTO, "--mask"),
                                  ("control", '"seed": 1', "--control-image"),
                                  ("kontext", '"control-image": "%s"' % PHOTO, "--control-image"),
                                  ("kontext", '"reference": 1', "expected a string")]:
            prompts = self.write("p.jsonl", '{"prompt": "b", %s}\n' % entry)
            self.refuse(3, prompts, "-m", self.models / kind, *SHORT, says=["p.jsonl:1: ", says])

    def test_kill_and_checkpoints(self):
        for kind in SHOWN:
            with self.subTest(kind):
                options = [self.write("p.txt", "one\ntwo\n"), "-m", self.models / kind, *SHORT,
                           *SHOWN[kind], "--steps", "300"]
                self.check_goes_on_after_a_kill(*options, step=320, folder=kind)  # of the second
