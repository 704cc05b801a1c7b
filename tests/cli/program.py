"""Running the program in a folder of its own and looking at what it said and left. Importing this
reads the command line of the test: PROGRAM MODEL_FOLDER [unittest arguments]"""

import atexit
import json
import os
import pathlib
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

PROGRAM, MODEL = (str(pathlib.Path(a).resolve()) for a in sys.argv[1:3])
PHASES = ["encode", "modulate", "denoise", "decode"]
SMALL = ["-W", "32", "-H", "32", "--steps", "1", "--device", "cpu"]
# The cache of embeddings; empty at the beginning of each test.
CACHE = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-cache-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)


def environment(**changes):
    result = {k: v for k, v in os.environ.items() if k not in ("HF_HOME", "HF_HUB_CACHE")}
    result.update(STEADYFLUX_MODEL=MODEL, HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent",
                  STEADYFLUX_CACHE=str(CACHE))
    result.update(changes)
    return result


def png_text(data, keyword):
    """The text of an uncompressed iTXt or tEXt chunk, its checksum verified."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        name, _, rest = body.partition(b"\0")
        if name == keyword.encode() and kind == b"iTXt":
            return rest[2:].split(b"\0", 2)[2].decode()
        if name == keyword.encode() and kind == b"tEXt":
            return rest.decode("latin-1")
        at += 12 + length
    raise AssertionError(f"no text {keyword}")


class CliTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-cli-"))
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.rmtree(CACHE, ignore_errors=True)

    def run_program(self, *arguments, stdin=b"", env=None, **options):
        return subprocess.run(
            [PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, timeout=120,
            cwd=self.folder, env=env or environment(), **options)

    def on_terminal(self, *arguments, **changes):
        """What a successful run shows there."""
        main, terminal = pty.openpty()
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], cwd=self.folder,
                                   env=environment(**changes), stdout=terminal, stderr=terminal)
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(main, 4096):
                shown += chunk
        except OSError:
            pass  # Linux says EIO when the last writer has gone
        os.close(main)
        self.assertEqual(process.wait(60), 0, shown)
        return shown

    def least_ram(self, *options):
        """The smallest --max-ram that will do for a plan, in bytes. What a process holds before it
        plans, and so this, differs by up to 2 MiB from run to run, by more from machine to machine."""
        done = self.run_program("plan", "--json", *options, "--max-ram", "1MiB")
        return json.loads(done.stdout)["alternatives"]["ram"]

    def files(self):
        return sorted(p.name for p in self.folder.iterdir())

    def succeed(self, *arguments, **options):
        done = self.run_program(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done

    def fail_with(self, code, *arguments, says=(), **options):
        """One line on stderr, nothing on stdout, no new file."""
        before = self.files()
        done = self.run_program(*arguments, **options)
        error = done.stderr.decode()
        self.assertEqual(done.returncode, code, error)
        self.assertTrue(error.startswith("steadyflux: error: "), error)
        self.assertEqual(error.count("\n"), 1, error)
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, error)
        self.assertEqual(done.stdout, b"")
        self.assertEqual(self.files(), before)
