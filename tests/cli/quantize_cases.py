"""steadyflux quantize: what it writes, says and leaves behind, and that the program takes it. Part of
cli_test.py."""

import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import time
import zlib

from program import MODEL, PROGRAM, SMALL, CliTest, environment
from weight_files import read_safetensors, write_safetensors

TRANSFORMER = pathlib.Path(MODEL, "transformer")
T5 = pathlib.Path(MODEL, "text_encoder_2")
TYPES = ["q8_0", "q6_k", "q5_k", "q4_k", "q5_1", "q5_0", "q4_1", "q4_0", "bf16", "f16", "fp8"]


def pixels(path):
    """The bytes of a PNG's rows, with what says how each was predicted."""
    data, at, packed = path.read_bytes(), 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    return zlib.decompress(packed)


class QuantizeTest(CliTest):
    def quantize(self, source, file, kind, *arguments):
        """What it reports; nothing but the file is there afterwards."""
        before = self.files()
        done = self.succeed("quantize", source, file, "--type", kind, "--json", *arguments)
        self.assertEqual(self.files(), sorted({*before, pathlib.Path(file).name}))
        report = json.loads(done.stdout)
        self.assertEqual((self.folder / file).stat().st_size, report["file_bytes"])
        return report

    def test_every_type(self):
        sizes = {}
        for kind in TYPES:
            with self.subTest(kind):
                file = "new.safetensors" if kind == "fp8" else f"{kind}.gguf"
                report = self.quantize(MODEL, file, kind)
                main = report["types"][0]
                self.assertEqual(main["dtype"].lower(), {"fp8": "f8_e4m3"}.get(kind, kind))
                self.assertLess(main["relative_rms_error"], 0.15)
                sizes[kind] = main["bytes_after"]
                held = json.loads(self.succeed("inspect", "--json", file).stdout)
                self.assertEqual(held["kind"], "transformer")
                self.assertEqual(held["unmatched"], [])
                self.assertEqual(held["dtypes"][main["dtype"]]["parameters"], main["values"])
        for less, more in [("q4_0", "q4_1"), ("q4_k", "q5_k"), ("q5_k", "q6_k"), ("q6_k", "q8_0"),
                           ("q8_0", "bf16")]:
            self.assertLess(sizes[less], sizes[more])

    def test_sources_of_every_kind(self):
        whole = self.quantize(MODEL, "a.gguf", "q5_0")
        self.assertEqual(whole["component"], "transformer")
        self.quantize(TRANSFORMER, "b.gguf", "q5_0", "--threads", "3")
        self.assertEqual((self.folder / "a.gguf").read_bytes(), (self.folder / "b.gguf").read_bytes())
        t5 = self.quantize(MODEL, "t5.gguf", "q8_0", "--component", "t5")
        self.assertEqual(t5["component"], "t5")
        self.quantize(T5, "t5b.gguf", "q8_0")
        self.assertEqual((self.folder / "t5.gguf").read_bytes(),
                         (self.folder / "t5b.gguf").read_bytes())
        again = self.quantize("a.gguf", "c.safetensors", "fp8")
        self.assertTrue(any("quantised already (Q5_0)" in w for w in again["warnings"]))

    def test_the_program_takes_what_it_made(self):
        # Position axes that the tensors tell, so that no configuration is needed beside the file.
        model = self.folder / "model"
        shutil.copytree(MODEL, model)
        config = model / "transformer" / "config.json"
        changed = json.loads(config.read_text())
        changed["axes_dims_rope"] = [8, 28, 28]
        config.write_text(json.dumps(changed))
        picture = ["a red apple", *SMALL, "-q", "--dtype", "fp32", "--threads", "1", "--no-cache"]
        self.succeed(*picture, "-m", model, "-o", "folder.png")
        expected = pixels(self.folder / "folder.png")
        for kind, file, most in [("bf16", "bf16.gguf", 0), ("q8_0", "q8.gguf", 3),
                                 ("fp8", "fp8.safetensors", 10)]:
            with self.subTest(kind):
                self.succeed("quantize", model, model / file, "--type", kind, "-q")
                self.succeed(*picture, "-m", model / file, "-o", "file.png")
                found = pixels(self.folder / "file.png")
                self.assertEqual(len(found), len(expected))
                if most == 0:
                    self.assertEqual(found, expected)

    def test_what_is_said(self):
        done = self.succeed("quantize", MODEL, "a.gguf", "--type", "q4_k")
        self.assertEqual(done.stdout, b"")
        for words in [b"FLUX.1-schnell transformer", b"RMS error", b"Q4_K", b"a.gguf: "]:
            self.assertIn(words, done.stderr)
        done = self.succeed("quantize", MODEL, "b.gguf", "--type", "q4_k", "-q")
        self.assertEqual((done.stdout, done.stderr), (b"", b""))
        self.assertIn(b"quantize [", self.on_terminal("quantize", MODEL, "c.gguf", "--type", "q8_0"))

    def test_wrong_command_lines(self):
        source = str(TRANSFORMER)
        for arguments, says in [
            ([], "expected two paths"),
            ([source, "--type", "q8_0"], "expected two paths"),
            ([source, "a.gguf"], "no type given"),
            ([source, "a.gguf", "--type", "q9"], "--type q9: expected one of q8_0, "),
            ([source, "a.safetensors", "--type", "q8_0"], "written as a .gguf file"),
            ([source, "a.gguf", "--type", "fp8"], "written as a .safetensors file"),
            ([source, "a.gguf", "--type", "q8_0", "--component", "vae"], "transformer or t5"),
            ([source, "a.gguf", "--type", "q8_0", "--threads", "0"], "from 1 to 1024"),
            ([source, "a.gguf", "b.gguf", "--type", "q8_0"], "b.gguf"),
            ([source, "a.gguf", "--type", "q8_0", "--steps", "3"], "--steps"),
        ]:
            with self.subTest(arguments):
                self.fail_with(2, "quantize", *arguments, says=says)

    def test_unsuitable_sources(self):
        (self.folder / "notes.txt").write_text("hello")
        for source, says in [("missing", "missing"), ("notes.txt", "notes.txt"),
                             (pathlib.Path(MODEL, "vae"), "a VAE"),
                             (pathlib.Path(MODEL, "text_encoder"), "a CLIP text encoder"),
                             (T5 / "config.json", "config.json")]:
            with self.subTest(source):
                self.fail_with(3, "quantize", source, "a.gguf", "--type", "q8_0", says=says)
        self.fail_with(3, "quantize", TRANSFORMER, "a.gguf", "--type", "q8_0", "--component", "t5",
                       says="expected a T5 encoder")

    def test_what_is_there_stays(self):
        self.succeed("quantize", MODEL, "a.gguf", "--type", "q8_0", "-q")
        before = (self.folder / "a.gguf").read_bytes()
        self.fail_with(2, "quantize", MODEL, "a.gguf", "--type", "q4_0", says="--overwrite")
        # Nor is a file replaced while it is read, under whatever name.
        os.symlink("a.gguf", self.folder / "link.gguf")
        for source, file in [("a.gguf", "a.gguf"), ("a.gguf", "link.gguf"), ("link.gguf", "a.gguf")]:
            self.fail_with(2, "quantize", source, file, "--type", "q4_0", "--overwrite",
                           says="is the file that is read")
        self.assertEqual((self.folder / "a.gguf").read_bytes(), before)
        self.succeed("quantize", MODEL, "link.gguf", "--type", "q4_0", "-q", "--overwrite")
        self.assertTrue((self.folder / "link.gguf").is_symlink())
        self.assertLess((self.folder / "a.gguf").stat().st_size, len(before))

    def test_places_that_cannot_be_written(self):
        (self.folder / "folder.gguf").mkdir()
        for file, says in [("no/such/a.gguf", "does not exist"), ("folder.gguf", "is a folder"),
                           ("/proc/a.gguf", "/proc/a.gguf")]:
            with self.subTest(file):
                self.fail_with(5, "quantize", MODEL, file, "--type", "q8_0", says=says)

    def test_a_file_that_grows_too_large(self):
        def limited():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        done = self.run_program("quantize", MODEL, "a.gguf", "--type", "q8_0", preexec_fn=limited)
        self.assertEqual(done.returncode, 5, done.stderr)
        self.assertIn(b"a.gguf: cannot write", done.stderr)
        self.assertEqual(self.files(), [])

    def test_interrupted(self):
        source = self.large_t5()
        for number, code in [(signal.SIGINT, 130), (signal.SIGTERM, 143)]:
            process, _ = self.writing("quantize", source, "a.gguf", "--type", "q4_k", "--threads",
                                      "1")
            process.send_signal(number)
            error = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, code, error)
            self.assertIn(b"interrupted", error)
            self.assertEqual(self.files(), ["t5.safetensors"])

    def writing(self, *arguments):
        """A process that has begun to write, and the name of its temporary file. That has bytes in
        it: before its first byte it may not be locked yet, and an unlocked one is anybody's to
        remove."""
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], cwd=self.folder,
                                   env=environment(), stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (written := [file.name for file in self.folder.glob(".*.tmp")
                               if file.stat().st_size > 0]):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(process.poll())
            time.sleep(0.001)
        [temporary] = written
        self.assertTrue(temporary.startswith(".steadyflux-quantize-"), temporary)
        return process, temporary

    def large_t5(self):
        """The bundled encoder with a large vocabulary, all zeros: takes a while."""
        file = self.folder / "t5.safetensors"
        tensors = read_safetensors(T5 / "model.safetensors")
        dtype, (_, width), _ = tensors.pop("shared.weight")
        return write_safetensors(file, tensors, zeros=[("shared.weight", dtype, [1 << 18, width])])

    def test_what_a_killed_one_left_goes_away(self):
        (self.folder / ".steadyflux-quantize-0123456789abcdef.tmp").write_bytes(b"half")
        self.succeed("quantize", MODEL, "a.gguf", "--type", "q8_0", "-q")
        self.assertEqual(self.files(), ["a.gguf"])

    def test_two_that_write_the_same(self):
        """The second says so and leaves the first alone; what the first wrote is whole."""
        source = self.large_t5()
        arguments = ["quantize", source, "a.gguf", "--type", "q4_k", "--threads", "1", "-q"]
        first, temporary = self.writing(*arguments)
        first.send_signal(signal.SIGSTOP)  # so that the second comes in time
        try:
            self.fail_with(5, *arguments, says=["a.gguf", "another process is writing it"])
            self.fail_with(5, *arguments, "--overwrite", says="another process is writing it")
            self.assertIn(temporary, self.files())
        finally:
            first.send_signal(signal.SIGCONT)
        error = first.communicate(timeout=120)[1]
        self.assertEqual((first.returncode, error), (0, b""))
        self.assertEqual(self.files(), ["a.gguf", "t5.safetensors"])
        self.succeed("quantize", source, "b.gguf", "--type", "q4_k", "-q")
        self.assertEqual((self.folder / "a.gguf").read_bytes(),
                         (self.folder / "b.gguf").read_bytes())

    def changed_t5(self, change):
        """The bundled encoder after change(tensors)."""
        tensors = read_safetensors(T5 / "model.safetensors")
        change(tensors)
        return write_safetensors(self.folder / "t5.safetensors", tensors)

    def with_value(self, number):
        """A matrix of it has this number as its first value."""
        def change(tensors):
            name = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
            dtype, shape, data = tensors[name]
            self.assertIn(dtype, ["BF16", "F32"])
            bits = struct.pack("<f", number)
            bits = bits[2:] if dtype == "BF16" else bits
            tensors[name] = (dtype, shape, bits + data[len(bits):])
        return self.changed_t5(change)

    def test_values_out_of_range(self):
        source = self.with_value(1e30)
        for kind, file in [("q8_0", "a.gguf"), ("fp8", "a.safetensors")]:
            report = self.quantize(source, file, kind, "-q")
            self.assertEqual(len(report["warnings"]), 1, report["warnings"])
            self.assertIn("has values out of the range of", report["warnings"][0])
        done = self.succeed("quantize", source, "b.gguf", "--type", "q4_0")
        self.assertIn(b"tensor enc.blk.0.ffn_down.weight has values out of the range of Q4_0",
                      done.stderr)
        source = self.with_value(float("nan"))
        self.fail_with(3, "quantize", source, "c.gguf", "--type", "q8_0", "-q",
                       says=["ffn_down.weight", "NaN"])

    def test_shapes_that_no_such_model_has(self):
        def change(tensors):
            name = "encoder.block.0.layer.0.layer_norm.weight"
            dtype, [width], data = tensors[name]
            tensors[name] = (dtype, [width // 2], data[:len(data) // 2])
        source = self.changed_t5(change)
        self.fail_with(3, "quantize", source, "a.gguf", "--type", "q8_0",
                       says=["encoder.block.0.layer.0.layer_norm.weight has shape [", "expected ["])

    def test_the_word_as_a_prompt(self):
        self.succeed("generate", "quantize", *SMALL, "-q")
