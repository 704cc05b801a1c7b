#!/usr/bin/env python3
"""Checks that the #include lines of src/ follow the arrows between the modules.

The arrows are the DEPS of steadyflux_module() in CMakeLists.txt, taken transitively. Beyond them:
a module without TORCH includes nothing of libtorch, even where a dependency would let it compile,
and the models (nn, text_encoder, transformer, vae) never include memory/. Prints one line per
breach; exit status 1 if there is any.
"""

import pathlib
import re
import sys

TORCH_HEADERS = ("ATen/", "c10/", "torch/", "caffe2/")
MODELS = {"nn", "text_encoder", "transformer", "vae"}
# Parts of the public face belong to a module as well.
PUBLIC_HEADERS = {"steadyflux/error.h": "base", "steadyflux/pipeline.h": "pipeline"}
# What a module may use of the public face beyond its arrows: plain values without libtorch.
PUBLIC_VALUES = {"steadyflux/pipeline.h": {"image", "memory", "batch"}}


def read_arrows(cmake_text):
    """{module: set of modules it may include}, {modules with TORCH}."""
    direct, torch = {}, set()
    for body in re.findall(r"steadyflux_module\(([^)]*)\)", cmake_text):
        words = body.split()
        name, deps = words[0], words[words.index("DEPS") + 1:] if "DEPS" in words else []
        if "TORCH" in words:
            torch.add(name)
        direct[name] = [dep for dep in deps if "::" not in dep]

    def closure(name, seen):
        for dep in direct[name]:
            if dep not in direct:
                raise SystemExit(f"CMakeLists.txt: {name} depends on {dep}, which is no module "
                                 "declared before or after it")
            if dep not in seen:
                seen.add(dep)
                closure(dep, seen)
        return seen

    return {name: closure(name, set()) for name in direct}, torch


def breaches(top):
    arrows, torch = read_arrows((top / "CMakeLists.txt").read_text())
    for file in sorted((top / "src").glob("*/**/*")):
        if file.suffix not in (".h", ".cpp"):
            continue
        module = file.relative_to(top / "src").parts[0]
        where = file.relative_to(top)
        if module not in arrows:
            yield f"{where}: src/{module} is no steadyflux_module() of CMakeLists.txt"
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            match = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
            if not match:
                continue
            header = match.group(1)
            # <memory> is the standard library's, "memory/..." is ours.
            target = PUBLIC_HEADERS.get(header, header.split("/")[0] if "/" in header else module)
            if header.startswith(TORCH_HEADERS) and module not in torch:
                yield f"{where}:{number}: {module} is torch-free, but includes <{header}>"
            elif target == "memory" and module in MODELS:
                yield f"{where}:{number}: models know nothing of memory/, but this includes {header}"
            elif target in arrows and target != module and target not in arrows[module] \
                    and module not in PUBLIC_VALUES.get(header, ()):
                yield f"{where}:{number}: no arrow from {module} to {target}: {header}"


def main():
    top = pathlib.Path(__file__).resolve().parent.parent
    if len(sys.argv) > 1:
        top = pathlib.Path(sys.argv[1])
    found = list(breaches(top))
    for line in found:
        print(line)
    if not found:
        print("all #include lines follow the arrows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
