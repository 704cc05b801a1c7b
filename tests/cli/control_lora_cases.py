"""Control LoRAs: with one of them a dev is a Depth or Canny. Part of cli_test.py."""

import json

from batch_program import BatchTest
from image_cases import GOLDENS, ImageTest
from picture_program import largest_difference
from png_pixels import read_png
from weight_files import read_safetensors, write_safetensors

FOLDER = GOLDENS / "control_lora"
CONTROL, STYLE = FOLDER / "control.safetensors", FOLDER / "style.safetensors"
DEPTH, EDGES = (GOLDENS / f"variants/{name}.png" for name in ["depth", "edges"])
MODEL = GOLDENS / "b/model"
SHORT = ["--steps", "2", "--device", "cpu", "--dtype", "fp32", "--max-sequence-length", "24"]
SHOWN = ["--lora", CONTROL, "--control-image", DEPTH]


def stacked(*tensors):
    """Rows of the tensors, one after the other."""
    dtype, shape, _ = tensors[0]
    rows = sum(shape[0] for _, shape, _ in tensors)
    return dtype, [rows, *shape[1:]], b"".join(data for _, _, data in tensors)


def swapped_halves(tensor):
    dtype, shape, data = tensor
    half = len(data) // 2
    return dtype, shape, data[half:] + data[:half]


SIMPLE = {"attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
          "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
          "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
          "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin"}
ENDS = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **{f"time_text_embed.{ours}.linear_{n}": f"{bfl}.{layer}_layer"
           for ours, bfl in [("timestep_embedder", "time_in"), ("text_embedder", "vector_in"),
                             ("guidance_embedder", "guidance_in")]
           for n, layer in [(1, "in"), (2, "out")]}}
NORMS = {"norm_q": "img_attn.norm.query_norm", "norm_k": "img_attn.norm.key_norm",
         "norm_added_q": "txt_attn.norm.query_norm", "norm_added_k": "txt_attn.norm.key_norm"}


