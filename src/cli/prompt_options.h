// What may be said beside the prompt: a text of its own for T5, and a negative prompt with true
// classifier-free guidance.
#pragma once

#include <string>
#include <vector>

#include "cli/layers.h"
#include "image/metadata.h"
#include "steadyflux/pipeline.h"

namespace steadyflux::cli {

// Those of a picture to repeat.
void take_recorded_prompts(Request& request, const PictureMetadata& recorded);

// --prompt-2, --negative-prompt, --negative-prompt-2, --true-cfg-scale. What is not given stays as
// it is. Throws Error{kUsage} that names the option.
void apply_prompt_options(Request& request, const Layers& layers);

// Throws Error{kUsage} if `text` is not UTF-8. `name` is how it is called: "the prompt".
void check_prompt_text(const char* name, const std::string& text);

// Says which of a negative prompt and its scale has no effect, as the other one is missing.
std::vector<std::string> guidance_warnings(const Request& request);

}  // namespace steadyflux::cli
