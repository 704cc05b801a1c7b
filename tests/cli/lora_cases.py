"""--lora: on one picture and from line to line of a batch. Part of cli_test.py."""

import json
import pathlib
import random
import shutil
import struct

from batch_program import SMALL, BatchTest, pixels
from program import MODEL
from weight_files import read_metadata, write_safetensors

WIDTH = 256  # of the bundled model's transformer
CLIP_WIDTH = 128
RANK = 4


def lora_layers(seed, *layers, component="transformer", width=WIDTH):
    """Tensors of a LoRA on square layers of a component, strong enough to be seen."""
    values = random.Random(seed)

    def matrix(rows, columns):
        return "F32", [rows, columns], struct.pack(
            f"<{rows * columns}f", *(values.gauss(0, 0.2) for _ in range(rows * columns)))

    tensors = {}
    for layer in layers:
        tensors[f"{component}.{layer}.lora_A.weight"] = matrix(RANK, width)
        tensors[f"{component}.{layer}.lora_B.weight"] = matrix(width, RANK)
    return tensors


class LoraTest(BatchTest):
    def setUp(self):
        super().setUp()
        blocks = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v",
                  "transformer_blocks.1.attn.to_out.0"]
        write_safetensors(self.folder / "a.safetensors", lora_layers(1, *blocks))
        write_safetensors(self.folder / "b.safetensors", lora_layers(2, *blocks))

    def picture(self, *options):
        self.succeed("a fox", *SMALL, "-q", "-o", "out.png", *options)
        return (self.folder / "out.png").read_bytes()

    def test_changes_the_picture_by_its_strength(self):
        plain = pixels(self.picture())
        full = pixels(self.picture("--lora", "a.safetensors"))
        self.assertNotEqual(full, plain)
        self.assertNotEqual(pixels(self.picture("--lora", "a.safetensors:0.5")), full)
        self.assertEqual(pixels(self.picture("--lora", "a.safetensors:1.0")), full)
        self.assertEqual(pixels(self.picture("--lora", "a.safetensors:0")), plain)
        both = pixels(self.picture("--lora", "a.safetensors", "--lora", "b.safetensors:-1"))
        self.assertNotIn(both, (plain, full))

    def test_stages_of_one_picture_encode_its_prompt_once(self):
        layers = lora_layers(3, "text_model.encoder.layers.0.self_attn.q_proj",
                             component="text_encoder", width=CLIP_WIDTH)
        write_safetensors(self.folder / "t.safetensors", layers)
        options = ["-W", "64", "-H", "64", "--base-size", "32", "--steps", "2", "--device", "cpu"]
        done = self.succeed("a fox", *options, "--lora", "t.safetensors", "--json", "-o", "a.png")
        phases = [(p["name"], p["stage"]) for p in json.loads(done.stdout)["phases"]]
        self.assertEqual([phase for phase in phases if phase[0] == "encode"], [("encode", 1)])
        # What it kept is not found by a picture without the LoRA, nor the other way round.
        self.succeed("a fox", *options, "-o", "plain.png")
        self.succeed("a fox", *options, "--lora", "t.safetensors", "-o", "b.png")
        made = [pixels((self.folder / f"{name}.png").read_bytes()) for name in ["a", "plain", "b"]]
        self.assertEqual(made[0], made[2])
        self.assertNotEqual(made[0], made[1])

    def test_streamed_weights_get_it_too(self):
        expected = pixels(self.picture("--lora", "a.safetensors"))
        for limit in range(150, 700, 10):  # MiB; the smallest that is enough
            done = self.run_program("a fox", *SMALL, "--lora", "a.safetensors", "-q", "-o",
                                    "small.png", "--max-ram", f"{limit}MiB")
            if done.returncode != 4:
                break
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(pixels((self.folder / "small.png").read_bytes()), expected)

    def test_on_packed_weights(self):
        folder = pathlib.Path(MODEL)
        model = ["--vae", folder / "vae", "--clip-l", folder / "text_encoder", "--t5",
                 folder / "text_encoder_2", "--tokenizers", folder]
        self.succeed("quantize", folder, "m.gguf", "--type", "q8_0", "-q")
        plain = pixels(self.picture("-m", "m.gguf", *model))
        self.assertNotEqual(pixels(self.picture("-m", "m.gguf", *model, "--lora", "a.safetensors")),
                            plain)

    def test_the_picture_tells_and_repeats_it(self):
        first = self.picture("--lora", "a.safetensors:0.7")
        (self.folder / "first.png").write_bytes(first)
        self.succeed("--from", "first.png", "-q", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        held = json.loads(self.succeed("inspect", "first.png", "--json").stdout)
        self.assertEqual([lora["strength"] for lora in held["steadyflux"]["loras"]], [0.7])

    def test_lines_of_a_batch(self):
        lines = [{"prompt": "a fox"}, {"prompt": "a fox", "lora": "a.safetensors"},
                 {"prompt": "a fox", "lora": ["a.safetensors", "b.safetensors:-1"]},
                 {"prompt": "a fox", "lora": "a.safetensors"}]
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, lines)))
        self.batch(prompts, *SMALL)
        made = self.pictures()
        expected = [self.picture(), self.picture("--lora", "a.safetensors"),
                    self.picture("--lora", "a.safetensors", "--lora", "b.safetensors:-1")]
        for i, picture in enumerate([*expected, expected[1]], 1):
            self.assertEqual(pixels(made[f"{i:04}.png"]), pixels(picture))

    def test_another_lora_is_another_setting(self):
        prompts = self.write("p.jsonl", json.dumps({"prompt": "a fox", "lora": "a.safetensors"}))
        self.batch(prompts, *SMALL)
        write_safetensors(self.folder / "a.safetensors",
                          lora_layers(3, "transformer_blocks.0.attn.to_q"))
        self.batch(prompts, *SMALL, code=2)

    def test_a_list_in_a_configuration(self):
        plain = pixels(self.picture())
        full = pixels(self.picture("--lora", "a.safetensors"))
        for text, expected in [("lora = []", plain), ("lora = [ ]", plain), ('lora = ""', plain),
                               ('lora = ["a.safetensors"]', full)]:
            with self.subTest(text):
                config = self.write("my.toml", text + "\nsteps = 1\n")
                self.assertEqual(pixels(self.picture("--config", config)), expected)
        config = self.write("my.toml", "lora = []\n")
        self.assertEqual(pixels(self.picture("--config", config, "--lora", "a.safetensors")), full)

    def encode(self, name, *options):
        self.succeed("encode", "a fox", "--device", "cpu", "-q", "-o", name, *options)
        return read_metadata(self.folder / name)

    def warns(self, embeds, *options):
        done = self.succeed(*SMALL, "-o", "out.png", "--prompt-embeds", embeds, *options)
        error = done.stderr.decode()
        self.assertLessEqual(error.count("other LoRAs"), 1)
        return f"{embeds}: was encoded with other LoRAs" in error

    def test_embeddings_tell_the_loras_on_their_encoders(self):
        layer = "text_model.encoder.layers.0.self_attn.q_proj"
        clip = write_safetensors(
            self.folder / "clip.safetensors",
            lora_layers(4, layer, component="text_encoder", width=CLIP_WIDTH))
        (self.folder / "copy.safetensors").write_bytes(clip.read_bytes())
        held = self.encode("clip.e", "--lora", "clip.safetensors:0.8", "--lora", "a.safetensors")
        self.assertRegex(held["loras.0"], r"\A[0-9a-f]{16}:0\.8\Z")
        self.assertEqual(self.encode("plain.e", "--lora", "a.safetensors")["loras.0"], "none")
        for embeds, options, other in [
                ("clip.e", ["clip.safetensors:0.8"], False),
                ("clip.e", ["b.safetensors", "copy.safetensors:0.8"], False),
                ("clip.e", [], True),
                ("clip.e", ["a.safetensors"], True),
                ("clip.e", ["clip.safetensors:0.5"], True),
                ("clip.e", ["clip.safetensors:0.8", "copy.safetensors:0.8"], True),
                ("plain.e", [], False),
                ("plain.e", ["a.safetensors"], False),
                ("plain.e", ["clip.safetensors:0"], False),
                ("plain.e", ["clip.safetensors"], True)]:
            with self.subTest(embeds=embeds, options=options):
                loras = [word for option in options for word in ["--lora", option]]
                self.assertEqual(self.warns(embeds, *loras), other)

    def test_the_plan_compares_shapes(self):
        layers = lora_layers(1, "transformer_blocks.0.attn.to_q", width=64)
        write_safetensors(self.folder / "narrow.safetensors", layers)
        says = ["narrow.safetensors", "changes a [64, 64]", "is [256, 256]"]
        self.fail_with(3, "x", *SMALL, "--lora", "narrow.safetensors", says=says)
        bare = self.folder / "bare"
        shutil.copytree(MODEL, bare, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*"))
        for model in [[], ["-m", bare]]:
            self.fail_with(3, "plan", "--device", "cpu", *model, "--lora", "narrow.safetensors",
                           says=says)
            self.succeed("plan", "--device", "cpu", *model, "--lora", "a.safetensors")
        write_safetensors(self.folder / "other.safetensors",
                          lora_layers(1, "transformer_blocks.99.attn.to_q"))
        self.fail_with(3, "plan", "--device", "cpu", "--lora", "other.safetensors",
                       says="other.safetensors")

    def test_what_is_wrong(self):
        self.fail_with(3, "x", "--lora", "none.safetensors", says=["none.safetensors"])
        self.fail_with(2, "x", "--lora", "a.safetensors:strong", says=["a.safetensors:strong"])
        write_safetensors(self.folder / "no.safetensors", {"weight": ("F32", [2], bytes(8))})
        self.fail_with(3, "x", "--lora", "no.safetensors", says=["no.safetensors"])
        write_safetensors(self.folder / "other.safetensors",
                          lora_layers(1, "transformer_blocks.99.attn.to_q"))
        self.fail_with(3, "x", "--lora", "other.safetensors", says=["other.safetensors"])
        prompts = self.write("p.jsonl", '{"prompt": "x"}\n{"prompt": "x", "lora": "no.safetensors"}')
        self.refuse(3, prompts, *SMALL, says=["p.jsonl:2", "no.safetensors"])
