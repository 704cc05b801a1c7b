#include "cli/prompt_options.h"

#include <fmt/format.h>

#include "base/utf8.h"
#include "cli/option_values.h"

namespace steadyflux::cli {

void take_recorded_prompts(Request& request, const PictureMetadata& recorded) {
  request.prompt = recorded.prompt;
  request.prompt_2 = recorded.prompt_2;
  if (recorded.negative) {
    request.negative_prompt = recorded.negative->prompt;
    request.negative_prompt_2 = recorded.negative->prompt_2;
    request.true_cfg_scale = recorded.negative->true_cfg_scale;
  }
}

void apply_prompt_options(Request& request, const Layers& layers) {
  if (const auto text = layers.picture(&Options::prompt_2)) {
    check_prompt_text("--prompt-2", *text);
    request.prompt_2 = *text;
  }
  if (const auto text = layers.picture(&Options::negative_prompt)) {
    check_prompt_text("--negative-prompt", *text);
    request.negative_prompt = *text;
    request.negative_prompt_2.clear();  // what a record says is not meant for another prompt
  }
  if (const auto text = layers.picture(&Options::negative_prompt_2)) {
    if (!request.negative_prompt) {
      usage_error("--negative-prompt-2 without --negative-prompt: give what CLIP reads too");
    }
    check_prompt_text("--negative-prompt-2", *text);
    request.negative_prompt_2 = *text;
  }
  if (const auto text = layers.picture(&Options::true_cfg_scale)) {
    request.true_cfg_scale = parse_scale("true-cfg-scale", *text);
  }
}

void check_prompt_text(const char* name, const std::string& text) {
  if (!is_valid_utf8(text)) usage_error(fmt::format("{} is not UTF-8", name));
}

std::vector<std::string> guidance_warnings(const Request& request) {
  if (request.has_true_cfg()) return {};
  if (request.negative_prompt) {
    return {"--negative-prompt has no effect without a --true-cfg-scale above 1, such as 3.5"};
  }
  if (request.true_cfg_scale > 1) {
    return {"--true-cfg-scale has no effect without a --negative-prompt, which may be empty"};
  }
  return {};
}

}  // namespace steadyflux::cli
