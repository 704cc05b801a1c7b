"""steadyflux inspect: what it makes of weight files. Part of cli_test.py."""

import json
import pathlib
import pickle
import shutil
import struct

from program import MODEL, SMALL, CliTest
from weight_files import read_safetensors, write_safetensors

WEIGHTS = {part: next(pathlib.Path(MODEL, part).glob("*.safetensors"))
           for part in ["transformer", "text_encoder", "text_encoder_2", "vae"]}


class InspectTest(CliTest):
    def inspect(self, path, *arguments):
        return json.loads(self.succeed("inspect", path, "--json", *arguments).stdout)

    def test_files_of_every_component(self):
        for part, says in [("transformer", "FLUX.1-schnell"), ("text_encoder", "CLIP"),
                           ("text_encoder_2", "T5"), ("vae", "VAE")]:
            with self.subTest(part):
                held = self.inspect(WEIGHTS[part])
                self.assertEqual((held["kind"], held["format"]), (part, "safetensors"))
                self.assertIn(says, held["description"])
                self.assertEqual(held["unmatched"], [])
                of_part = held["components"][part]
                for key in ["tensors", "parameters", "bytes", "dtypes"]:
                    self.assertEqual(of_part[key], held[key])
                tensors = read_safetensors(WEIGHTS[part])
                self.assertEqual(held["bytes"], sum(len(t[2]) for t in tensors.values()))
                self.assertEqual(2 * held["parameters"], held["bytes"])
                self.assertIn(says.encode(), self.succeed("inspect", WEIGHTS[part]).stdout)

    def test_config(self):
        config = self.inspect(WEIGHTS["transformer"])["components"]["transformer"]["config"]
        self.assertEqual([config[k] for k in ["num_layers", "num_single_layers", "width",
                                              "num_attention_heads", "guidance_embeds"]],
                         [3, 6, 256, 4, False])
        self.assertIn(b"num_layers 3", self.succeed("inspect", WEIGHTS["transformer"]).stdout)
        config = self.inspect(WEIGHTS["text_encoder_2"])["components"]["text_encoder_2"]["config"]
        self.assertEqual((config["num_layers"], config["vocab_size"]), (2, 2048))

    def test_component_folder(self):
        held = self.inspect(pathlib.Path(MODEL, "transformer"))
        self.assertEqual((held["kind"], held["class"]), ("component", "FluxTransformer2DModel"))
        self.assertIn("FLUX.1-schnell", held["description"])

    def test_gguf(self):
        # By its content, not by its name.
        self.succeed("quantize", MODEL, "q.gguf", "--type", "q4_0", "-q")
        shutil.copy(self.folder / "q.gguf", self.folder / "renamed")
        plain = self.inspect(WEIGHTS["transformer"])
        for file in ["q.gguf", "renamed"]:
            held = self.inspect(file)
            self.assertEqual((held["kind"], held["format"]), ("transformer", "gguf"))
            self.assertEqual(held["parameters"], plain["parameters"])
            self.assertEqual(held["metadata"]["general.file_type"], 2)
            packed = held["dtypes"]["Q4_0"]
            self.assertEqual(packed["bytes"] * 32, packed["parameters"] * 18)
        text = self.succeed("inspect", "q.gguf").stdout.decode()
        self.assertIn("Q4_0", text)
        self.assertIn("metadata general.architecture: flux", text)
        self.assertIn("axes_dims_rope", text)

    def test_scaled_fp8_counts_with_its_scales(self):
        self.succeed("quantize", MODEL, "a.safetensors", "--type", "fp8", "-q")
        held = self.inspect("a.safetensors")
        packed = held["dtypes"]["F8_E4M3"]
        self.assertEqual(packed["bytes"], packed["parameters"] + 4 * packed["tensors"])
        self.assertEqual(held["unmatched"], [])
        self.assertEqual(held["parameters"], self.inspect(WEIGHTS["transformer"])["parameters"])

    def test_all_in_one(self):
        tensors = {}
        for part, prefix in [("transformer", "model.diffusion_model."), ("vae", "vae."),
                             ("text_encoder_2", "text_encoders.t5xxl.transformer.")]:
            for name, tensor in read_safetensors(WEIGHTS[part]).items():
                tensors[prefix + name] = tensor
        tensors["strange.thing"] = ("F32", [1], bytes(4))
        write_safetensors(self.folder / "all.safetensors", tensors)
        held = self.inspect("all.safetensors")
        self.assertEqual(held["kind"], "all-in-one")
        self.assertEqual(list(held["components"]), ["transformer", "text_encoder_2", "vae"])
        self.assertEqual(held["unmatched"], ["strange.thing"])
        self.assertEqual(sum(c["bytes"] for c in held["components"].values()) + 4, held["bytes"])
        text = self.succeed("inspect", "all.safetensors").stdout.decode()
        for words in ["vae: ", "transformer: ", "1 without a place", "  strange.thing"]:
            self.assertIn(words, text)

    def test_lora(self):
        layer = "transformer.transformer_blocks.0.attn.to_q"
        write_safetensors(self.folder / "lora.safetensors", {
            layer + ".lora_A.weight": ("F32", [4, 256], bytes(4 * 4 * 256)),
            layer + ".lora_B.weight": ("F32", [256, 4], bytes(4 * 4 * 256)),
            "what.is.this": ("F32", [1], bytes(4))}, metadata={"trained by": "me\x1b[31m"})
        held = self.inspect("lora.safetensors")
        self.assertEqual(held["kind"], "lora")
        self.assertEqual((held["lora"]["min_rank"], held["lora"]["max_rank"]), (4, 4))
        self.assertEqual(held["lora"]["targets"], [layer])
        self.assertEqual(held["lora"]["components"], {"transformer": 1})
        self.assertEqual(held["unmatched"], ["what.is.this"])
        text = self.succeed("inspect", "lora.safetensors").stdout
        for words in [b"LoRA", b"rank 4", b"1 layers of transformer", b"what.is.this",
                      b"metadata trained by: me\\x1b[31m"]:
            self.assertIn(words.lower(), text.lower())
        self.assertNotIn(b"to_q\n", text)
        self.assertIn(layer.encode() + b"\n", self.succeed("inspect", "-v", "lora.safetensors").stdout)

    def test_lora_of_another_model(self):
        name = "lora_unet_down_blocks_0_attentions_0_proj_in.lora_"
        write_safetensors(self.folder / "sd.safetensors", {
            name + "down.weight": ("F32", [4, 8], bytes(128)),
            name + "up.weight": ("F32", [8, 4], bytes(128))})
        held = self.inspect("sd.safetensors")
        self.assertEqual(held["kind"], "lora")
        self.assertIn("Stable Diffusion", held["description"])
        self.assertIn("problem", held)

    def test_embeddings(self):
        self.succeed("encode", "a red apple", "--max-sequence-length", "8", "--device", "cpu", "-q",
                     "-o", "e.safetensors")
        held = self.inspect("e.safetensors")
        self.assertEqual(held["kind"], "embeddings")
        self.assertEqual([(p["prompt"], p["max_sequence_length"]) for p in held["prompts"]],
                         [("a red apple", 8)])
        self.assertIn(b"a red apple", self.succeed("inspect", "e.safetensors").stdout)

    def test_other_files(self):
        write_safetensors(self.folder / "own.safetensors", {"mine": ("F32", [2], bytes(8))})
        held = self.inspect("own.safetensors")
        self.assertEqual((held["kind"], held["tensors"], held["parameters"]), ("unknown", 1, 2))
        text = [struct.pack("<Q", len(word)) + word
                for word in [b"general.architecture", b"llama", b"blk.0.attn_q.weight"]]
        header = (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text[0] + struct.pack("<I", 8) + text[1] +
                  text[2] + struct.pack("<IQIQ", 1, 8, 0, 0))
        (self.folder / "llama.gguf").write_bytes(header + bytes(-len(header) % 32 + 32))
        held = self.inspect("llama.gguf")
        self.assertEqual((held["kind"], held["tensors"], held["parameters"]), ("other", 1, 8))
        self.assertIn("llama", held["description"])

    def test_other_models_are_named(self):
        """Files with a few tensors of them."""
        for what, tensors in [
            ("a Stable Diffusion 3.5", {"joint_blocks.0.context_block.attn.ln_q.weight": [8],
                                        "joint_blocks.0.x_block.attn.qkv.weight": [8, 8],
                                        "x_embedder.proj.weight": [8, 16, 2, 2],
                                        "context_embedder.weight": [8, 8]}),
            ("a Wan video transformer", {"patch_embedding.weight": [8, 16, 1, 2, 2],
                                         "blocks.0.self_attn.q.weight": [8, 8],
                                         "blocks.0.cross_attn.q.weight": [8, 8]}),
            ("a Qwen-Image transformer", {"transformer_blocks.0.img_mod.1.weight": [8, 8],
                                          "transformer_blocks.0.attn.add_q_proj.weight": [8, 8]}),
            ("a HunyuanVideo transformer",
             {"txt_in.individual_token_refiner.blocks.0.mlp.0.weight": [8, 8],
              "img_in.proj.weight": [8, 16, 1, 2, 2], "vector_in.in_layer.weight": [8, 8],
              "single_blocks.0.linear1.weight": [8, 8]}),
            ("a Chroma transformer", {"distilled_guidance_layer.in_proj.weight": [8, 8],
                                      "img_in.weight": [8, 8],
                                      "double_blocks.0.img_attn.qkv.weight": [24, 8]}),
            ("a ControlNet for FLUX.1", {"controlnet_blocks.0.weight": [8, 8],
                                         "img_in.weight": [8, 8], "vector_in.in_layer.weight": [8, 8],
                                         "double_blocks.0.img_attn.qkv.weight": [24, 8]}),
        ]:
            with self.subTest(what):
                file = write_safetensors(self.folder / "model.safetensors", {},
                                         zeros=[(n, "BF16", shape) for n, shape in tensors.items()])
                self.assertIn(what, self.inspect(file)["description"])
                self.fail_with(3, "generate", "a fox", "-m", file, *SMALL, says=what)
                self.fail_with(3, "quantize", file, "a.gguf", "--type", "q8_0", says=what)

    def test_what_is_no_weights(self):
        (self.folder / "old.pt").write_bytes(b"PK\x03\x04" + bytes(40))
        (self.folder / "old.bin").write_bytes(pickle.dumps({"a": 1}, protocol=2))
        (self.folder / "old.ckpt").write_bytes(b"PK\x03\x04" + bytes(40))
        for name in ["old.pt", "old.bin", "old.ckpt"]:
            self.fail_with(3, "inspect", name, says=[name, "pickled weights"])
        (self.folder / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
        (self.folder / "empty.gguf").write_bytes(b"")
        (self.folder / "notes.md").write_text("# notes")
        for name in ["cut.gguf", "empty.gguf", "notes.md"]:
            self.fail_with(3, "inspect", name, says=name)

    def test_a_picture_named_otherwise(self):
        self.succeed("x", *SMALL, "-q")
        shutil.copy(self.folder / "out.png", self.folder / "picture")
        self.assertEqual(self.inspect("picture")["kind"], "picture")
