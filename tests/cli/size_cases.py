"""--size, --aspect, and the largest picture that fits. Part of cli_test.py."""

import json

from program import CliTest


class SizeTest(CliTest):
    def size_of(self, *arguments):
        plan = json.loads(self.succeed("plan", "--json", "--device", "cpu", *arguments).stdout)
        return plan["workload"]["width"], plan["workload"]["height"]

    def fail_saying(self, code, says, *arguments):
        self.fail_with(code, *arguments, says=[says])

    def test_spellings(self):
        self.assertEqual(self.size_of("--size", "96x64"), (96, 64))
        self.assertEqual(self.size_of("--size", "128"), (128, 128))
        self.assertEqual(self.size_of("--size", "1mp"), (1024, 1024))
        self.assertEqual(self.size_of("--size", "1mp", "--aspect", "16:9"), (1360, 768))
        self.assertEqual(self.size_of("--size", "1mp", "--aspect", "9:16"), (768, 1360))
        # The model's area, 128 x 128, in another shape.
        self.assertEqual(self.size_of("--aspect", "4:1"), (256, 64))

    def test_wrong_spellings_say_what_is_expected(self):
        for size in ["1x", "x64", "64x", "mp", "0mp", "-1mp", "nanmp", "999mp", "64x64x64", "8", "",
                     "huge", "1e3mp", "70000"]:
            self.fail_saying(2, "--size", "plan", "--size", size)
        self.fail_saying(2, "use 96 or 112", "plan", "--size", "100x64")
        for aspect in ["16", "0:1", "1:0", "-16:9", "a:b", "1:1000", "nan:1", ""]:
            self.fail_saying(2, "--aspect", "plan", "--size", "1mp", "--aspect", aspect)
        self.fail_saying(2, "--aspect", "plan", "--size", "64x64", "--aspect", "1:1")
        self.fail_saying(2, "--width", "plan", "--size", "64x64", "-W", "64")

    def test_a_typed_size_goes_before_a_configured_width(self):
        (self.folder / "sides.toml").write_text("width = 96\nheight = 32\n")
        self.assertEqual(self.size_of("--config", "sides.toml"), (96, 32))
        self.assertEqual(self.size_of("--config", "sides.toml", "--size", "64x48"), (64, 48))

    def test_the_largest_fits_and_the_next_does_not(self):
        for ram in ["300MiB", "450MiB"]:
            for aspect in ["1:1", "2:1"]:
                found = self.size_of("--max-size", "--aspect", aspect, "--max-ram", ram)
                again = self.size_of("--size", "auto", "--aspect", aspect, "--max-ram", ram)
                # What a process holds at its start differs by up to 2 MiB from run to run, and
                # a step in size costs more: so by one step at most.
                self.assertAlmostEqual(found[0], again[0], delta=16)
                width = found[0] + 2 * 16
                height = width if aspect == "1:1" else width // 2
                height = (height + 8) // 16 * 16
                done = self.run_program("plan", "--device", "cpu", "--max-ram", ram, "--size",
                                        f"{width}x{height}")
                self.assertEqual(done.returncode, 4, f"{width} x {height} in {ram}")

    def test_a_time_makes_it_smaller(self):
        def found(*arguments):
            plan = json.loads(self.succeed("plan", "--json", "--max-size", "--max-ram", "450MiB",
                                           "--device", "cpu", *arguments).stdout)
            return plan["workload"]["width"], plan["estimated_seconds"]

        whole, seconds = found()
        self.assertIsNone(seconds)
        sizes = [found("--max-seconds", most, "--tflops", "0.05") for most in ["0.5", "2", "1e9"]]
        for (_, seconds), most in zip(sizes, [0.5, 2, 1e9], strict=True):
            self.assertTrue(0 < seconds <= most, seconds)
        self.assertLess(sizes[0][0], sizes[1][0])
        self.assertEqual(sizes[2][0], whole)
        measured, seconds = found("--max-seconds", "1e9")  # whatever this machine computes
        self.assertEqual(measured, whole)
        self.assertGreater(seconds, 0)
        self.assertIn(b"for a picture", self.succeed("plan", "--max-size", "--device", "cpu",
                                                     "--max-seconds", "9", "--tflops", "1").stdout)
        done = self.succeed("x", "--size", "auto", "--max-seconds", "0.5", "--tflops", "0.05",
                            "--max-ram", "450MiB", "--device", "cpu", "--json")
        self.assertAlmostEqual(json.loads(done.stdout)["width"], sizes[0][0], delta=16)

    def test_times_that_make_no_sense(self):
        for says, arguments in [
            ("--max-seconds 0: expected", ["--max-size", "--max-seconds", "0"]),
            ("--tflops x: expected", ["--max-size", "--max-seconds", "1", "--tflops", "x"]),
            ("goes with --size auto", ["--max-seconds", "1"]),
            ("--tflops without", ["--max-size", "--tflops", "1"]),
            ("even a picture of 16 x 16", ["--max-size", "--max-seconds", "1e-9", "--device",
                                           "cpu"]),
            ("--tflops 20", ["--max-size", "--max-seconds", "9", "--device", "cuda",
                             "--max-vram", "8GiB"])]:
            self.fail_saying(2, says, "plan", *arguments)

    def test_nothing_fits(self):
        self.fail_saying(4, "does not fit", "a red apple", "--size", "auto", "--device", "cpu",
                         "--max-ram", "64MiB")

    def test_a_picture_of_the_largest_size_stays_below_the_limit(self):
        options = ["--steps", "1", "--device", "cpu"]
        limit = self.least_ram("-W", "256", "-H", "256", *options)
        done = self.succeed("a red apple", "--size", "auto", *options, "--max-ram", limit, "--json",
                            "-o", "out.png")
        told = json.loads(done.stdout)
        self.assertGreater(told["width"], 64)
        self.assertLess(max(phase["peak_rss"] for phase in told["phases"]), limit)

    def test_larger_sizes_take_what_is_planned(self):
        """Also where sequences go in chunks (from 720 x 720), and where many tensors are just below
        what goes back to the system one by one."""
        for side in [512, 704, 848]:
            with self.subTest(side):
                done = self.succeed("x", "-W", side, "-H", side, "--steps", "1", "--device", "cpu",
                                    "--no-cache", "--json")
                for phase in json.loads(done.stdout)["phases"]:
                    self.assertLessEqual(phase["peak_rss"], phase["predicted_ram"], phase)

    def test_a_batch_wants_a_size(self):
        (self.folder / "prompts.txt").write_text("a red apple\n")
        self.fail_saying(2, "--size auto in a batch", "batch", "prompts.txt", "--size", "auto")