def in_bfl_names(tensors):
    """As Black Forest Labs name and fuse the layers of FLUX.1-Depth-dev-lora."""
    ours = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    result = {}

    def take(bfl, *layers, change=lambda tensor: tensor):
        result[f"{bfl}.lora_A.weight"] = ours[f"{layers[0]}.lora_A.weight"]
        for part in ["lora_B.weight", "lora_B.bias"]:
            result[f"{bfl}.{part}"] = change(stacked(*(ours[f"{l}.{part}"] for l in layers)))

    for layer, bfl in ENDS.items():
        take(bfl, layer, change=swapped_halves if layer == "norm_out.linear" else lambda t: t)
    block = "transformer_blocks.0."
    for layer, bfl in SIMPLE.items():
        take("double_blocks.0." + bfl, block + layer)
    for stream, names in [("img", ["to_q", "to_k", "to_v"]),
                          ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"])]:
        take(f"double_blocks.0.{stream}_attn.qkv", *(f"{block}attn.{name}" for name in names))
    for norm, bfl in NORMS.items():
        result[f"double_blocks.0.{bfl}.scale"] = ours[f"{block}attn.{norm}.weight"]
    for i in range(3):
        single, bfl = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        take(bfl + "linear1", *(f"{single}attn.to_{name}" for name in "qkv"), single + "proj_mlp")
        take(bfl + "linear2", single + "proj_out")
        take(bfl + "modulation.lin", single + "norm.linear")
        for name in ["query", "key"]:
            result[f"{bfl}norm.{name}_norm.scale"] = ours[f"{single}attn.norm_{name[0]}.weight"]
    # Only the second half of a LoRA differs between layers that share the first.
    assert len(result) < len(tensors)
    return result


class ControlLoraTest(BatchTest, ImageTest):
    def pixels(self, *options, model=MODEL):
        self.draw("-m", model, *SHORT, *options)
        return read_png(self.folder / "out.png")[2]

    def test_pictures_are_those_of_diffusers(self):
        manifest = json.loads((FOLDER / "manifest.json").read_text())
        for golden in manifest["pictures"]:
            with self.subTest(golden["file"]):
                options = ["-W", golden["width"], "-H", golden["height"], "--steps",
                           golden["steps"], "--guidance", golden["guidance"], "-s",
                           manifest["seed"], "--max-sequence-length",
                           manifest["max_sequence_length"], "--dtype", "fp32", "--device", "cpu",
                           "--control-image", GOLDENS / "variants" / golden["control-image"]]
                for name, strength in golden["loras"]:
                    options += ["--lora", f"{FOLDER / name}.safetensors:{strength}"]
                self.succeed(manifest["prompt"], "-m", MODEL, *options, "-q", "-o", "out.png")
                self.assertGolden(FOLDER / golden["file"])

    def test_in_bfl_names(self):
        expected = self.pixels(*SHOWN)
        write_safetensors(self.folder / "bfl.safetensors",
                          in_bfl_names(read_safetensors(CONTROL)))
        self.assertEqual(self.pixels("--lora", "bfl.safetensors", "--control-image", DEPTH),
                         expected)
        described = json.loads(self.succeed("inspect", "--json", "bfl.safetensors").stdout)
        self.assertEqual((described["lora"]["format"], described["unmatched"]), ("BFL", []))

    def test_what_is_shown_counts(self):
        shown = self.pixels(*SHOWN)
        self.assertGreater(
            largest_difference(shown, self.pixels("--lora", CONTROL, "--control-image", EDGES,
                                                  "-W", "48", "-H", "32")), 20)
        # Norms are replaced whatever the strength; nothing else is left.
        weak = ["--lora", f"{CONTROL}:0", "-W", "48", "-H", "32", "--control-image"]
        self.assertEqual(self.pixels(*weak, DEPTH), self.pixels(*weak, EDGES))

    def test_on_other_weights(self):
        expected = self.pixels(*SHOWN)
        parts = ["--vae", MODEL / "vae", "--clip-l", MODEL / "text_encoder", "--t5",
                 MODEL / "text_encoder_2", "--tokenizers", MODEL]
        self.succeed("quantize", MODEL, "b.gguf", "--type", "bf16", "-q")
        self.assertEqual(self.pixels(*SHOWN, *parts, model="b.gguf"), expected)
        # Packed weights, with the LoRA's part beside them.
        self.succeed("quantize", MODEL, "b.safetensors", "--type", "fp8", "-q")
        packed = self.pixels(*SHOWN, *parts, model="b.safetensors")
        mean = sum(abs(a - b) for a, b in zip(packed, expected, strict=True)) / len(packed)
        self.assertLess(mean, 12)

    def test_the_plan_foresees_it(self):
        plan = json.loads(self.succeed("plan", "--json", "-m", MODEL, *SHORT, *SHOWN).stdout)
        self.assertEqual((plan["workload"]["width"], plan["workload"]["height"]), (48, 32))
        assumed = json.loads(self.succeed("plan", "--json", "-m", MODEL, *SHORT, "--lora", CONTROL,
                                          "-W", "48", "-H", "32").stdout)
        for one in [plan, assumed]:
            self.assertEqual([phase["name"] for phase in one["phases"]][1], "encode_image")
        done = self.succeed("a red apple", "-m", MODEL, *SHORT, *SHOWN, "--json", "-o", "out.png")
        for phase in json.loads(done.stdout)["phases"]:
            self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"], phase)

    def test_from_repeats_bit_for_bit(self):
        first = self.draw("-m", MODEL, *SHORT, *SHOWN, "-s", "3", output="first.png")
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertEqual((self.folder / "again.png").read_bytes(), first)
        self.assertNotIn(b"warning", done.stderr)

    def test_lines_with_and_without(self):
        prompts = self.write("p.jsonl", "\n".join(map(json.dumps, [
            {"prompt": "a", "lora": str(CONTROL), "control-image": str(DEPTH)},
            {"prompt": "a", "width": 48, "height": 32}])))
        options = ["-m", MODEL, *SHORT]
        self.batch(prompts, *options)
        self.assertEqual(self.pictures(), self.generated({
            "0001.png": ["a", *options, *SHOWN],
            "0002.png": ["a", *options, "-W", "48", "-H", "32"]}))

    def test_refusals(self):
        for command in [["x"], ["plan"]]:
            self.fail_with(2, *command, "-m", MODEL, *SHORT, "--control-image", DEPTH,
                           says="no --control-image")
        self.fail_with(2, "x", "-m", MODEL, *SHORT, "--lora", CONTROL, says="--control-image")
        tensors = read_safetensors(CONTROL)
        name = "transformer.x_embedder.lora_A.weight"
        dtype, (rank, columns), data = tensors[name]
        for wide in [96, 384]:
            changed = (dtype, [rank, wide], (data * 4)[: rank * wide * 2])
            write_safetensors(self.folder / "wide.safetensors", {**tensors, name: changed})
            for command in [["x"], ["plan"]]:
                self.fail_with(3, *command, "-m", MODEL, *SHORT, "--lora", "wide.safetensors",
                               "--control-image", DEPTH,
                               says=[f"that {wide} channels", "128 of 64"])
        norms = {name: tensor for name, tensor in tensors.items() if "lora" not in name}
        write_safetensors(self.folder / "norms.safetensors", norms)
        self.fail_with(3, "x", "-m", MODEL, *SHORT, "--lora", "norms.safetensors", "-W", "48",
                       "-H", "32", says="no layer of FLUX.1")
