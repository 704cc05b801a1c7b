"""Image to image and inpainting: --image, --mask, --strength, and the same in prompt files. Part of
cli_test.py."""

import json
import pathlib
import shutil

from batch_program import BatchTest, of
from picture_program import PictureTest
from png_pixels import read_png, write_png
from program import PHASES

SHORT = ["--steps", "2", "--device", "cpu"]
IMAGE_PHASES = [PHASES[0], "encode_image", *PHASES[1:]]
GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"


def shades(width, height):
    return bytes((x * 255 // width, y * 255 // height, 128)[c]
                 for y in range(height) for x in range(width) for c in range(3))


class ImageTest(PictureTest):
    def picture(self, name="in.png", width=48, height=32):
        write_png(self.folder / name, width, height, shades(width, height))
        return name

    def mask(self, light, name="mask.png", width=48, height=32, shade=255):
        """light(x, y): whether it is painted there."""
        write_png(self.folder / name, width, height,
                  bytes(shade if light(x, y) else 0
                        for y in range(height) for x in range(width) for _ in range(3)))
        return name

    def draw(self, *arguments, output="out.png"):
        self.succeed("a red apple", *SHORT, "-q", "-o", output, *arguments)
        return (self.folder / output).read_bytes()


class ImageGoldensTest(ImageTest):
    def test_pictures_are_those_of_diffusers(self):
        folder = GOLDENS / "image_to_image"
        manifest = json.loads((folder / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"]):
                options = ["-m", GOLDENS / golden["model"] / "model",
                           "--image", folder / "picture.png", "--strength", golden["strength"],
                           "-W", golden["width"], "-H", golden["height"],
                           "--steps", golden["steps"], "-s", manifest["seed"],
                           "--max-sequence-length", manifest["max_sequence_length"],
                           "--dtype", "fp32", "--device", "cpu"]
                if golden["mask"]:
                    options += ["--mask", folder / "mask.png"]
                if golden["guidance"] is not None:
                    options += ["--guidance", golden["guidance"]]
                self.succeed(manifest["prompt"], *options, "-q", "-o", "out.png")
                self.assertGolden(folder / golden["file"])


class ImageSizeTest(ImageTest):
    def size(self, *arguments):
        plan = json.loads(self.succeed("plan", "--json", "--device", "cpu", *arguments).stdout)
        return plan["workload"]["width"], plan["workload"]["height"]

    def test_the_pictures_own_or_what_is_given(self):
        for size, options, expected in [
            ((50, 37), [], (48, 32)),  # rounded down
            ((48, 32), [], (48, 32)),
            ((7, 100), [], (16, 96)),  # 16 at least
            ((50, 37), ["-H", "96"], (128, 96)),  # 129.7 keeps the shape
            ((50, 37), ["-W", "64"], (64, 48)),  # 47.4
            ((100, 1), ["-W", "64"], (64, 16)),
            ((50, 37), ["-W", "16", "-H", "80"], (16, 80)),
        ]:
            with self.subTest((size, options)):
                picture = self.picture("p.png", *size)
                self.assertEqual(self.size("--image", picture, *options), expected)
        self.assertEqual(self.size(), (128, 128))  # the model's, without a picture

    def test_pictures_get_that_size(self):
        self.draw("--image", self.picture(width=50, height=37))
        self.assertEqual(read_png(self.folder / "out.png")[:2], (48, 32))
        self.draw("--image", "in.png", "-W", "32", "--mask", self.mask(lambda x, y: x < 5, width=9))
        self.assertEqual(read_png(self.folder / "out.png")[:2], (32, 16))

    def test_plan_shows_the_phase(self):
        self.picture()
        report = self.succeed("plan", "--device", "cpu", "--image", "in.png").stdout
        self.assertIn(b"encode_image", report)
        self.assertNotIn(b"encode_image", self.succeed("plan", "--device", "cpu").stdout)
        plan = json.loads(self.succeed("plan", "--json", "--device", "cpu", "--image",
                                       "in.png").stdout)
        self.assertEqual([p["name"] for p in plan["phases"]], IMAGE_PHASES)


class ImageChangesTest(ImageTest):
    def test_what_is_dark_in_the_mask_is_kept(self):
        # Something the model can draw, so that its VAE can keep it.
        self.succeed("a red apple", "--size", "64", "--steps", "4", "--device", "cpu", "-q", "-o",
                     "apple.png")
        options = ["--image", "apple.png", "--strength", "1", "-s", "5"]
        self.mask(lambda x, y: x >= 32, "right.png", 64, 64)
        self.mask(lambda x, y: False, "none.png", 64, 64)
        self.mask(lambda x, y: True, "dark.png", 64, 64, shade=127)
        for name in ["right", "none", "dark"]:
            self.succeed("a blue house", *SHORT, "-q", *options, "--mask", f"{name}.png", "-o",
                         f"painted-{name}.png")
        *_, apple = read_png(self.folder / "apple.png")
        *_, kept = read_png(self.folder / "painted-none.png")
        *_, painted = read_png(self.folder / "painted-right.png")
        self.assertEqual(read_png(self.folder / "painted-dark.png")[2], kept)

        def mean_difference(a, b, begin, end):
            differences = [abs(a[i] - b[i]) for i in range(len(a)) if begin <= i // 3 % 64 < end]
            return sum(differences) / len(differences)
        # All of it through the VAE and back; of half of it the same but near the border.
        vae_error = mean_difference(kept, apple, 0, 64)
        self.assertLess(vae_error, 6)
        self.assertLess(mean_difference(painted, apple, 0, 24), vae_error + 3)
        self.assertGreater(mean_difference(painted, apple, 40, 64), vae_error + 5)

    def test_strength_is_how_far_it_may_change(self):
        self.succeed("a red apple", "--steps", "4", "--device", "cpu", "-q", "-o", "apple.png")
        *_, apple = read_png(self.folder / "apple.png")
        differences = []
        for strength in ["0.1", "0.5", "1"]:
            self.succeed("a blue house", "--steps", "4", "--device", "cpu", "-q", "--image",
                         "apple.png", "--strength", strength)
            *_, changed = read_png(self.folder / "out.png")
            differences.append(sum(abs(a - b) for a, b in zip(apple, changed)))
        self.assertEqual(differences, sorted(differences))
        self.assertGreater(differences[2], 1.5 * differences[0])

    def test_0_6_is_the_default(self):
        self.assertEqual(self.draw("--image", self.picture()),
                         self.draw("--image", "in.png", "--strength", "0.6"))
        self.assertNotEqual(self.draw("--image", "in.png"), self.draw())

    def test_a_strength_near_0_makes_one_step(self):
        self.picture()
        done = self.succeed("x", *SHORT, "--image", "in.png", "--strength", "1e-17", "--events",
                            "e.jsonl", "-q")
        self.assertEqual(done.stderr, b"")
        events = [json.loads(line) for line in (self.folder / "e.jsonl").read_text().splitlines()]
        self.assertEqual([e["total"] for e in of(events, "phase_started")
                          if e["phase"] == "denoise"], [1])

    def test_numbered_pictures_are_those_of_single_runs(self):
        options = ["--image", self.picture(), "--mask", self.mask(lambda x, y: y < 16)]
        self.succeed("a red apple", *SHORT, *options, "-q", "-n", "3", "-s", "7", "-o", "n.png")
        for number in range(3):
            self.assertEqual((self.folder / f"n-{number + 1}.png").read_bytes(),
                             self.draw(*options, "-s", 7 + number))

    def test_webp(self):
        shutil.copy(GOLDENS.parent / "fuzz/corpus/picture/lossless.webp", self.folder / "in.webp")
        self.draw("--image", "in.webp")
        record = self.record()
        self.assertEqual((record["width"], record["height"]), (16, 16))
        (self.folder / "cut.webp").write_bytes((self.folder / "in.webp").read_bytes()[:50])
        self.fail_with(3, "x", *SHORT, "-q", "--image", "cut.webp", says="cut.webp")

    def test_jpeg_and_json(self):
        self.succeed("x", *SHORT, "-q", "-W", "48", "-H", "32", "-o", "in.jpg")
        done = self.succeed("x", *SHORT, "--image", "in.jpg", "--strength", "0.5", "--json",
                            "--no-cache")
        result = json.loads(done.stdout)
        self.assertEqual([p["name"] for p in result["phases"]], IMAGE_PHASES)
        self.assertEqual(result["init_image"],
                         {"image": str(self.folder / "in.jpg"), "strength": 0.5})
        self.assertEqual((result["width"], result["height"]), (48, 32))
        phase = result["phases"][1]
        self.assertGreater(phase["predicted_ram"], 1 << 20)
        self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"])


    def test_large_pictures_are_part_of_the_plan(self):
        write_png(self.folder / "large.png", 4000, 3000, bytes(4000 * 3000 * 3))
        phases = {}
        for name in [self.picture(), "large.png"]:
            done = self.succeed("x", *SHORT, "--image", name, "-W", "64", "-H", "64", "--json")
            phases[name] = {p["name"]: p for p in json.loads(done.stdout)["phases"]}["encode_image"]
            self.assertLessEqual(phases[name]["peak_rss"], phases[name]["predicted_ram"])
        self.assertGreater(phases["large.png"]["predicted_ram"],
                           phases["in.png"]["predicted_ram"] + (64 << 20))


class ImageRefusalsTest(ImageTest):
    def test_strength(self):
        self.picture()
        for strength in ["0", "-0.5", "1.1", "abc", "nan", "inf", "0,5"]:
            self.fail_with(2, "x", "--image", "in.png", f"--strength={strength}",
                           says="above 0, up to 1")

    def test_options_that_need_a_picture(self):
        self.mask(lambda x, y: True)
        for command in [["x"], ["plan"], ["batch", "-"]]:
            self.fail_with(2, *command, "--mask", "mask.png", says="--mask without --image")
            self.fail_with(2, *command, "--strength", "0.5", says="--strength without --image")

    def test_files_that_are_no_pictures(self):
        whole = (self.folder / self.picture()).read_bytes()
        (self.folder / "cut.png").write_bytes(whole[:60])
        (self.folder / "bits.png").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
        (self.folder / "header.png").write_bytes(whole[:20])
        (self.folder / "empty.png").write_bytes(b"")
        (self.folder / "notes.png").write_text("a red apple\n")
        (self.folder / "folder.png").mkdir()
        for name in ["missing.png", "cut.png", "bits.png", "header.png", "empty.png", "notes.png",
                     "folder.png"]:
            with self.subTest(name):
                self.fail_with(3, "x", *SHORT, "-q", "--image", name, says=name)
                self.fail_with(3, "x", *SHORT, "-q", "--image", "in.png", "--mask", name, says=name)
        self.fail_with(3, "plan", "--device", "cpu", "--image", "missing.png", says="missing.png")

    def test_other_commands_do_not_take_it(self):
        self.fail_with(2, "encode", "x", "--image", self.picture(), says="--image")


class ImageRepeatTest(ImageTest):
    def test_from_repeats_bit_for_bit(self):
        first = self.draw("--image", self.picture(width=50, height=37), "--strength", "0.7",
                          "--mask", self.mask(lambda x, y: x < 20), "-s", "3", output="first.png")
        init = self.record("first.png")["init_image"]
        self.assertEqual(init["image"], str(self.folder / "in.png"))
        self.assertEqual(init["mask"], str(self.folder / "mask.png"))
        self.assertEqual(init["strength"], 0.7)
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        self.assertNotIn(b"warning", done.stderr)

    def test_options_override(self):
        self.draw("--image", self.picture(), "--strength", "0.7", "--mask",
                  self.mask(lambda x, y: x < 20), output="first.png")
        self.succeed("--from", "first.png", "--strength", "0.3", "-q")
        init = self.record()["init_image"]
        self.assertEqual((init["strength"], "mask" in init), (0.3, True))
        # Another picture begins anew: its own size, no mask, the default strength.
        self.succeed("--from", "first.png", "--image", self.picture("other.png", 32, 64), "-q")
        record = self.record()
        self.assertEqual((record["width"], record["height"]), (32, 64))
        self.assertEqual((record["init_image"]["strength"], "mask" in record["init_image"]),
                         (0.6, False))

    def test_pictures_that_changed_or_have_gone(self):
        self.draw("--image", self.picture(), output="first.png")
        write_png(self.folder / "in.png", 48, 32, bytes(48 * 32 * 3))
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertIn(b"warning: picture to begin from", done.stderr)
        (self.folder / "in.png").unlink()
        self.fail_with(3, "--from", "first.png", says="in.png")


class ImageBatchTest(BatchTest, ImageTest):
    def inputs(self):
        self.picture()
        self.picture("tall.png", 32, 48)
        self.mask(lambda x, y: x >= 24)
        return self.write("p.jsonl", "\n".join(map(json.dumps, [
            {"prompt": "a", "image": "in.png"},
            {"prompt": "b"},
            {"prompt": "c", "image": "in.png", "mask": "mask.png", "strength": 1, "n": 2},
            {"prompt": "d", "image": "tall.png", "strength": "0.5", "width": 64}])))

    def test_every_prompt_may_have_its_own(self):
        answers, _ = self.batch(self.inputs(), *SHORT, "--json")
        self.assertEqual([(a["width"], a["height"]) for a in answers],
                         [(48, 32), (128, 128), (48, 32), (48, 32), (64, 96)])
        self.assertEqual([a.get("init_image", {}).get("strength") for a in answers],
                         [0.6, None, 1.0, 1.0, 0.5])
        self.assertEqual(answers[2]["init_image"]["mask"], str(self.folder / "mask.png"))
        masked = ["c", "--image", "in.png", "--mask", "mask.png", "--strength", "1"]
        expected = self.generated({
            "0001.png": ["a", *SHORT, "--image", "in.png"], "0002.png": ["b", *SHORT],
            "0003-1.png": [*masked, *SHORT], "0003-2.png": [*masked, *SHORT, "-s", "1"],
            "0004.png": ["d", *SHORT, "--image", "tall.png", "--strength", "0.5", "-W", "64"]})
        self.assertEqual(self.pictures(), expected)

    def test_goes_on_with_what_is_missing(self):
        prompts = self.inputs()
        self.batch(prompts, *SHORT)
        whole = self.pictures()
        (self.folder / "out/0003-2.png").unlink()
        (self.folder / "out/0004.png").unlink()
        self.batch(prompts, *SHORT, "--events", "events.jsonl")
        self.assertEqual(self.pictures(), whole)
        self.assertEqual(len(of(self.events(), "picture")), 2)
        # Pictures of another content are other settings.
        write_png(self.folder / "in.png", 48, 32, bytes(48 * 32 * 3))
        self.refuse(2, prompts, *SHORT, says="0001.png")
        self.batch(prompts, *SHORT, "--overwrite")
        changed = {name for name, data in self.pictures().items() if data != whole[name]}
        self.assertEqual(changed, {"0001.png", "0003-1.png", "0003-2.png"})

    def test_the_command_lines_picture_is_for_all(self):
        self.picture()
        prompts = self.write("p.csv", "prompt,strength\na,\nb,0.9\n")
        answers, _ = self.batch(prompts, *SHORT, "--image", "in.png", "--strength", "0.4", "--json")
        self.assertEqual([a["init_image"]["strength"] for a in answers], [0.4, 0.9])

    def test_wrong_values_are_named_with_their_line(self):
        self.picture()
        for number, (entry, says) in enumerate([
            ('"image": "missing.png"', "missing.png"),
            ('"image": "in.png", "strength": 0', "above 0"),
            ('"mask": "in.png"', "--mask without --image"),
            ('"image": "in.png", "mask": "p.jsonl"', "p.jsonl")]):
            prompts = self.write("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", %s}\n' % entry)
            with self.subTest(number):
                self.refuse(3, prompts, *SHORT, says=["p.jsonl:2: ", says])

    def test_a_picture_that_is_cut_off_fails_alone(self):
        whole = (self.folder / self.picture()).read_bytes()
        (self.folder / "cut.png").write_bytes(whole[:60])
        prompts = self.write("p.jsonl", '{"prompt": "a"}\n{"prompt": "b", "image": "cut.png"}\n'
                                        '{"prompt": "c", "image": "in.png"}\n')
        answers, _ = self.batch(prompts, *SHORT, "--keep-going", "--json", code=6)
        self.assertEqual([a.get("exit_code", 0) for a in answers], [0, 3, 0])
        self.assertIn("cut.png", answers[1]["error"])
        self.assertEqual(sorted(self.pictures()), ["0001.png", "0003.png"])

    def test_kill_and_checkpoints(self):
        self.picture(width=64, height=64)
        self.mask(lambda x, y: x < 30)
        options = [self.write("p.txt", "one\ntwo\n"), "--steps", "40", "--strength", "0.75",
                   "--image", "in.png", "--mask", "mask.png", "--device", "cpu"]
        self.check_goes_on_after_a_kill(*options, step=33, temporaries=2)  # of the second
