"""Runs the real program with the bundled model: exit codes, what is said on which stream, and what
is left on the disk. Usage: cli_test.py PROGRAM MODEL_FOLDER [unittest arguments]
With CLI_TEST_PART=1/2 in the environment only every second class of cases, the others with 2/2."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from batch_cases import BatchAgainTest, BatchFilesTest  # noqa: E402, F401
from batch_ends_cases import (BatchEmbeddingsTest, BatchFailuresTest,  # noqa: E402, F401
                              BatchRefusalsTest, BatchStoppedTest)
from bigger_cases import ProgressiveTest, UpscaleTest  # noqa: E402, F401
from compute_cases import ComputeBatchTest, ComputeTest  # noqa: E402, F401
from control_lora_cases import ControlLoraTest  # noqa: E402, F401
from guidance_cases import (GuidanceBatchTest, GuidanceEmbeddingsTest,  # noqa: E402, F401
                            GuidanceGoldensTest, GuidanceRecordTest, GuidanceTest)
from image_cases import (ImageBatchTest, ImageChangesTest, ImageGoldensTest,  # noqa: E402, F401
                         ImageRefusalsTest, ImageRepeatTest, ImageSizeTest)
from inspect_cases import InspectTest  # noqa: E402, F401
from lora_cases import LoraTest  # noqa: E402, F401
from parts_cases import PartsTest  # noqa: E402, F401
from plan_cases import PlanTest  # noqa: E402, F401
from program import MODEL, PHASES, PROGRAM, SMALL, CliTest, environment, png_text  # noqa: E402
from quantize_cases import QuantizeTest  # noqa: E402, F401
from redux_cases import (ReduxBatchTest, ReduxGoldensTest, ReduxPictureTest,  # noqa: E402, F401
                         ReduxPlanTest, ReduxRefusalsTest, ReduxRepeatTest)
from sampling_cases import (SamplingBatchTest, SamplingGoldensTest,  # noqa: E402, F401
                            SamplingOptionsTest)
from size_cases import SizeTest  # noqa: E402, F401
from step_cache_cases import (StepCacheBatchTest, StepCacheGoldensTest,  # noqa: E402, F401
                              StepCacheTest)
from stream_cases import StreamTest  # noqa: E402, F401
from variant_cases import (VariantBatchTest, VariantGoldensTest, VariantPlanTest,  # noqa: E402, F401
                           VariantRefusalsTest, VariantRepeatTest)


class InformationTest(CliTest):
    def test_help_and_version_go_to_stdout(self):
        self.assertIn(b"--steps", self.succeed("--help").stdout)
        self.assertRegex(self.succeed("--version").stdout, rb"^steadyflux \d+\.\d+\.\d+ \(libtorch")
        self.assertIn(b"doctor", self.succeed("doctor", "--help").stdout)

    def test_inspect_model_folder(self):
        report = json.loads(self.succeed("inspect", MODEL, "--json").stdout)
        self.assertEqual(report["kind"], "model")
        self.assertEqual(report["components"]["vae"]["class"], "AutoencoderKL")
        stored = pathlib.Path(MODEL, "vae", "diffusion_pytorch_model.safetensors").stat().st_size
        self.assertLess(report["components"]["vae"]["bytes"], stored)
        self.assertGreater(report["components"]["vae"]["bytes"], 0.9 * stored)
        self.assertIn(b"FLUX.1 pipeline", self.succeed("inspect", MODEL).stdout)

    def test_inspect_weights_and_component(self):
        vae = pathlib.Path(MODEL, "vae")
        part = json.loads(self.succeed("inspect", "--json", vae).stdout)
        self.assertEqual(part["class"], "AutoencoderKL")
        file = vae / "diffusion_pytorch_model.safetensors"
        whole = json.loads(self.succeed("inspect", "--json", "-v", file).stdout)
        self.assertEqual(whole["bytes"], part["bytes"])
        self.assertEqual(len(whole["tensor_list"]), whole["tensors"])
        self.assertIn(b"decoder.conv_in.weight [", self.succeed("inspect", "-v", file).stdout)

    def test_inspect_bad_paths(self):
        (self.folder / "notes.txt").write_text("hello")
        (self.folder / "cut.safetensors").write_bytes(b"\x10\0\0")
        (self.folder / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
        for name in ["notes.txt", "cut.safetensors", "cut.png", "missing", ".", "/dev/null"]:
            self.fail_with(3, "inspect", name)
        self.fail_with(2, "inspect", says="no path")

    def test_doctor(self):
        report = json.loads(self.succeed("doctor", "--json").stdout)
        self.assertGreater(report["memory"]["total"], 0)
        self.assertGreaterEqual(report["cores"], 1)
        self.assertIn(MODEL, [m["folder"] for m in report["models"]])
        self.assertIn(b"libtorch", self.succeed("doctor").stdout)

    def test_doctor_names_what_is_wrong(self):
        broken = self.folder / "broken"
        shutil.copytree(MODEL, broken)
        (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        report = json.loads(self.succeed("doctor", "--json", "-m", broken, "-o", "no/x.png").stdout)
        self.assertTrue(any("vae" in p for p in report["problems"]), report["problems"])
        self.assertTrue(any("no such folder" in p for p in report["problems"]))


class UsageTest(CliTest):
    def test_no_prompt(self):
        self.fail_with(2, says="no prompt")
        self.fail_with(2, "generate", says="no prompt")

    def test_prompt_without_quotes(self):
        self.fail_with(2, "a", "red", "apple", says="put the prompt in quotes")

    def test_wrong_values(self):
        cases = {
            ("-W", "100"): "100 is not a multiple of 16: use 96 or 112",
            ("-H", "8"): "use 16 or 32",
            ("-H", "0"): "from 1 to 16384",
            ("-W", "99999999999999999999"): "from 1 to 16384",
            ("-W", "16384", "-H", "16384"): "larger than",
            ("--steps", "0"): "from 1 to 1000",
            ("--steps", "2.5"): "from 1 to 1000",
            ("--steps", ""): "from 1 to 1000",
            ("--guidance", "nan"): "0 or more",
            ("--guidance", "-1"): "0 or more",
            ("-s", "-2"): "-1 for a random one",
            ("-s", "18446744073709551616"): "18446744073709551615",
            ("-s", "18446744073709551615", "-n", "2"): "above 2^64-1",
            ("-n", "0"): "from 1 to 10000",
            ("--max-sequence-length", "513"): "from 1 to 512",
            ("--threads", "0"): "from 1 to 1024",
            ("--dtype", "int8"): "auto, bf16, fp16, fp32",
            ("--device", "tpu"): "cuda:N",
            ("--device", "cuda:x"): "cuda:N",
            ("-q", "-v"): "exclude each other",
            ("--loras", "x"): "unknown option --loras",
            ("--steps",): "--steps",
            ("-o", "out.gif"): ".png",
            ("-o", "-", "--json"): "--json and -o -",
            ("-o", "-", "-n", "2"): "-o -",
        }
        for arguments, text in cases.items():
            with self.subTest(arguments):
                self.fail_with(2, "x", *arguments, says=text)

    def test_prompt_must_be_utf8(self):
        self.fail_with(2, "-", stdin=b"caf\xe9", says="UTF-8")

    def test_a_command_word_is_a_prompt_after_generate(self):
        self.succeed("generate", "doctor", *SMALL, "-q")
        self.assertEqual(self.prompt_of("out.png"), "doctor")

    def test_options_stand_anywhere_and_dashes_end_them(self):
        self.succeed(*SMALL, "-q", "-o", "a.png", "x")
        self.succeed("x", "-o", "b.png", *SMALL, "-q")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())
        self.succeed(*SMALL, "-q", "--", "-odd [a, b]")
        self.assertEqual(self.prompt_of("out.png"), "-odd [a, b]")

    def test_brackets_and_the_empty_prompt_are_prompts(self):
        for prompt in ["", "[a,b]", "[]", "a\nb  c", "\N{RED APPLE}"]:
            self.succeed(prompt, *SMALL, "-q")
            self.assertEqual(self.prompt_of("out.png"), prompt)

    def test_prompt_from_stdin(self):
        self.succeed("-", *SMALL, "-q", stdin=b"two\nlines\n\n")
        self.assertEqual(self.prompt_of("out.png"), "two\nlines\n")

    def prompt_of(self, name):
        return json.loads(png_text((self.folder / name).read_bytes(), "steadyflux"))["prompt"]


class OutputTest(CliTest):
    def test_quiet_says_nothing(self):
        done = self.succeed("a red apple", *SMALL, "-q")
        self.assertEqual((done.stdout, done.stderr), (b"", b""))
        self.assertEqual(self.files(), ["out.png"])

    def test_table_and_path_on_stderr(self):
        done = self.succeed("a red apple", *SMALL, "-o", "apple.png")
        self.assertEqual(done.stdout, b"")
        for word in [b"encode", b"denoise", b"decode", b"total", b"RSS", b"apple.png"]:
            self.assertIn(word, done.stderr)
        self.assertNotIn(b"\x1b", done.stderr)

    def test_progress_on_a_terminal(self):
        shown = self.on_terminal("x", *SMALL)
        for phase in [b"encode", b"denoise", b"decode"]:
            self.assertRegex(shown, phase + rb" *\[#*\.*\] \d+/\d+")

    def test_json(self):
        done = self.succeed("a red apple", *SMALL, "-s", "7", "-n", "2", "--json")
        result = json.loads(done.stdout)
        sides = {"width": 32, "height": 32}
        self.assertEqual(result["images"], [{"output": "out-1.png", "seed": 7, **sides},
                                            {"output": "out-2.png", "seed": 8, **sides}])
        self.assertEqual([p["name"] for p in result["phases"]], PHASES)
        self.assertEqual((result["width"], result["steps"], result["guidance"]), (32, 1, None))
        for phase in result["phases"]:
            self.assertGreater(phase["peak_rss"], 1 << 20)
            self.assertGreater(phase["predicted_ram"], 1 << 20)
            self.assertEqual(phase["predicted_device"], 0)
        self.assertEqual(self.files(), ["out-1.png", "out-2.png"])

    def test_numbered_pictures_are_those_of_single_runs(self):
        self.succeed("x", *SMALL, "-q", "-s", "18446744073709551613", "-n", "3", "-o", "n.png")
        self.succeed("x", *SMALL, "-q", "-s", "18446744073709551615", "-o", "one.png")
        self.assertEqual((self.folder / "n-3.png").read_bytes(),
                         (self.folder / "one.png").read_bytes())
        self.assertNotEqual((self.folder / "n-1.png").read_bytes(),
                            (self.folder / "n-2.png").read_bytes())

    def test_stdout(self):
        done = self.succeed("x", *SMALL, "-o", "-")
        self.assertEqual(self.files(), [])
        self.succeed("x", *SMALL, "-q")
        self.assertEqual(done.stdout, (self.folder / "out.png").read_bytes())

    def test_stdout_that_is_closed_or_full(self):
        reader, writer = os.pipe()
        os.close(reader)
        for target in [writer, os.open("/dev/full", os.O_WRONLY)]:
            done = subprocess.run([PROGRAM, "x", *SMALL, "-q", "-o", "-"], cwd=self.folder,
                                  env=environment(), stdout=target, stderr=subprocess.PIPE,
                                  timeout=60)
            os.close(target)
            self.assertEqual(done.returncode, 5, done.stderr)

    def test_memory_report(self):
        for name, start in [("m.svg", b"<svg"), ("m.HTML", b"<!DOCTYPE html>"), ("m.json", b"{")]:
            done = self.succeed("x", *SMALL, "--no-cache", "--memory-report", name)
            self.assertIn(name.encode(), done.stderr)
            self.assertIn(start.lower(), (self.folder / name).read_bytes()[:200].lower())
        report = json.loads((self.folder / "m.json").read_bytes())
        self.assertEqual([phase["name"] for phase in report["phases"]], PHASES)
        self.assertEqual(self.files(), ["m.HTML", "m.json", "m.svg", "out.png"])

    def test_jpeg(self):
        self.succeed("x", *SMALL, "-q", "-o", "x.JPG")
        self.assertEqual((self.folder / "x.JPG").read_bytes()[:3], b"\xff\xd8\xff")

    def test_unwritable_outputs(self):
        (self.folder / "folder.png").mkdir()
        self.fail_with(5, "x", "-o", "missing/out.png", says="missing")
        self.fail_with(5, "x", "-o", "folder.png", says="folder.png")
        if os.geteuid() != 0:  # root may write everywhere
            (self.folder / "closed").mkdir(mode=0o500)
            self.fail_with(5, "x", "-o", "closed/out.png", says="closed")

    def test_guidance_without_embedding_warns_once_and_changes_nothing(self):
        done = self.succeed("x", *SMALL, "-o", "a.png", "--guidance", "7")
        self.assertEqual(done.stderr.count(b"warning:"), 1)
        self.succeed("x", *SMALL, "-q", "-o", "b.png")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())

    def test_words_lost_are_named_once(self):
        prompt = "apple " * 100 + "zebra"
        result = json.loads(self.succeed(prompt, *SMALL, "--json").stdout)
        self.assertTrue(any("zebra" in w for w in result["warnings"]), result["warnings"])
        self.assertEqual(len(set(result["warnings"])), len(result["warnings"]))


class RepeatTest(CliTest):
    def test_from_repeats_bit_for_bit(self):
        self.succeed("a red apple", *SMALL, "-q", "-s", "5", "-n", "2", "-o", "first.png",
                     "--dtype", "bf16", "--max-sequence-length", "20", "--threads", "1")
        done = self.succeed("--from", "first-2.png", "-o", "again.png",
                            env=environment(STEADYFLUX_MODEL="/nonexistent"))
        self.assertEqual((self.folder / "first-2.png").read_bytes(),
                         (self.folder / "again.png").read_bytes())
        self.assertNotIn(b"warning", done.stderr)

    def test_options_override_and_differences_are_said(self):
        self.succeed("x", *SMALL, "-q", "-o", "first.png", "--threads", "1")
        done = self.succeed("generate", "--from", "first.png", "-s", "9", "--threads", "2", "-o",
                            "other.png")
        self.assertIn(b"thread count differs", done.stderr)
        record = json.loads(png_text((self.folder / "other.png").read_bytes(), "steadyflux"))
        self.assertEqual((record["seed"], record["prompt"]), (9, "x"))

    def test_changed_weights_are_said(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        self.succeed("x", *SMALL, "-q", "-m", model, "-o", "first.png")
        weights = model / "vae" / "diffusion_pytorch_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        done = self.succeed("--from", "first.png", "-o", "again.png")
        self.assertIn(b"warning: model", done.stderr)

    def test_model_that_has_gone(self):
        model = self.folder / "gone-model"
        shutil.copytree(MODEL, model)
        self.succeed("x", *SMALL, "-q", "-m", model, "-o", "first.png")
        shutil.rmtree(model)
        self.fail_with(3, "--from", "first.png", says=["gone-model", "-m"])

    def test_pictures_without_a_record(self):
        (self.folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        self.fail_with(3, "--from", "bad.png", says="bad.png")
        self.fail_with(3, "--from", "missing.png", says="missing.png")

    def test_inspect_tells_how_a_picture_was_made(self):
        self.succeed("a red apple", *SMALL, "-q", "-s", "3")
        report = json.loads(self.succeed("inspect", "out.png", "--json").stdout)
        self.assertEqual(report["steadyflux"]["seed"], 3)
        self.assertIn("Seed: 3", report["parameters"])
        self.assertIn(b"a red apple", self.succeed("inspect", "out.png").stdout)


class ConfigTest(CliTest):
    def write(self, text):
        (self.folder / "my.toml").write_text(text)

    def test_values_from_a_file_and_options_over_them(self):
        self.write('# mine\nwidth = 32\nheight = 48\nsteps = 1\ndevice = "cpu"\njson = true\n'
                   'seed = 18446744073709551615\n')
        result = json.loads(self.succeed("x", "--config", "my.toml", "-H", "16").stdout)
        self.assertEqual((result["width"], result["height"]), (32, 16))
        self.assertEqual(result["images"][0]["seed"], 18446744073709551615)

    def test_bad_files(self):
        self.fail_with(3, "x", "--config", "missing.toml", says="missing.toml")
        for text, says in [("stesp = 3\n", "stesp"), ("[generate]\nsteps = 3\n", "my.toml"),
                           ("steps = [1, 2]\n", "2 values"), ("json = 3\n", "true or false"),
                           ("prompt = 'x'\n", "prompt")]:
            with self.subTest(text):
                self.write(text)
                self.fail_with(3, "x", "--config", "my.toml", says=["my.toml", says])
        self.write("steps = many\n")
        self.fail_with(2, "x", "--config", "my.toml", says="many")


class ModelTest(CliTest):
    def test_missing_models(self):
        self.fail_with(3, "x", "-m", "no/such/folder", says="no/such/folder")
        self.fail_with(3, "x", "-m", "some-org/some-model", says="hf download")
        self.fail_with(3, "x", env=environment(STEADYFLUX_MODEL="/nonexistent/model"))

    def test_damaged_models_leave_nothing(self):
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[: len(data) // 2])
        self.fail_with(3, "x", "-q", "-m", model, says="transformer")
        weights.unlink()
        self.fail_with(3, "x", "-q", "-m", model, says="transformer")


class InterruptTest(CliTest):
    def interrupt(self, number, *options):
        process = subprocess.Popen([PROGRAM, "x", "--steps", "1000", "--device", "cpu", *options],
                                   cwd=self.folder, env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        line = process.stderr.readline()  # "encode ...": the long phase has begun
        self.assertIn(b"encode", line)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 128 + number, error)
        self.assertIn(b"steadyflux: error: interrupted", error)
        self.assertEqual(self.files(), ["m.json"] if options else [])

    def test_ctrl_c(self):
        self.interrupt(signal.SIGINT)

    def test_sigterm(self):
        self.interrupt(signal.SIGTERM)

    def test_what_was_seen_of_memory_is_kept(self):
        self.interrupt(signal.SIGTERM, "--memory-report", "m.json")
        report = json.loads((self.folder / "m.json").read_bytes())
        self.assertEqual(report["phases"][0]["name"], "encode")


def load_tests(_loader, classes, _pattern):
    part, parts = map(int, os.environ.get("CLI_TEST_PART", "1/1").split("/"))
    return unittest.TestSuite(list(classes)[part - 1 :: parts])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
