"""Models whose parts lie apart: which parts a command needs, and how what is missing is named. Part
of cli_test.py."""

import json
import pathlib
import shutil

from program import MODEL, SMALL, CliTest, environment
from weight_files import read_safetensors

PARTS = pathlib.Path(MODEL)
VAE = ["--vae", PARTS / "vae"]
ENCODERS = ["--clip-l", PARTS / "text_encoder", "--t5", PARTS / "text_encoder_2", "--tokenizers",
            PARTS]


class PartsTest(CliTest):
    def setUp(self):
        super().setUp()
        self.succeed("quantize", MODEL, "m.gguf", "--type", "bf16", "-q")

    def encoded(self, name, *options):
        self.succeed("encode", "a fox", "--device", "cpu", "-q", "-o", name,
                     "--max-sequence-length", "32", *options)
        return read_safetensors(self.folder / name)

    # encode

    def test_encoding_needs_no_vae(self):
        expected = self.encoded("whole.safetensors")
        self.assertTrue(self.encoded("e.safetensors", "-m", "m.gguf", *ENCODERS) == expected)
        self.fail_with(3, "x", "-m", "m.gguf", "--prompt-embeds", "e.safetensors", says="--vae")

    def test_encoding_looks_for_no_vae(self):
        weights = PARTS / "vae" / "diffusion_pytorch_model.safetensors"
        for name in ["one.safetensors", "two.safetensors"]:  # which of them would be the question
            shutil.copy(weights, self.folder / name)
        self.fail_with(3, "x", "-m", "m.gguf", *ENCODERS, says="several files would do as vae")
        self.encoded("e.safetensors", "-m", "m.gguf", *ENCODERS)

    def test_encoding_from_a_folder_of_encoders(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("vae", "scheduler"))
        (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        self.assertTrue(self.encoded("e.safetensors", "-m", model) ==
                        self.encoded("whole.safetensors"))
        self.encoded("e.safetensors", "-m", model, *ENCODERS)
        self.fail_with(3, "x", "-m", model, says="vae")

    def test_encoding_names_what_it_lacks(self):
        error = self.run_program("encode", "x", "-m", "m.gguf").stderr.decode()
        for part in ["text_encoder (--clip-l)", "text_encoder_2 (--t5)", "tokenizer (--tokenizers)"]:
            self.assertIn(part, error)
        self.assertNotIn("vae", error)
        self.fail_with(3, "encode", "x", "-m", "m.gguf", *ENCODERS[2:], says="--clip-l")

    # doctor

    def doctor(self, *options):
        report = json.loads(self.succeed("doctor", "--json", *options).stdout)
        return report, "\n".join(report["problems"])

    def test_doctor_takes_parts(self):
        report, problems = self.doctor("-m", "m.gguf", *ENCODERS, *VAE)
        self.assertEqual([m["variant"] for m in report["models"]], ["schnell"], problems)
        self.assertNotIn("m.gguf", problems)
        self.assertEqual(set(report["models"][0]["bytes"]),
                         {"text_encoder", "text_encoder_2", "transformer", "vae"})

    def test_doctor_names_the_part_that_is_not_found(self):
        _, problems = self.doctor("-m", "m.gguf", *ENCODERS)
        self.assertIn("vae (--vae)", problems)
        self.assertNotIn("text_encoder", problems)
        shown = self.succeed("doctor", "-m", "m.gguf", *ENCODERS).stdout.decode()
        self.assertIn("m.gguf (-m, cannot be used)", shown)
        self.assertNotIn("damaged", shown)
        _, problems = self.doctor("-m", "m.gguf", *ENCODERS, "--vae", "none.safetensors")
        self.assertIn("none.safetensors: no such file or folder; --vae", problems)

    def test_doctor_wants_to_know_whose_parts(self):
        self.fail_with(2, "doctor", *VAE, says=["--vae", "-m"])

    # Names

    def test_tokenizers_one_level_too_deep(self):
        wanted = ["--tokenizers names the folder that holds tokenizer/ and tokenizer_2/"]
        given = ["-m", "m.gguf", *VAE, *ENCODERS[:4]]
        for model in [given, []]:
            for folder, says in [(PARTS / "tokenizer", "is a single tokenizer"),
                                 (PARTS / "tokenizer_2", "is a single tokenizer"),
                                 (PARTS / "vae", "holds no tokenizer/"), ("none", "no such folder")]:
                with self.subTest(model=model, folder=folder):
                    self.fail_with(3, "x", *SMALL, *model, "--tokenizers", folder,
                                   says=[*wanted, str(folder), says])

    def test_empty_names(self):
        for command in [["x"], ["encode", "x"], ["plan"], ["doctor"], ["batch", "p.txt"]]:
            with self.subTest(command):
                self.fail_with(2, *command, "-m", "", says="-m")
        self.fail_with(2, "x", "--vae", "", says="--vae")
        self.fail_with(2, "doctor", "-m", "m.gguf", "--t5", "", says="--t5")
        (self.folder / "my.toml").write_text('model = ""\n')
        self.fail_with(2, "x", "--config", "my.toml", says="-m")
        # An empty variable is none: the bundled model's picture, as without the variable.
        self.succeed("x", *SMALL, "-q", "-o", "a.png", env=environment(STEADYFLUX_MODEL=""))
        unset = environment()
        del unset["STEADYFLUX_MODEL"]
        self.succeed("x", *SMALL, "-q", "-o", "b.png", env=unset)
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())
