"""steadyflux plan: exit codes, what it prints, and whether what it says holds. Part of cli_test.py."""

import json
import pathlib
import shutil
import struct

from program import MODEL, PHASES, SMALL, CliTest

# Configurations of the real FLUX.1, without weights, where they lie beside the checkout.
REAL_MODELS = [folder for name in ["dev", "schnell"]
               if (folder := pathlib.Path(__file__).resolve().parents[3] / "shared" / "flux1" / name)
               .is_dir()]


class PlanTest(CliTest):
    CUDA = ["--device", "cuda"]

    def plan(self, *arguments, **options):
        """The JSON and the one line on standard error of a plan, whether it fits or not."""
        before = self.files()
        done = self.run_program("plan", "--json", *arguments, **options)
        self.assertIn(done.returncode, (0, 4), done.stderr)
        self.assertEqual(self.files(), before)
        plan = json.loads(done.stdout)
        self.assertEqual(plan["fits"], done.returncode == 0)
        error = done.stderr.decode()
        if plan["fits"]:
            self.assertEqual(error, "")
            self.assertIsNone(plan["alternatives"])
        else:
            self.assertRegex(error, r"\Asteadyflux: error: [^\n]* does not fit: [^\n]*\n\Z")
        self.assertEqual([p["name"] for p in plan["phases"]], PHASES)
        for name in ["device_peak_bytes", "ram_peak_bytes"]:
            self.assertEqual(plan[name], max(p[name] for p in plan["phases"]))
        self.assertEqual(plan["disk_read_bytes"], sum(p["disk_read_bytes"] for p in plan["phases"]))
        return plan, error

    def real_models(self):
        if not REAL_MODELS:
            self.skipTest("no configurations of FLUX.1 beside the checkout (shared/flux1)")
        return REAL_MODELS

    def test_bundled_model_on_the_cpu(self):
        plan, _ = self.plan("--device", "cpu")
        self.assertTrue(plan["fits"])
        self.assertEqual(plan["device_peak_bytes"], 0)
        self.assertIsNone(plan["budget"]["vram"])
        self.assertEqual(plan["workload"]["width"], 128)
        done = self.succeed("plan", "--device", "cpu")
        self.assertEqual(done.stderr, b"")
        for word in [*PHASES, "RAM", "text_encoder_2", "per step"]:
            self.assertIn(word.encode(), done.stdout)
        self.assertNotIn(b"VRAM", done.stdout)

    def test_options_reach_the_workload(self):
        plan, _ = self.plan("--device", "cpu", "-W", "48", "-H", "96", "--steps", "3", "-n", "2",
                            "--max-sequence-length", "17", "--dtype", "fp32", "--threads", "5",
                            "--vae-tiling", "off")
        work = plan["workload"]
        self.assertEqual([work[key] for key in ["width", "height", "steps", "num_images",
                                                "max_sequence_length", "dtype", "threads"]],
                         [48, 96, 3, 2, 17, "fp32", 5])
        self.assertEqual(set(work["stored_dtypes"].values()), {"bf16"})
        self.assertFalse(plan["vae"]["tiled"])

    def test_configurations_are_enough(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*"))
        whole, _ = self.plan("--device", "cpu", "--max-ram", "8GiB")
        bare, _ = self.plan("-m", model, "--device", "cpu", "--max-ram", "8GiB")
        self.assertEqual(bare["workload"], whole["workload"])
        self.assertEqual(bare["phases"][2]["weights"], whole["phases"][2]["weights"])

    def test_dtype_of_the_files(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model, ignore=shutil.ignore_patterns("*.safetensors"))
        weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
        header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        weights.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
        plan, _ = self.plan("-m", model, "--device", "cpu")
        self.assertEqual(plan["workload"]["stored_dtypes"],
                         {"text_encoder": "bf16", "text_encoder_2": "bf16", "transformer": "fp32", "vae": "bf16"})
        self.assertEqual(plan["workload"]["dtype"], "fp32")
        weights.write_bytes(b"short")
        self.fail_with(3, "plan", "-m", model, says="transformer")

    def test_budgets_hold(self):
        # GiB of VRAM and RAM, pixels. More of them are tried in the planner's own tests.
        cases = [(1, 2, 512), (2, 4, 2048), (4, 8, 1024), (8, 8, 1536), (12, 64, 512),
                 (24, 64, 2048)]
        for model in [pathlib.Path(MODEL), *REAL_MODELS]:
            for vram, ram, side in cases:
                with self.subTest(model=model.name, vram=vram, ram=ram, side=side):
                    plan, _ = self.plan("-m", model, *self.CUDA, "--max-vram", f"{vram}GiB",
                                        "--max-ram", f"{ram}GiB", "-W", side, "-H", side)
                    if plan["fits"]:
                        self.assertLessEqual(plan["device_peak_bytes"], vram << 30)
                        self.assertLessEqual(plan["ram_peak_bytes"], ram << 30)

    def test_sizes_that_have_to_fit(self):
        for model in self.real_models():
            for vram, ram, side in [(8, 16, 1024), (4, 8, 512), (2, 4, 1024)]:
                with self.subTest(model=model.name, vram=vram, ram=ram, side=side):
                    plan, _ = self.plan("-m", model, *self.CUDA, "--max-vram", f"{vram}GiB",
                                        "--max-ram", f"{ram}GiB", "-W", side, "-H", side)
                    self.assertTrue(plan["fits"])
                    self.assertEqual(plan["workload"]["dtype"], "bf16")

    def test_more_memory_never_reads_more(self):
        for model in self.real_models():
            read = [self.plan("-m", model, *self.CUDA, "--max-vram", f"{vram}GiB", "--max-ram",
                              "8GiB")[0]["disk_read_bytes_per_step"] for vram in [2, 4, 8, 16, 40]]
            self.assertEqual(read, sorted(read, reverse=True))
            self.assertEqual(read[-1], 0)  # all of it has room on the card

    def test_what_does_not_fit_says_what_would(self):
        # The tokens of this size alone take more than the card has.
        for model in self.real_models():
            model = ["-m", model, *self.CUDA]
            size = ["-W", "16384", "-H", "8192"]
            limits = ["--max-vram", "2GiB", "--max-ram", "256GiB"]
            plan, error = self.plan(*model, *size, *limits)
            self.assertFalse(plan["fits"])
            other = plan["alternatives"]
            self.assertIn(f"{other['width']} x {other['height']}", error)
            self.assertTrue(self.plan(*model, *size, "--max-vram", other["vram"], "--max-ram",
                                      "256GiB")[0]["fits"])
            self.assertTrue(self.plan(*model, "-W", other["width"], "-H", other["height"],
                                      *limits)[0]["fits"])

    def test_text_on_exit_4(self):
        done = self.run_program("plan", "--device", "cpu", "--max-ram", "1MiB")
        self.assertEqual(done.returncode, 4)
        self.assertIn(b"denoise", done.stdout)
        self.assertIn(b"|", done.stdout)  # the budget's mark in the bars
        self.assertIn(b"no size fits", done.stderr)

    def test_a_card_that_is_not_there(self):
        if pathlib.Path("/dev/nvidiactl").exists():
            self.skipTest("there is a card")
        self.fail_with(2, "plan", "--device", "cuda", says=["--device cuda", "--max-vram"])
        self.assertIsNone(self.plan("--max-ram", "8GiB")[0]["budget"]["vram"])
        self.assertEqual(self.plan("--max-vram", "8GiB")[0]["device"], "cuda")

    def test_bars_fit_what_they_are_shown_on(self):
        shown = self.on_terminal("plan", "--device", "cpu", LC_ALL="C.UTF-8").decode()
        self.assertIn("\u2591", shown)
        shown = self.on_terminal("plan", "--device", "cpu", LC_ALL="C").decode()
        self.assertTrue(shown.isascii())
        self.assertRegex(shown, r"denoise +RAM +#+\.+ ")

    def test_models_that_are_not_there(self):
        self.fail_with(3, "plan", "-m", "no/such/folder", says="no/such/folder")
        self.fail_with(3, "plan", "-m", "some-org/some-model", says="hf download")

    def test_generate_shows_it_and_keeps_to_its_limits(self):
        done = self.succeed("x", *SMALL, "-v")
        for words in [b"used in place", b"RAM budget", b"predicted"]:
            self.assertIn(words, done.stderr)
        self.assertNotIn(b"RAM budget", self.succeed("x", *SMALL).stderr)
        (self.folder / "out.png").unlink()
        self.fail_with(4, "x", *SMALL, "--max-ram", "1MiB", says="RAM")
        (self.folder / "my.toml").write_text('max-ram = "1MiB"\n')
        self.fail_with(4, "x", *SMALL, "--config", "my.toml", says="RAM")

    def test_a_prompt_that_is_the_word(self):
        self.succeed("generate", "plan", *SMALL, "-q")
