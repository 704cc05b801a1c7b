"""scripts/check_arrows.py on small trees that break one rule each, and on one that breaks none."""

import pathlib
import subprocess
import sys
import tempfile

CHECK = pathlib.Path(__file__).resolve().parent.parent / "scripts" / "check_arrows.py"
CMAKE = """
steadyflux_module(base)
steadyflux_module(weights DEPS base nlohmann_json::nlohmann_json)
steadyflux_module(memory DEPS base)
steadyflux_module(nn TORCH DEPS weights)
steadyflux_module(vae TORCH DEPS nn memory)
"""
# file, include line, part of the message (None: allowed)
CASES = [
    ("weights/a.cpp", '#include "base/b.h"', None),
    ("nn/a.cpp", '#include "base/b.h"', None),
    ("nn/a.cpp", "#include <ATen/ATen.h>", None),
    ("base/a.h", "#include <memory>", None),
    ("base/a.h", '#include "weights/b.h"', "src/base/a.h:1: no arrow from base to weights"),
    ("weights/deep/a.h", '# include "memory/b.h"', "no arrow from weights to memory"),
    ("memory/a.cpp", "#include <c10/core/Device.h>", "memory is torch-free"),
    ("vae/a.cpp", '#include "memory/b.h"', "models know nothing of memory/"),
    ("odd/a.cpp", "", "src/odd is no steadyflux_module()"),
]


def main():
    for file, line, expected in CASES:
        with tempfile.TemporaryDirectory() as folder:
            top = pathlib.Path(folder)
            (top / "CMakeLists.txt").write_text(CMAKE)
            path = top / "src" / file
            path.parent.mkdir(parents=True)
            path.write_text(line + "\n")
            run = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)
        assert run.returncode == (0 if expected is None else 1), (file, line, run)
        assert expected is None or expected in run.stdout, (file, line, run.stdout)
    print(f"{len(CASES)} cases")


main()
