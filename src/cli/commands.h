// The commands. Each returns when it is done and throws Error otherwise.
#pragma once

#include "cli/options.h"

namespace steadyflux::cli {

void run_generate(const CommandLine& line);
void run_upscale(const CommandLine& line);
void run_batch(const CommandLine& line);
void run_encode(const CommandLine& line);
void run_plan(const CommandLine& line);
void run_inspect(const CommandLine& line);
void run_quantize(const CommandLine& line);
void run_cache(const CommandLine& line);
void run_doctor(const CommandLine& line);

}  // namespace steadyflux::cli
