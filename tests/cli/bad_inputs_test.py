"""Gives the real program more than two hundred bad inputs. Each has to end with the right exit code,
one clear line, nothing on standard output and no file left behind; none may crash or hang.

Usage: bad_inputs_test.py PROGRAM MODEL_FOLDER [--only WORD] [--show] ...
--only runs the cases whose name holds the word (and may be repeated), --show prints every message."""

import argparse
import concurrent.futures
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from bad_inputs import command_lines, configs, files, memory, models, weights  # noqa: E402
from bad_inputs.case import run_case  # noqa: E402


def all_cases(program, model, without_memory_limits):
    return [*weights.cases(model), *configs.cases(), *models.cases(), *command_lines.cases(),
            *files.cases(), *([] if without_memory_limits else memory.cases(program))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--only", metavar="WORD", action="append", default=[])
    parser.add_argument("--time-limit", type=float, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-memory-limits", action="store_true",
                        help="for AddressSanitizer, whose shadow needs terabytes of address space")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    program, model = str(options.program.resolve()), options.model.resolve()

    cases = all_cases(program, model, options.no_memory_limits)
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})
    if options.only:
        cases = [c for c in cases if any(word in c.name for word in options.only)]
    else:
        assert len(cases) >= 200, f"only {len(cases)} cases"

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_case, c, program, model, options.time_limit) for c in cases]
        for case, run in zip(cases, runs):
            wrong, message = run.result()
            if options.show:
                print(f"{case.name}\n    {message}")
            if wrong:
                failed += 1
                print(f"FAILED {case.name}: {wrong}", flush=True)
    print(f"{len(cases) - failed} of {len(cases)} bad inputs handled as they should be")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
